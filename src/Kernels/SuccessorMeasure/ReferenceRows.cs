using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What the references of this folder read and write: everything in double.</summary>
internal static unsafe class ReferenceRows
{
    /// <summary>float32, bfloat16 or float64 from <paramref name="from"/> on.</summary>
    public static double[] Widen(void* source, DType dtype, long from, long count)
    {
        var wide = new double[count];
        for (var i = 0L; i < count; i++)
        {
            wide[i] = dtype switch
            {
                DType.Float32 => ((float*)source)[from + i],
                DType.Float64 => ((double*)source)[from + i],
                _ => (float)((BFloat16*)source)[from + i],
            };
        }

        return wide;
    }

    /// <summary>Writes a gradient: float64 where the input was, else float32.</summary>
    public static void Narrow(double[] values, void* destination, DType input, long from)
    {
        for (var i = 0; i < values.Length; i++)
        {
            if (input == DType.Float64)
                ((double*)destination)[from + i] = values[i];
            else
                ((float*)destination)[from + i] = (float)values[i];
        }
    }
}
