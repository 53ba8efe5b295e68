using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class TokenScores
{
    /// <summary>
    /// Keys are read once, where they lie: each is multiplied by all rows of queries that read its head. What the keys of a head get is
    /// kept apart until all heads are done, and added in their order, so that it does not matter which thread did which.
    /// </summary>
    private static unsafe void RunFewRows<T>(TokenScoresWork work) where T : unmanaged
    {
        using var scratch = new Scratch();
        var units = checked(work.Batch * work.KeyHeads);
        var threads = Threads(work, units);
        var rows = work.Group * work.Rows;
        var depth = DotLanes.Padded(work.Depth);
        var shares = scratch.Take<float>((long)units * work.Tokens);
        var queries = scratch.Take<float>((long)threads * rows * depth);
        var logits = scratch.Take<float>((long)threads * rows * work.Tokens);
        var dots = Dots<T>.For(CpuSimd.Width);
        if (threads == 1)
            HeadsOfKeys(work, dots, 0, units, queries, logits, shares);
        else
        {
            ThreadTeam.Run(threads, part =>
            {
                var (from, to) = Share(units, part, threads);
                HeadsOfKeys(
                    work, dots, from, to, queries + (long)part * rows * depth, logits + (long)part * rows * work.Tokens, shares);
            });
        }

        for (var b = 0; b < work.Batch; b++)
        {
            var scores = new Span<float>(work.Scores + (long)b * work.Tokens, work.Tokens);
            scores.Clear();
            for (var head = 0; head < work.KeyHeads; head++)
            {
                var share = new ReadOnlySpan<float>(shares + ((long)b * work.KeyHeads + head) * work.Tokens, work.Tokens);
                System.Numerics.Tensors.TensorPrimitives.Add(scores, share, scores);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void HeadsOfKeys<T>(
        in TokenScoresWork work, Dots<T> dots, int from, int to, float* queries, float* logits, float* shares)
        where T : unmanaged
    {
        var depth = DotLanes.Padded(work.Depth);
        for (var unit = from; unit < to; unit++)
        {
            var (b, head) = (unit / work.KeyHeads, unit % work.KeyHeads);
            for (var row = 0; row < work.Group * work.Rows; row++)
            {
                var at = work.QueryAt(b, head * work.Group + row / work.Rows, row % work.Rows);
                DotLanes.Scaled((T*)work.Queries + at, work.Depth, work.Scale, queries + (long)row * depth);
            }

            var keys = (T*)work.Keys + work.KeyAt(b, head, 0);
            dots.Run(keys, work.KeyStep.Row, work.Tokens, work.Depth, queries, work.Group * work.Rows, logits);
            var share = shares + (long)unit * work.Tokens;
            new Span<float>(share, work.Tokens).Clear();
            for (var row = 0; row < work.Group * work.Rows; row++)
            {
                var (queryHead, i) = (head * work.Group + row / work.Rows, row % work.Rows);
                var seen = work.Seen(i);
                var values = logits + (long)row * work.Tokens;
                if (work.LogSumExp != null)
                    ExpSums.Add(values, seen, work.LogSumExpOf(b, queryHead, i), work.Weight(queryHead), share);
                else
                    ExpSums.AddNormalised(values, seen, work.Weight(queryHead), share);
            }
        }
    }

    /// <summary>Dot products of a few queries with many keys, for one vector width.</summary>
    private readonly unsafe struct Dots<T>(delegate*<T*, long, int, int, float*, int, float*, void> run) where T : unmanaged
    {
        private readonly delegate*<T*, long, int, int, float*, int, float*, void> _run = run;

        public static Dots<T> For(SimdWidth width) => width switch
        {
            SimdWidth.Bits512 => new(&DotLanes.Run<FloatVector16, T>),
            SimdWidth.Bits256 => new(&DotLanes.Run<FloatVector8, T>),
            SimdWidth.Bits128 => new(&DotLanes.Run<FloatVector4, T>),
            _ => new(&DotLanes.Run<FloatVector1, T>),
        };

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public void Run(T* keys, long step, int tokens, int depth, float* queries, int rows, float* logits) =>
            _run(keys, step, tokens, depth, queries, rows, logits);
    }
}
