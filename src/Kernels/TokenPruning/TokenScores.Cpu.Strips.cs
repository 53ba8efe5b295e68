using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class TokenScores
{
    private const int StripRows = 32;

    /// <summary>
    /// Many rows, whose log-sum-exp is not known, and not too many keys: strips of 32 rows and all keys of a head. What the keys get from
    /// each head is kept apart until all heads are done, and added in their order, so that it does not matter which thread did which.
    /// </summary>
    private static void RunStrips<T>(in TokenScoresWork work) where T : unmanaged
    {
        switch (CpuSimd.ProductWidth)
        {
            case SimdWidth.Bits512:
                RunStrips<T, Lanes512<float>>(work);
                break;
            case SimdWidth.Bits256:
                RunStrips<T, Lanes256<float>>(work);
                break;
            case SimdWidth.Bits128:
                RunStrips<T, Lanes128<float>>(work);
                break;
            default:
                RunStrips<T, Lanes1<float>>(work);
                break;
        }
    }

    private static unsafe void RunStrips<T, TLanes>(TokenScoresWork work)
        where T : unmanaged
        where TLanes : struct, ILanes<TLanes, float>
    {
        using var scratch = new Scratch();
        var units = checked(work.Batch * work.QueryHeads);
        var threads = Threads(work, units);
        var totals = scratch.Take<double>((long)units * work.Tokens);
        var spaces = new TileSpace[threads];
        for (var part = 0; part < threads; part++)
            spaces[part] = new TileSpace(scratch, work, work.Tokens);

        ThreadTeam.Run(threads, part =>
        {
            var (from, to) = Share(units, part, threads);
            for (var unit = from; unit < to; unit++)
                ScoreHead<T, TLanes>(work, unit, isNew: unit == from, spaces[part], totals + (long)unit * work.Tokens);
        });

        for (var b = 0; b < work.Batch; b++)
        {
            for (var token = 0; token < work.Tokens; token++)
            {
                var score = 0.0;
                for (var head = 0; head < work.QueryHeads; head++)
                    score += totals[((long)b * work.QueryHeads + head) * work.Tokens + token];
                work.Scores[(long)b * work.Tokens + token] = (float)score;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void ScoreHead<T, TLanes>(in TokenScoresWork work, int unit, bool isNew, in TileSpace space, double* totals)
        where T : unmanaged
        where TLanes : struct, ILanes<TLanes, float>
    {
        var (b, head) = (unit / work.QueryHeads, unit % work.QueryHeads);
        if (isNew || head % work.Group == 0)
            Transpose<T>(work, b, head / work.Group, 0, work.Tokens, space);
        new Span<double>(totals, work.Tokens).Clear();
        for (var row = 0; row < work.Rows; row += StripRows)
        {
            var rows = Math.Min(StripRows, work.Rows - row);
            Logits<T, TLanes>(work, b, head, row, rows, work.Seen(row + rows - 1), space);
            new Span<float>(space.Sums, work.Tokens).Clear();
            for (var i = 0; i < rows; i++)
                ExpSums.AddNormalised(space.Logits + (long)i * space.KeyStep, work.Seen(row + i), 1, space.Sums);
            var weight = (double)work.Weight(head);
            for (var token = 0; token < work.Tokens; token++)
                totals[token] += weight * space.Sums[token];
        }
    }
}
