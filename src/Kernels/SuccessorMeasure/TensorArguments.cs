using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Checks of tensors that several ops make; all of them before any work.</summary>
internal static class TensorArguments
{
    /// <summary>Refuses a view that is not of a dtype, shape and device, not contiguous, or whose memory was freed.</summary>
    public static void Require(in TensorView view, string name, ReadOnlySpan<DType> dtypes, ReadOnlySpan<long> shape, AuxDevice device)
    {
        if (!view.Shape.SequenceEqual(shape))
            throw new ArgumentException($"{name}: {view} does not match shape {TensorView.Format(shape)}", name);
        if (!dtypes.Contains(view.DType))
        {
            var allowed = string.Join(" or ", dtypes.ToArray().Select(dtype => dtype.Name()));
            throw new ArgumentException($"{name}: {view}; {allowed} is needed", name);
        }

        if (!view.IsContiguous)
            throw new ArgumentException($"{name}: {view} is not contiguous; pass a contiguous tensor", name);
        if (view.Device != device)
            throw new ArgumentException($"{name}: {view}, but the first tensor is on {device}", name);
        if (view.Owner is IDeviceMemory { IsDisposed: true } owner)
            throw new ObjectDisposedException(owner.GetType().Name, $"{name}: its memory was freed");
    }

    /// <summary>Refuses a span of another length than a shape's.</summary>
    public static void RequireLength(int length, string name, params ReadOnlySpan<long> shape)
    {
        var elements = 1L;
        foreach (var size in shape)
            elements *= size;
        if (length != elements)
            throw new ArgumentException($"{name}: {length} elements do not match shape {TensorView.Format(shape)}", name);
    }

    /// <summary>What is written shares its memory with nothing; what is only read may share it with its like.</summary>
    public static void RequireDisjoint(ReadOnlySpan<NamedRange> read, ReadOnlySpan<NamedRange> written)
    {
        for (var i = 0; i < written.Length; i++)
        {
            foreach (var other in (ReadOnlySpan<NamedRange>)[.. read, .. written[..i]])
            {
                if (written[i].Overlaps(other))
                {
                    throw new ArgumentException(
                        $"{written[i].Name} overlaps {other.Name} in memory; what is written needs memory of its own", written[i].Name);
                }
            }
        }
    }
}

/// <summary>A stretch of memory under the name that a message gives it.</summary>
internal readonly unsafe struct NamedRange(string name, void* address, long bytes)
{
    private readonly nuint _begin = (nuint)address;
    private readonly nuint _bytes = (nuint)bytes;

    public string Name => name;

    public bool Overlaps(in NamedRange other) =>
        _bytes > 0 && other._bytes > 0 && _begin < other._begin + other._bytes && other._begin < _begin + _bytes;
}
