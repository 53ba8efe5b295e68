using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>A type of elements that an ILGPU kernel tells apart; those of 16 bits share a view.</summary>
internal enum FloatKind
{
    Float32,
    BFloat16,
    Float16,
}

/// <summary>Elements' types as kernels know them.</summary>
internal static class FloatKinds
{
    /// <summary>Of float32, bfloat16 or float16.</summary>
    public static FloatKind Of(DType type) => type switch
    {
        DType.Float32 => FloatKind.Float32,
        DType.BFloat16 => FloatKind.BFloat16,
        _ => FloatKind.Float16,
    };
}
