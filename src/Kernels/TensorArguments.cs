using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Argument checks that ops share. They run before any work, and name the culprit.</summary>
internal static class TensorArguments
{
    /// <summary>The exception for a member of an argument.</summary>
    public static ArgumentException Refused(string message, string parameter) => new(message, parameter);

    public static void RequireAtLeastOne(string name, long count)
    {
        if (count < 1)
            throw new ArgumentOutOfRangeException(name, count, $"{name} must be at least 1.");
    }

    public static void RequireLength(string name, long actual, long expected, string parameter)
    {
        if (actual != expected)
            throw new ArgumentException($"{name}: {actual} elements do not match shape [{expected}]", parameter);
    }

    public static void RequireLength(string name, long actual, long rows, long columns, string parameter)
    {
        if (actual != rows * columns)
            throw new ArgumentException($"{name}: {actual} elements do not match shape [{rows}, {columns}]", parameter);
    }

    public static void RequireLength(string name, long actual, ReadOnlySpan<long> shape)
    {
        var expected = 1L;
        foreach (var size in shape)
            expected *= size;
        if (actual != expected)
            throw new ArgumentException($"{name}: {actual} elements do not match shape {TensorView.Format(shape)}", name);
    }

    /// <summary>An output that may be left out: empty, or of the expected length.</summary>
    public static void RequireEmptyOrLength(string name, long actual, long expected, string parameter)
    {
        if (actual != 0)
            RequireLength(name, actual, expected, parameter);
    }

    /// <summary>Refuses a view that is not of a dtype, shape and device, or not contiguous.</summary>
    public static void Require(
        in TensorView view, string name, ReadOnlySpan<DType> dtypes, ReadOnlySpan<long> shape, AuxDevice device, string parameter)
    {
        if (!dtypes.Contains(view.DType))
        {
            var allowed = string.Join(" or ", dtypes.ToArray().Select(dtype => dtype.Name()));
            throw new ArgumentException($"{name}: {view}, but {allowed} is needed", parameter);
        }

        if (!view.Shape.SequenceEqual(shape))
            throw new ArgumentException($"{name}: {view} does not match shape {TensorView.Format(shape)}", parameter);
        if (!view.IsContiguous)
            throw new ArgumentException($"{name}: {view} is not contiguous; pass a contiguous tensor", parameter);
        if (view.Device != device)
            throw new ArgumentException($"{name}: {view}, but the other tensors are on {device}", parameter);
        if (view.Owner is IDeviceMemory { IsDisposed: true } owner)
            throw new ObjectDisposedException(owner.GetType().Name, $"{name}: its memory was freed");
    }

    /// <summary>Refuses a workspace in device memory that is missing, too small, or not on a boundary of 256 bytes.</summary>
    public static void RequireWorkspace(in TensorView workspace, string name, long bytes, AuxDevice device)
    {
        const int Alignment = 256;
        if (!IsWanted(workspace))
            throw new ArgumentException($"{name}: missing; uint8[{bytes}] or more is needed on {device}", name);
        if (workspace.Shape.Length != 1 || workspace.ElementCount < bytes)
            throw new ArgumentException($"{name}: {workspace}, but uint8[{bytes}] or more is needed on {device}", name);
        Require(workspace, name, [DType.UInt8], [workspace.ElementCount], device, name);
        if (workspace.Address % Alignment != 0)
            throw new ArgumentException($"{name}: {workspace} is not aligned to {Alignment} bytes", name);
    }

    /// <summary>Whether an optional view was given.</summary>
    public static bool IsWanted(in TensorView view) => view.Address != 0;

    /// <summary>An output that may be left out. Whether it was not.</summary>
    public static bool RequireIfWanted(
        in TensorView view, string name, DType dtype, ReadOnlySpan<long> shape, AuxDevice device, string parameter)
    {
        if (!IsWanted(view))
            return false;
        Require(view, name, [dtype], shape, device, parameter);
        return true;
    }

    /// <summary>
    /// A float64 scalar that may be left out. On a device it is summed from parts, which then may not be left out. Whether it was not.
    /// </summary>
    public static bool RequireLoss(in TensorView loss, in TensorView parts, string nameOfParts, AuxDevice device)
    {
        const string Name = "outputs.Loss";
        if (!RequireIfWanted(loss, Name, DType.Float64, loss.Shape, device, "outputs"))
            return false;
        if (loss.ElementCount != 1)
            throw Refused($"{Name}: {loss} has not one element", Name);
        if (device.Kind != AuxDeviceKind.Host && !IsWanted(parts))
            throw new ArgumentException($"{nameOfParts}: missing; on {device} the loss is summed from them", nameOfParts);
        return true;
    }

    /// <summary>Refuses a matrix that is not of rank 2, and gives its sizes.</summary>
    public static (long Rows, long Columns) RequireMatrix(in TensorView view, string name)
    {
        if (view.Shape.Length != 2)
            throw new ArgumentException($"{name}: {view} is not of rank 2", name);
        return (view.Shape[0], view.Shape[1]);
    }

    /// <summary>Refuses indices that are not below a limit. Host memory only.</summary>
    public static void RequireIndices(ReadOnlySpan<int> indices, int limit, string name)
    {
        for (var i = 0; i < indices.Length; i++)
        {
            if ((uint)indices[i] >= (uint)limit)
                throw new ArgumentOutOfRangeException(name, indices[i], $"{name}[{i}] is not within 0 and {limit - 1}.");
        }
    }

    /// <summary>Keeps the owners of memory alive up to this call.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void KeepAlive(params ReadOnlySpan<object?> owners) => _ = owners.Length;

    /// <summary>Memory that is written must not share a byte with other memory of the same call.</summary>
    public static void RequireDisjoint(params ReadOnlySpan<NamedMemory> memory)
    {
        for (var i = 0; i < memory.Length; i++)
        {
            for (var k = 0; k < i; k++)
            {
                if ((memory[i].IsWritten || memory[k].IsWritten) && memory[i].Overlaps(memory[k]))
                {
                    throw new ArgumentException(
                        $"{memory[i].Name} overlaps {memory[k].Name} in memory; what is written needs memory of its own");
                }
            }
        }
    }
}

/// <summary>A stretch of memory that an op reads or writes.</summary>
internal readonly unsafe struct NamedMemory
{
    private readonly nuint _begin;
    private readonly nuint _bytes;

    private NamedMemory(string name, void* address, long bytes, bool isWritten) =>
        (Name, _begin, _bytes, IsWritten) = (name, (nuint)address, (nuint)bytes, isWritten);

    public string Name { get; }

    public bool IsWritten { get; }

    public static NamedMemory Read(string name, void* address, long bytes) => new(name, address, bytes, false);

    public static NamedMemory Written(string name, void* address, long bytes) => new(name, address, bytes, true);

    public bool Overlaps(in NamedMemory other) =>
        _bytes > 0 && other._bytes > 0 && _begin < other._begin + other._bytes && other._begin < _begin + _bytes;
}
