using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The element types as the references read and write them, one element at a time.</summary>
internal static unsafe class ReferenceFormat
{
    public static float Widen(void* source, DType dtype, long i) => dtype switch
    {
        DType.Float32 => ((float*)source)[i],
        DType.BFloat16 => ((BFloat16*)source)[i],
        _ => (float)((Half*)source)[i],
    };

    public static float Round(float value, DType dtype) => dtype switch
    {
        DType.Float32 => value,
        DType.BFloat16 => (BFloat16)value,
        _ => (float)(Half)value,
    };

    public static void Store(void* destination, DType dtype, long i, float value)
    {
        switch (dtype)
        {
            case DType.Float32:
                ((float*)destination)[i] = value;
                break;
            case DType.BFloat16:
                ((BFloat16*)destination)[i] = (BFloat16)value;
                break;
            default:
                ((Half*)destination)[i] = (Half)value;
                break;
        }
    }
}
