using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Finds the first element that is NaN or infinite, for a caller whose loss came out as NaN.</summary>
internal static unsafe class NonFinite
{
    /// <summary>Refuses a matrix with such an element, by name, row and column.</summary>
    /// <param name="values">[rows, columns], float32 or bfloat16, on the host.</param>
    /// <param name="dtype">Which of them.</param>
    /// <param name="rows">The number of rows.</param>
    /// <param name="columns">The number of columns.</param>
    /// <param name="name">What the message calls it.</param>
    /// <param name="skip">One a row: not 0 where the row does not count. Null where all do.</param>
    public static void Refuse(void* values, DType dtype, long rows, long columns, string name, byte* skip = null)
    {
        for (var row = 0L; row < rows; row++)
        {
            if (skip != null && skip[row] != 0)
                continue;
            for (var column = 0L; column < columns; column++)
            {
                var at = row * columns + column;
                var value = dtype == DType.Float32 ? ((float*)values)[at] : ((BFloat16*)values)[at];
                if (!float.IsFinite(value))
                    throw new ArgumentException($"{name}: row {row}, column {column} of {dtype.Name()}[{rows}, {columns}] is {value}",
                        name);
            }
        }
    }

    /// <summary>Refuses a vector with such an element, by name and place.</summary>
    public static void Refuse(float* values, long count, string name)
    {
        for (var i = 0L; i < count; i++)
        {
            if (!float.IsFinite(values[i]))
                throw new ArgumentException($"{name}: element {i} of float32[{count}] is {values[i]}", name);
        }
    }
}
