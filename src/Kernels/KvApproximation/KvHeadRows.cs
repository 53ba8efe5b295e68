using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The heads of some tokens, before norm and rotation.</summary>
internal readonly unsafe struct KvHeadRows
{
    /// <summary>Null where there are none.</summary>
    public byte* First { get; init; }

    public DType Type { get; init; }

    public int Heads { get; init; }

    /// <summary>d.</summary>
    public int HeadDim { get; init; }

    /// <summary>Bytes from one token to the next.</summary>
    public long TokenStep { get; init; }

    /// <summary>[heads, d] that is added; null for none.</summary>
    public float* Bias { get; init; }

    /// <summary>[d] weights of the RMS norm; null for none.</summary>
    public float* Norm { get; init; }

    public void* Row(long token, int head) => First + token * TokenStep + (long)head * HeadDim * Type.Size();

    /// <summary>Bytes between the first and the last, both counted.</summary>
    public long Extent(long tokens) =>
        First == null || tokens == 0 ? 0 : (tokens - 1) * TokenStep + (long)Heads * HeadDim * Type.Size();

    /// <summary>The stretches that tokens are.</summary>
    public StridedMemory Strided(long tokens) => new(First, TokenStep, tokens, (long)Heads * HeadDim * Type.Size());

    /// <summary>The memory of rows, bias and norm, for checks of overlap.</summary>
    public NamedMemory[] Memory(string name, long tokens) =>
    [
        NamedMemory.Read($"{name}s", First, Extent(tokens)),
        NamedMemory.Read($"{name}Bias", Bias, Bias == null ? 0 : (long)Heads * HeadDim * sizeof(float)),
        NamedMemory.Read($"{name}Norm", Norm, Norm == null ? 0 : HeadDim * (long)sizeof(float)),
    ];

    /// <summary>Takes [T, heads, d] apart, or refuses it.</summary>
    public static KvHeadRows Of(
        in TensorView view, string name, ReadOnlySpan<long> shape, DType type, in TensorView norm, string normName, AuxDevice device,
        string parameter)
    {
        RequireRows(view, name, shape, type, device, parameter);
        TensorArguments.RequireIfWanted(norm, normName, DType.Float32, shape[2..], device, parameter);
        return new()
        {
            First = (byte*)view.Address,
            Type = view.DType,
            Heads = (int)shape[1],
            HeadDim = (int)shape[2],
            TokenStep = view.Strides()[0] * view.DType.Size(),
            Norm = (float*)norm.Address,
        };
    }

    /// <summary>Refuses what is not [T, heads, d], dense but for the tokens.</summary>
    public static void RequireRows(
        in TensorView view, string name, ReadOnlySpan<long> shape, DType type, AuxDevice device, string parameter)
    {
        if (view.DType != type)
            throw TensorArguments.Refused($"{name}: {view}, but {type.Name()} is needed", parameter);
        if (!view.Shape.SequenceEqual(shape))
            throw TensorArguments.Refused($"{name}: {view} does not match shape {TensorView.Format(shape)}", parameter);
        if (!view.IsContiguous)
        {
            var strides = view.Strides();
            if ((strides[2] != 1 && shape[2] > 1) || (strides[1] != shape[2] && shape[1] > 1)
                || (strides[0] < shape[1] * shape[2] && shape[0] > 1))
                throw TensorArguments.Refused($"{name}: {view}; the heads of a token must be dense", parameter);
        }

        if (view.Device != device)
            throw TensorArguments.Refused($"{name}: {view}, but the other tensors are on {device}", parameter);
        if (view.Owner is IDeviceMemory { IsDisposed: true } owner)
            throw new ObjectDisposedException(owner.GetType().Name, $"{name}: its memory was freed");
    }
}
