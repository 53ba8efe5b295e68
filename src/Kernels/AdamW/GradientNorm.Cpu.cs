using System.Buffers;
using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class GradientNorm
{
    private const int ChunkSums = 32;   // as many as the widest vectors make use of, and as a warp of CUDA has lanes
    private const int FinalSums = 256;
    private const long MinimumElementsPerThread = 128 * 1024;

    private static GradientSummary RunCpu(in AdamWWork work)
    {
        var chunks = Chunks(work, work.TensorCount);
        if (chunks == 0)
            return default;
        var sums = ArrayPool<double>.Shared.Rent((int)chunks);
        try
        {
            var pass = new NormPass(work, sums, ChunkLoops.For(CpuSimd.Width));
            var threads = ThreadTeam.Count(work.ElementCount, MinimumElementsPerThread);
            var nonFinite = threads == 1 ? RunRange(pass, 0, chunks) : RunThreads(pass, chunks, threads);
            return new(Fold(sums.AsSpan(0, (int)chunks)), nonFinite);
        }
        finally
        {
            ArrayPool<double>.Shared.Return(sums);
        }
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static long RunThreads(NormPass pass, long chunks, int threads)
    {
        var nonFinite = 0L;
        ThreadTeam.Run(threads, part =>
        {
            var found = RunRange(pass, chunks * part / threads, chunks * (part + 1) / threads);
            Interlocked.Add(ref nonFinite, found);
        });
        return nonFinite;
    }

    /// <summary>Fills the sums of a range of chunks; returns how many of their elements are not finite.</summary>
    private static unsafe long RunRange(in NormPass pass, long from, long to)
    {
        var nonFinite = 0L;
        var chunk = 0L;
        for (var tensor = 0; tensor < pass.Work.TensorCount && chunk < to; tensor++)
        {
            ref readonly var row = ref pass.Work.Row(tensor);
            var count = pass.Work.Count(tensor);
            var end = chunk + Chunks(row, count);
            for (var at = Math.Max(chunk, from); at < Math.Min(end, to); at++)
            {
                var begin = (at - chunk) * ChunkElements;
                var address = (byte*)row.Gradient + begin * row.GradientType.Size();
                var elements = (int)Math.Min(count - begin, ChunkElements);
                var sum = pass.Loops.Sum(address, row.GradientType, elements);
                pass.Sums[at] = sum;
                if (!double.IsFinite(sum)) // only then is it worth looking for them
                    nonFinite += CountNonFinite(address, row.GradientType, elements);
            }

            chunk = end;
        }

        return nonFinite;
    }

    private static long Chunks(in AdamWWork work, int tensors)
    {
        var chunks = 0L;
        for (var tensor = 0; tensor < tensors; tensor++)
            chunks += Chunks(work.Row(tensor), work.Count(tensor));
        return chunks;
    }

    private static long Chunks(in AdamWRow row, long count) => row.Gradient == 0 ? 0 : (count + ChunkElements - 1) / ChunkElements;

    private static double Fold(ReadOnlySpan<double> chunks)
    {
        Span<double> sums = stackalloc double[FinalSums];
        sums.Clear();
        for (var i = 0; i < chunks.Length; i++)
            sums[i % FinalSums] += chunks[i];
        return FoldHalves(sums);
    }

    private static double FoldHalves(Span<double> sums)
    {
        for (var half = sums.Length / 2; half > 0; half /= 2)
        {
            for (var i = 0; i < half; i++)
                sums[i] += sums[i + half];
        }

        return sums[0];
    }

    private static unsafe long CountNonFinite(void* gradient, DType dtype, int count)
    {
        var nonFinite = 0L;
        for (var i = 0; i < count; i++)
        {
            if (!float.IsFinite(ReferenceFormat.Widen(gradient, dtype, i)))
                nonFinite++;
        }

        return nonFinite;
    }

    private readonly record struct NormPass(AdamWWork Work, double[] Sums, ChunkLoops Loops);

    /// <summary>The loops for one vector width.</summary>
    private readonly unsafe struct ChunkLoops
    {
        private readonly delegate*<void*, DType, int, double> _sum;

        private ChunkLoops(delegate*<void*, DType, int, double> sum) => _sum = sum;

        public static ChunkLoops For(SimdWidth width) => width switch
        {
            SimdWidth.Bits512 => new(&Sum<FloatVector16>),
            SimdWidth.Bits256 => new(&Sum<FloatVector8>),
            SimdWidth.Bits128 => new(&Sum<FloatVector4>),
            _ => new(&Sum<FloatVector1>),
        };

        /// <summary>The sum of squares of one chunk.</summary>
        public double Sum(void* gradient, DType dtype, int count) => _sum(gradient, dtype, count);
    }

    private static unsafe double Sum<TVector>(void* gradient, DType dtype, int count) where TVector : struct, IFloatVector<TVector> =>
        dtype switch
        {
            DType.Float32 => Sum<TVector, float>((float*)gradient, count),
            DType.BFloat16 => Sum<TVector, BFloat16>((BFloat16*)gradient, count),
            _ => Sum<TVector, Half>((Half*)gradient, count),
        };

    [SkipLocalsInit]
    private static unsafe double Sum<TVector, T>(T* gradient, int count)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var sums = stackalloc double[ChunkSums];
        new Span<double>(sums, ChunkSums).Clear();
        var whole = count / ChunkSums * ChunkSums;
        TVector.AddSquares(gradient, whole, sums);
        FloatVector1.AddSquares(gradient + whole, count - whole, sums);
        return FoldHalves(new(sums, ChunkSums));
    }
}
