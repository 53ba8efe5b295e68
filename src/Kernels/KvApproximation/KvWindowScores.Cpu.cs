using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class KvWindowScores
{
    // A thread gets at least this many logits: some 20 us of work, which waking it must be worth.
    private const long MinimumLogitsPerThread = 32 * 1024;

    private static unsafe void RunCpu(in KvWindowWork work)
    {
        var logits = (long)work.Heads * work.Rows * work.Positions;
        var threads = Math.Max(1, Math.Min(ThreadTeam.Count(logits, MinimumLogitsPerThread), work.Heads));
        var width = CpuSimd.ProductWidth; // the caller's, not a worker's
        if (threads == 1)
            Part(work, width, 0, work.Heads);
        else
            RunThreads(work, width, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(KvWindowWork work, SimdWidth width, int threads) =>
        ThreadTeam.Run(
            threads, part => Part(work, width, (int)((long)work.Heads * part / threads), (int)((long)work.Heads * (part + 1) / threads)));

    private static unsafe void Part(in KvWindowWork work, SimdWidth width, int from, int to)
    {
        using var scratch = new Scratch();
        var weights = scratch.Take<float>(work.Positions + FloatVector16.Count);
        delegate*<float*, float*, float*, int, float, float, void> add = width switch
        {
            SimdWidth.Bits512 => &AddSoftmax<FloatVector16>,
            SimdWidth.Bits256 => &AddSoftmax<FloatVector8>,
            SimdWidth.Bits128 => &AddSoftmax<FloatVector4>,
            _ => &AddSoftmax<FloatVector1>,
        };
        var factor = (float)(work.Scale * double.Log2(Math.E));
        for (var head = from; head < to; head++)
        {
            var scores = work.Scores(head);
            new Span<float>(scores, work.Positions).Clear();
            for (var row = 0; row < work.Rows; row++)
                add(work.Row(head, row), weights, scores, work.Seen(row), factor, 1f / work.Rows);
        }
    }

    /// <summary>Adds a row's softmax, times a share. Weights are powers of 2: the factor has log₂ e in it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void AddSoftmax<TVector>(
        float* logits, float* weights, float* scores, int count, float factor, float share)
        where TVector : struct, IFloatVector<TVector>
    {
        var lanes = stackalloc float[FloatVector16.Count];
        var factors = TVector.Broadcast(factor);
        var greatest = TVector.Broadcast(float.NegativeInfinity);
        var i = 0;
        for (; i <= count - TVector.Count; i += TVector.Count)
        {
            var x = TVector.Load(logits + i) * factors;
            greatest = TVector.Greater(x, greatest);
        }

        greatest.Store(lanes);
        var maximum = float.NegativeInfinity;
        for (var lane = 0; lane < TVector.Count; lane++)
            maximum = MathF.Max(maximum, lanes[lane]);
        for (; i < count; i++)
            maximum = MathF.Max(maximum, logits[i] * factor);

        var (shift, sums) = (TVector.Broadcast(maximum), TVector.Broadcast(0));
        for (i = 0; i <= count - TVector.Count; i += TVector.Count)
        {
            var weight = KvDecodeAttention.Exp2(TVector.Load(logits + i) * factors - shift);
            weight.Store(weights + i);
            sums += weight;
        }

        sums.Store(lanes);
        var total = 0f;
        for (var lane = 0; lane < TVector.Count; lane++)
            total += lanes[lane];
        for (; i < count; i++)
        {
            KvDecodeAttention.Exp2(new FloatVector1(logits[i] * factor - maximum)).Store(weights + i);
            total += weights[i];
        }

        var shares = TVector.Broadcast(share / total);
        for (i = 0; i <= count - TVector.Count; i += TVector.Count)
            TVector.MultiplyAdd(TVector.Load(weights + i), shares, TVector.Load(scores + i)).Store(scores + i);
        for (; i < count; i++)
            scores[i] = MathF.FusedMultiplyAdd(weights[i], share / total, scores[i]);
    }
}
