using static TorchSharp.torch;

namespace AuxCore.Models;

/// <summary>An element type that both the safetensors format and libtorch have.</summary>
internal sealed record SafetensorsDtype(string Name, ScalarType Type, int Size)
{
    // In the order in which the reference writer lays tensors out: larger elements first, so that each tensor is aligned.
    private static readonly SafetensorsDtype[] All =
    [
        new("I64", ScalarType.Int64, 8),
        new("F64", ScalarType.Float64, 8),
        new("F32", ScalarType.Float32, 4),
        new("I32", ScalarType.Int32, 4),
        new("BF16", ScalarType.BFloat16, 2),
        new("F16", ScalarType.Float16, 2),
        new("I16", ScalarType.Int16, 2),
        new("I8", ScalarType.Int8, 1),
        new("U8", ScalarType.Byte, 1),
        new("BOOL", ScalarType.Bool, 1),
    ];

    /// <summary>The names, for messages.</summary>
    public static string Names { get; } = string.Join(", ", All.Select(dtype => dtype.Name));

    /// <summary>The place in the reference writer's layout.</summary>
    public int Rank => Array.IndexOf(All, this);

    public static SafetensorsDtype? Find(string? name) => Array.Find(All, dtype => dtype.Name == name);

    public static SafetensorsDtype? Find(ScalarType type) => Array.Find(All, dtype => dtype.Type == type);

    /// <summary>The size in bytes of a tensor of this type; false where its size, or a stride of it, exceeds 64 bits.</summary>
    public bool TryByteCount(long[] shape, out long bytes)
    {
        Int128 strides = Size;
        bool empty = false;
        bytes = 0;
        foreach (long extent in shape)
        {
            empty |= extent == 0;
            strides *= Math.Max(extent, 1); // libtorch computes strides past an extent of 0 too
            if (strides > long.MaxValue) return false;
        }

        bytes = empty ? 0 : (long)strides;
        return true;
    }
}
