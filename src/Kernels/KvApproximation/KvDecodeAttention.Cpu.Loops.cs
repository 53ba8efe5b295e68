using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvDecodeAttention
{
    /// <summary>The loops over a chunk for one vector width and the formats of keys and values.</summary>
    private readonly unsafe struct KvAttentionLoops(
        delegate*<float*, byte*, int, int, int, float*, float, float*, void> score, delegate*<float*, int, float*, void> weigh,
        delegate*<float*, byte*, int, int, int, float*, float, float*, void> mix)
    {
        private readonly delegate*<float*, byte*, int, int, int, float*, float, float*, void> _score = score;
        private readonly delegate*<float*, int, float*, void> _weigh = weigh;
        private readonly delegate*<float*, byte*, int, int, int, float*, float, float*, void> _mix = mix;

        public static KvAttentionLoops For(SimdWidth width, KvFormat keys, KvFormat values) => width switch
        {
            SimdWidth.Bits512 => For<FloatVector16, FloatVector16>(keys, values),
            SimdWidth.Bits256 => For<FloatVector8, FloatVector8>(keys, values),
            SimdWidth.Bits128 => For<FloatVector4, FloatVector4>(keys, values),
            _ => For<FloatVector1, FloatVector4>(keys, values), // the scores of a block lie in four lanes
        };

        private static KvAttentionLoops For<TVector, TLanes>(KvFormat keys, KvFormat values)
            where TVector : struct, IFloatVector<TVector>
            where TLanes : struct, IFloatVector<TLanes> =>
            new(
                keys switch
                {
                    KvFormat.F32 => &Score<TVector, ElementRow<float>>,
                    KvFormat.F16 => &Score<TVector, ElementRow<Half>>,
                    KvFormat.BF16 => &Score<TVector, ElementRow<BFloat16>>,
                    KvFormat.Fp8E4M3 => &Score<TVector, E4M3Row>,
                    KvFormat.Q8_0 => &Score<TVector, Q8Row>,
                    KvFormat.Q4_0 => &Score<TVector, Q4Row>,
                    _ => &ScoreBlocks<TVector>,
                },
                &Weigh<TLanes>,
                values switch
                {
                    KvFormat.F32 => &Mix<TVector, ElementRow<float>>,
                    KvFormat.F16 => &Mix<TVector, ElementRow<Half>>,
                    KvFormat.BF16 => &Mix<TVector, ElementRow<BFloat16>>,
                    KvFormat.Fp8E4M3 => &Mix<TVector, E4M3Row>,
                    KvFormat.Q8_0 => &Mix<TVector, Q8Row>,
                    KvFormat.Q4_0 => &Mix<TVector, Q4Row>,
                    _ => &Mix<TVector, KiviRow>,
                });

        /// <summary>Scores [count, block] of queries [block, d] and keys that lie side by side.</summary>
        public void Score(float* query, byte* keys, int count, int d, int heads, float* scores, float headScale, float* scales) =>
            _score(query, keys, count, d, heads, scores, headScale, scales);

        /// <summary>Scores become weights; a block's maxima, then its sums of weights, are stored.</summary>
        public void Weigh(float* scores, int count, float* result) => _weigh(scores, count, result);

        /// <summary>Adds values that lie side by side, by their weights [count, block], to [block, d].</summary>
        public void Mix(float* weights, byte* values, int count, int d, int heads, float* sums, float headScale, float* scales) =>
            _mix(weights, values, count, d, heads, sums, headScale, scales);
    }

    private static unsafe void Score<TVector, TRow>(
        float* query, byte* keys, int count, int d, int heads, float* scores, float headScale, float* scales)
        where TVector : struct, IFloatVector<TVector>
        where TRow : struct, IKvRow
    {
        var (bytes, groups) = (TRow.Bytes(d), TRow.Scales(d));
        for (var from = 0; from < count; from += KvRows.Tile)
        {
            var some = Math.Min(KvRows.Tile, count - from);
            var rows = keys + from * bytes;
            TRow.LoadScales(rows, some, d, headScale, scales);
            if (heads == 1)
                ScoreOne<TVector, TRow>(query, rows, bytes, some, d, scores + from * Block, scales, groups);
            else
                ScoreFour<TVector, TRow>(query, rows, bytes, some, d, scores + from * Block, scales, groups);
        }
    }

    // Two positions at a time: eight sums and what they are of fit the registers of every width. Where the last is alone, it is both.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void ScoreFour<TVector, TRow>(
        float* query, byte* rows, long bytes, int count, int d, float* scores, float* scales, int groups)
        where TVector : struct, IFloatVector<TVector>
        where TRow : struct, IKvRow
    {
        var q1 = query + d;
        var q2 = q1 + d;
        var q3 = q2 + d;
        for (var t = 0; t < count; t += 2)
        {
            var other = t + 1 < count ? 1 : 0;
            var r0 = rows + t * bytes;
            var r1 = r0 + other * bytes;
            var s0 = scales + t * groups;
            var s1 = s0 + other * groups;
            var zero = TVector.Broadcast(0);
            var (a0, a1, a2, a3) = (zero, zero, zero, zero);
            var (b0, b1, b2, b3) = (zero, zero, zero, zero);
            for (var i = 0; i < d; i += TVector.Count)
            {
                var (at, group) = (TRow.Offset(i), TRow.ScaleOf(i));
                var k0 = TRow.Load<TVector>(r0 + at, i, s0 + group);
                var k1 = TRow.Load<TVector>(r1 + at, i, s1 + group);
                var q = TVector.Load(query + i);
                a0 = TVector.MultiplyAdd(q, k0, a0);
                b0 = TVector.MultiplyAdd(q, k1, b0);
                q = TVector.Load(q1 + i);
                a1 = TVector.MultiplyAdd(q, k0, a1);
                b1 = TVector.MultiplyAdd(q, k1, b1);
                q = TVector.Load(q2 + i);
                a2 = TVector.MultiplyAdd(q, k0, a2);
                b2 = TVector.MultiplyAdd(q, k1, b2);
                q = TVector.Load(q3 + i);
                a3 = TVector.MultiplyAdd(q, k0, a3);
                b3 = TVector.MultiplyAdd(q, k1, b3);
            }

            TVector.SumEach(a0, a1, a2, a3).Store(scores + t * Block);
            TVector.SumEach(b0, b1, b2, b3).Store(scores + (t + 1) * Block); // beyond the last: room that Weigh fills anew
        }
    }

    // Four positions at a time, the last of which may be the same.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void ScoreOne<TVector, TRow>(
        float* query, byte* rows, long bytes, int count, int d, float* scores, float* scales, int groups)
        where TVector : struct, IFloatVector<TVector>
        where TRow : struct, IKvRow
    {
        for (var t = 0; t < count; t += 4)
        {
            var (t1, t2, t3) = (Math.Min(t + 1, count - 1), Math.Min(t + 2, count - 1), Math.Min(t + 3, count - 1));
            var zero = TVector.Broadcast(0);
            var (a, b, c, e) = (zero, zero, zero, zero);
            for (var i = 0; i < d; i += TVector.Count)
            {
                var (at, group) = (TRow.Offset(i), TRow.ScaleOf(i));
                var q = TVector.Load(query + i);
                a = TVector.MultiplyAdd(q, TRow.Load<TVector>(rows + t * bytes + at, i, scales + t * groups + group), a);
                b = TVector.MultiplyAdd(q, TRow.Load<TVector>(rows + t1 * bytes + at, i, scales + t1 * groups + group), b);
                c = TVector.MultiplyAdd(q, TRow.Load<TVector>(rows + t2 * bytes + at, i, scales + t2 * groups + group), c);
                e = TVector.MultiplyAdd(q, TRow.Load<TVector>(rows + t3 * bytes + at, i, scales + t3 * groups + group), e);
            }

            var sums = TVector.SumEach(a, b, c, e);
            for (var k = 0; k < 4; k++)
                Vector128.CreateScalar(sums[k]).Store(scores + (t + k) * Block);
        }
    }

    // Lane i of each vector belongs to head i mod 4, whatever the width.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Weigh<TVector>(float* scores, int count, float* result) where TVector : struct, IFloatVector<TVector>
    {
        var lanes = stackalloc float[FloatVector16.Count];
        var end = count * Block;
        for (; end % TVector.Count != 0; end++)
            scores[end] = float.NegativeInfinity;

        var greatest = TVector.Load(scores);
        for (var i = TVector.Count; i < end; i += TVector.Count)
            greatest = TVector.Greater(TVector.Load(scores + i), greatest);
        greatest.Store(lanes);
        for (var h = 0; h < Block; h++)
        {
            result[h] = lanes[h];
            for (var i = h + Block; i < TVector.Count; i += Block)
                result[h] = lanes[i] > result[h] ? lanes[i] : result[h];
        }

        for (var i = 0; i < TVector.Count; i++)
            lanes[i] = float.IsNegativeInfinity(result[i % Block]) ? 0 : result[i % Block];
        var (shift, sums) = (TVector.Load(lanes), TVector.Broadcast(0));
        for (var i = 0; i < end; i += TVector.Count)
        {
            var weight = Exp2(TVector.Load(scores + i) - shift);
            weight.Store(scores + i);
            sums += weight;
        }

        sums.Store(lanes);
        for (var h = 0; h < Block; h++)
        {
            result[Block + h] = 0;
            for (var i = h; i < TVector.Count; i += Block)
                result[Block + h] += lanes[i];
        }
    }

    /// <summary>
    /// 2 to the power of each lane, which is at most 0, within 2 units in the last place; 0 below −126, where it would be subnormal.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static TVector Exp2<TVector>(TVector x) where TVector : struct, IFloatVector<TVector>
    {
        var shift = TVector.Broadcast(12582912); // 1.5 · 2²³: adding it rounds to whole numbers
        var shifted = x + shift;
        var r = x - (shifted - shift); // within ±½

        // The series of 2^r: ln(2)^k / k!. What is left out is below 6e-9.
        var p = TVector.MultiplyAdd(TVector.Broadcast(1.52527338e-5f), r, TVector.Broadcast(1.54035304e-4f));
        p = TVector.MultiplyAdd(p, r, TVector.Broadcast(1.33335581e-3f));
        p = TVector.MultiplyAdd(p, r, TVector.Broadcast(9.61812911e-3f));
        p = TVector.MultiplyAdd(p, r, TVector.Broadcast(5.55041087e-2f));
        p = TVector.MultiplyAdd(p, r, TVector.Broadcast(0.240226507f));
        p = TVector.MultiplyAdd(p, r, TVector.Broadcast(0.693147181f));
        p = TVector.MultiplyAdd(p, r, TVector.Broadcast(1));
        return TVector.ZeroBelow(p * TVector.PowerOfTwo(shifted), x, TVector.Broadcast(-126));
    }

    private static unsafe void Mix<TVector, TRow>(
        float* weights, byte* values, int count, int d, int heads, float* sums, float headScale, float* scales)
        where TVector : struct, IFloatVector<TVector>
        where TRow : struct, IKvRow
    {
        var bytes = TRow.Bytes(d);
        for (var from = 0; from < count; from += KvRows.Tile)
        {
            var some = Math.Min(KvRows.Tile, count - from);
            var rows = values + from * bytes;
            TRow.LoadScales(rows, some, d, headScale, scales);
            for (var i = 0; i < d;)
            {
                // Two vectors of a row at a time, for as long as there are two.
                var two = i + 2 * TVector.Count <= d;
                if (heads == 1)
                    MixOne<TVector, TRow>(weights + from * Block, rows, some, d, i, two, sums, scales);
                else if (two)
                    MixFour<TVector, TRow>(weights + from * Block, rows, some, d, i, sums, scales);
                else
                    MixFourLast<TVector, TRow>(weights + from * Block, rows, some, d, i, sums, scales);
                i += two ? 2 * TVector.Count : TVector.Count;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void MixFour<TVector, TRow>(float* weights, byte* rows, int count, int d, int i, float* sums, float* scales)
        where TVector : struct, IFloatVector<TVector>
        where TRow : struct, IKvRow
    {
        var (bytes, groups, n) = (TRow.Bytes(d), TRow.Scales(d), TVector.Count);
        var at = rows + TRow.Offset(i);
        var next = rows + TRow.Offset(i + n);
        var scale = scales + TRow.ScaleOf(i);
        var nextScale = scales + TRow.ScaleOf(i + n);
        var sum = sums + i;
        var (a0, b0) = (TVector.Load(sum), TVector.Load(sum + n));
        var (a1, b1) = (TVector.Load(sum + d), TVector.Load(sum + d + n));
        var (a2, b2) = (TVector.Load(sum + 2 * d), TVector.Load(sum + 2 * d + n));
        var (a3, b3) = (TVector.Load(sum + 3 * d), TVector.Load(sum + 3 * d + n));
        for (var t = 0; t < count; t++)
        {
            var (v, u) = (TRow.Load<TVector>(at, i, scale), TRow.Load<TVector>(next, i + n, nextScale));
            var w = TVector.Broadcast(weights[0]);
            a0 = TVector.MultiplyAdd(w, v, a0);
            b0 = TVector.MultiplyAdd(w, u, b0);
            w = TVector.Broadcast(weights[1]);
            a1 = TVector.MultiplyAdd(w, v, a1);
            b1 = TVector.MultiplyAdd(w, u, b1);
            w = TVector.Broadcast(weights[2]);
            a2 = TVector.MultiplyAdd(w, v, a2);
            b2 = TVector.MultiplyAdd(w, u, b2);
            w = TVector.Broadcast(weights[3]);
            a3 = TVector.MultiplyAdd(w, v, a3);
            b3 = TVector.MultiplyAdd(w, u, b3);
            weights += Block;
            at += bytes;
            next += bytes;
            scale += groups;
            nextScale += groups;
        }

        a0.Store(sum);
        b0.Store(sum + n);
        a1.Store(sum + d);
        b1.Store(sum + d + n);
        a2.Store(sum + 2 * d);
        b2.Store(sum + 2 * d + n);
        a3.Store(sum + 3 * d);
        b3.Store(sum + 3 * d + n);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void MixFourLast<TVector, TRow>(float* weights, byte* rows, int count, int d, int i, float* sums, float* scales)
        where TVector : struct, IFloatVector<TVector>
        where TRow : struct, IKvRow
    {
        var (bytes, groups) = (TRow.Bytes(d), TRow.Scales(d));
        var at = rows + TRow.Offset(i);
        var scale = scales + TRow.ScaleOf(i);
        var sum = sums + i;
        var (a0, a1) = (TVector.Load(sum), TVector.Load(sum + d));
        var (a2, a3) = (TVector.Load(sum + 2 * d), TVector.Load(sum + 3 * d));
        for (var t = 0; t < count; t++, weights += Block, at += bytes, scale += groups)
        {
            var v = TRow.Load<TVector>(at, i, scale);
            a0 = TVector.MultiplyAdd(TVector.Broadcast(weights[0]), v, a0);
            a1 = TVector.MultiplyAdd(TVector.Broadcast(weights[1]), v, a1);
            a2 = TVector.MultiplyAdd(TVector.Broadcast(weights[2]), v, a2);
            a3 = TVector.MultiplyAdd(TVector.Broadcast(weights[3]), v, a3);
        }

        a0.Store(sum);
        a1.Store(sum + d);
        a2.Store(sum + 2 * d);
        a3.Store(sum + 3 * d);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void MixOne<TVector, TRow>(
        float* weights, byte* rows, int count, int d, int i, bool two, float* sums, float* scales)
        where TVector : struct, IFloatVector<TVector>
        where TRow : struct, IKvRow
    {
        var (bytes, groups) = (TRow.Bytes(d), TRow.Scales(d));
        for (var last = two ? i + TVector.Count : i; i <= last; i += TVector.Count)
        {
            var at = rows + TRow.Offset(i);
            var scale = scales + TRow.ScaleOf(i);
            var weight = weights;
            var sum = TVector.Load(sums + i);
            for (var t = 0; t < count; t++, weight += Block, at += bytes, scale += groups)
                sum = TVector.MultiplyAdd(TVector.Broadcast(*weight), TRow.Load<TVector>(at, i, scale), sum);
            sum.Store(sums + i);
        }
    }
}
