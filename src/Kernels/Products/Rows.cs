using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Rows of a matrix on their way into the blocks that <see cref="BlockedProduct{T, TLanes}"/> works on. Every conversion is exact.
/// </summary>
internal static unsafe class Rows
{
    /// <summary>Copies a row and fills the rest of it, up to <paramref name="step"/> elements, with zeros.</summary>
    /// <param name="source">float, <see cref="BFloat16"/> or double.</param>
    /// <param name="destination">float or double, not narrower than the source.</param>
    /// <param name="count">Elements of the source.</param>
    /// <param name="step">Elements of the destination.</param>
    public static void Copy<TIn, T>(TIn* source, T* destination, int count, int step)
        where TIn : unmanaged
        where T : unmanaged
    {
        if (typeof(TIn) == typeof(T))
            NativeMemory.Copy(source, destination, (nuint)(count * sizeof(T)));
        else if (typeof(TIn) == typeof(float))
            Widen((float*)source, (double*)destination, count);
        else
            Widen((BFloat16*)source, destination, count);
        Zero(destination + count, step - count);
    }

    /// <summary>Makes a row zero.</summary>
    public static void Zero<T>(T* row, int step) where T : unmanaged => NativeMemory.Clear(row, (nuint)(step * sizeof(T)));

    /// <summary>Copies rows side by side into columns: element k of row r to [k, r]; the rest is zero.</summary>
    /// <param name="source">Rows of <paramref name="count"/> elements, one after the other.</param>
    /// <param name="rows">How many there are.</param>
    /// <param name="count">Elements of a row.</param>
    /// <param name="destination">[count, columns].</param>
    /// <param name="columns">Elements from one row of the destination to the next, at least <paramref name="rows"/>.</param>
    public static void Transpose<TIn, T>(TIn* source, int rows, int count, T* destination, int columns)
        where TIn : unmanaged
        where T : unmanaged, INumberBase<T>
    {
        for (var k = 0; k < count; k++)
        {
            var to = destination + (long)k * columns;
            for (var r = 0; r < rows; r++)
                to[r] = Widen<TIn, T>(source[(long)r * count + k]);
            Zero(to + rows, columns - rows);
        }
    }

    /// <summary>One element.</summary>
    public static T Widen<TIn, T>(TIn value)
        where TIn : unmanaged
        where T : unmanaged, INumberBase<T> =>
        typeof(TIn) == typeof(float) ? T.CreateTruncating(*(float*)&value)
        : typeof(TIn) == typeof(double) ? T.CreateTruncating(*(double*)&value)
        : T.CreateTruncating((float)*(BFloat16*)&value);

    private static void Widen(float* source, double* destination, int count)
    {
        var i = 0;
        for (; i <= count - Vector256<float>.Count; i += Vector256<float>.Count)
        {
            var (lower, upper) = Vector256.Widen(Vector256.Load(source + i));
            lower.Store(destination + i);
            upper.Store(destination + i + Vector256<double>.Count);
        }

        for (; i < count; i++)
            destination[i] = source[i];
    }

    private static void Widen<T>(BFloat16* source, T* destination, int count) where T : unmanaged
    {
        var i = 0;
        for (; i <= count - Vector256<float>.Count; i += Vector256<float>.Count)
        {
            var bits = Vector256.WidenLower(Vector128.Load((ushort*)source + i).ToVector256Unsafe());
            var wide = (bits << 16).AsSingle();
            if (typeof(T) == typeof(float))
                wide.Store((float*)destination + i);
            else
            {
                var (lower, upper) = Vector256.Widen(wide);
                lower.Store((double*)destination + i);
                upper.Store((double*)destination + i + Vector256<double>.Count);
            }
        }

        for (; i < count; i++)
        {
            if (typeof(T) == typeof(float))
                ((float*)destination)[i] = source[i];
            else
                ((double*)destination)[i] = source[i];
        }
    }
}
