using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.KvApproximation;

public sealed class KvEvictTests : IDisposable
{
    private readonly PinnedArrays _pinned = new();

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Each_head_keeps_what_a_plain_sort_keeps(Runner runner)
    {
        // Few different scores, so that there are ties; some NaN.
        for (var round = 0; round < 200; round++)
        {
            var random = new Random(round);
            var (batch, heads, capacity) = (random.Next(1, 3), random.Next(1, 4), random.Next(1, 90));
            int[] lengths = [.. Enumerable.Range(0, batch * heads).Select(_ => random.Next(0, capacity + 1))];
            var scores = Ties(random, batch * heads * capacity);
            var options = new KvEvictOptions
            {
                Budget = random.Next(3) == 0 ? Budget.Threshold(0.3f) : Budget.Ratio(random.NextDouble()),
                PoolWidth = random.Next(3) * 2 + 1, Sinks = random.Next(4), Recent = random.Next(4),
            };
            int[] expected = [.. Enumerable.Range(0, batch * heads).SelectMany(head => Expect(
                scores.AsSpan(head * capacity, capacity), lengths[head], options).Select(t => head * capacity + t))];

            var kept = Run(runner, batch, heads, capacity, scores, lengths, options);

            Assert.Equal(expected, kept);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Heads_that_share_a_budget_keep_the_greatest_of_all_above_their_floor(Runner runner)
    {
        for (var round = 0; round < 100; round++)
        {
            var random = new Random(round);
            var (batch, heads, capacity) = (random.Next(1, 3), random.Next(1, 5), random.Next(10, 60));
            int[] lengths = [.. Enumerable.Range(0, batch * heads).Select(_ => random.Next(10, capacity + 1))];
            float[] scores = [.. Enumerable.Range(0, batch * heads * capacity).Select(i => random.Next(9) + i / capacity % heads * 3f)];
            var options = new KvEvictOptions { Budget = Budget.Count(10), HeadFloor = 0.25, Recent = round % 3 };
            var expected = new List<int>();
            for (var b = 0; b < batch; b++)
            {
                var all = new List<(int Head, int Position, int Rank)>();
                for (var head = b * heads; head < (b + 1) * heads; head++)
                {
                    var own = new KvEvictOptions { Budget = Budget.Count(2), Recent = options.Recent };
                    var floor = Expect(scores.AsSpan(head * capacity, capacity), lengths[head], own);
                    all.AddRange(Enumerable.Range(0, lengths[head]).Select(t => (head, t, floor.Contains(t) ? 0 : 1)));
                }

                var chosen = all.OrderBy(x => x.Rank).ThenByDescending(x => scores[x.Head * capacity + x.Position])
                    .ThenBy(x => x.Head).ThenBy(x => x.Position).Take(10 * heads);
                expected.AddRange(chosen.Select(x => x.Head * capacity + x.Position).Order());
            }

            var kept = Run(runner, batch, heads, capacity, scores, lengths, options);

            Assert.Equal(expected, kept);
            Assert.Equal(batch * heads * 10, lengths.Sum());
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Each_head_keeps_a_count_of_its_own(Runner runner)
    {
        for (var round = 0; round < 200; round++)
        {
            var random = new Random(round);
            var (batch, heads, capacity) = (random.Next(1, 3), random.Next(1, 4), random.Next(1, 60));
            int[] lengths = [.. Enumerable.Range(0, batch * heads).Select(_ => random.Next(0, capacity + 1))];
            int[] counts = [.. lengths.Select(length => random.Next(4) == 0 ? int.MaxValue : random.Next(0, length + 3))];
            var scores = Ties(random, batch * heads * capacity);
            var options = new KvEvictOptions { PoolWidth = random.Next(2) * 2 + 1, Sinks = random.Next(3), Recent = random.Next(3) };
            int[] expected = [.. Enumerable.Range(0, batch * heads).SelectMany(head => Expect(
                scores.AsSpan(head * capacity, capacity), lengths[head], With(options, counts[head])).Select(t => head * capacity + t))];

            Assert.Equal(expected, Run(runner, batch, heads, capacity, scores, lengths, options, counts: counts));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Heads_share_the_sum_of_their_counts_whatever_each_of_them_has(Runner runner)
    {
        for (var round = 0; round < 200; round++)
        {
            var random = new Random(round);
            var (batch, heads, capacity) = (random.Next(1, 3), random.Next(1, 5), random.Next(1, 40));
            int[] lengths = [.. Enumerable.Range(0, batch * heads).Select(_ => random.Next(0, capacity + 1))];
            int[] counts = [.. lengths.Select(_ => random.Next(9) == 0 ? int.MaxValue : random.Next(0, 2 * capacity / 3 + 1))];
            var scores = Ties(random, batch * heads * capacity);
            var floor = random.Next(3) / 2.0;
            var options = new KvEvictOptions { HeadFloor = floor, Recent = random.Next(3) };
            var expected = new List<int>();
            for (var b = 0; b < batch; b++)
            {
                var (all, total) = (new List<(int Place, bool IsSafe)>(), 0L);
                for (var head = b * heads; head < (b + 1) * heads; head++)
                {
                    total += Math.Max(counts[head], Math.Min(options.Recent, lengths[head]));
                    var own = Expect(scores.AsSpan(head * capacity, capacity), lengths[head], With(options, (int)(floor * counts[head])));
                    all.AddRange(Enumerable.Range(0, lengths[head]).Select(t => (head * capacity + t, own.Contains(t))));
                }

                var chosen = all.OrderBy(x => x.IsSafe ? 0 : 1)
                    .ThenBy(x => float.IsNaN(scores[x.Place]) ? double.PositiveInfinity : -scores[x.Place]).ThenBy(x => x.Place);
                expected.AddRange(chosen.Take((int)Math.Min(total, all.Count)).Select(x => x.Place).Order());
            }

            Assert.Equal(expected, Run(runner, batch, heads, capacity, scores, lengths, options, counts: counts));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Rows_of_every_format_move_in_place_and_what_is_behind_them_stays(Runner runner)
    {
        foreach (var format in (KvFormat[])[KvFormat.F32, KvFormat.F16, KvFormat.BF16, KvFormat.Fp8E4M3, KvFormat.Q8_0, KvFormat.Q4_0])
        {
            var row = (int)format.ByteCount(32);
            var (keys, values) = (new byte[2 * 9 * row], new byte[2 * 9 * row]);
            new Random(1).NextBytes(keys);
            new Random(2).NextBytes(values);
            var (oldKeys, oldValues) = ((byte[])keys.Clone(), (byte[])values.Clone());
            float[] scores = [.. Enumerable.Range(0, 18).Select(i => (float)(i * 7 % 9))];
            int[] lengths = [9, 7];
            var scale = format == KvFormat.Fp8E4M3 ? _pinned.View([1f], 1) : default;
            var cache = new KvCacheViews
            {
                Keys = _pinned.View(keys, 1, 2, 9, row),
                Values = _pinned.View(values, 1, 2, 9, row),
                KeyFormat = format,
                ValueFormat = format,
                KeyScales = scale,
                ValueScales = scale,
            };
            runner.Run(backend => KvEvict.Run(
                _pinned.View(scores, 1, 2, 9), _pinned.View(lengths, 1, 2), cache, new() { Budget = Budget.Count(4) }, backend: backend));

            Assert.Equal([4, 4], lengths);
            for (var head = 0; head < 2; head++)
            {
                var kept = Expect(scores.AsSpan(head * 9, 9), head == 0 ? 9 : 7, new() { Budget = Budget.Count(4) });
                for (var t = 0; t < 9; t++)
                {
                    var from = (head * 9 + (t < 4 ? kept[t] : t)) * row;
                    Assert.Equal(oldKeys.AsSpan(from, row).ToArray(), keys.AsSpan((head * 9 + t) * row, row).ToArray());
                    Assert.Equal(oldValues.AsSpan(from, row).ToArray(), values.AsSpan((head * 9 + t) * row, row).ToArray());
                }
            }
        }
    }

    [Fact]
    public void Pages_hold_what_a_contiguous_cache_holds()
    {
        // Pages of one head, of 4 positions: three a head.
        var random = new Random(4);
        float[] scores = [.. Enumerable.Range(0, 24).Select(_ => random.NextSingle())];
        var (contiguous, paged) = (new float[2 * 12 * 8], new float[6 * 4 * 8]);
        int[] order = [4, 0, 2, 5, 3, 1];
        for (var i = 0; i < contiguous.Length; i++)
        {
            contiguous[i] = i;
            paged[order[i / 32] * 32 + i % 32] = i;
        }

        var (flat, split) = ((int[])[11, 12], (int[])[11, 12]);
        var options = new KvEvictOptions { Budget = Budget.Ratio(0.5), Sinks = 1 };
        KvEvict.Run(
            _pinned.View(scores, 1, 2, 12), _pinned.View(flat, 1, 2),
            new() { Keys = _pinned.View(contiguous, 1, 2, 12, 8), Values = _pinned.View(new float[192], 1, 2, 12, 8) }, options);
        KvEvict.Run(
            _pinned.View(scores, 1, 2, 12), _pinned.View(split, 1, 2),
            new()
            {
                Keys = _pinned.View(paged, 6, 1, 4, 8), Values = _pinned.View(new float[192], 6, 1, 4, 8),
                PageOffsets = _pinned.View([0, 3, 6], 3), Pages = _pinned.View(order, 6),
            },
            options);
        Assert.Equal(flat, split);
        for (var i = 0; i < contiguous.Length; i++)
            Assert.Equal(contiguous[i], paged[order[i / 32] * 32 + i % 32]);
    }

    [Fact]
    public void Any_number_of_threads_keeps_the_same()
    {
        var random = new Random(3);
        float[] scores = [.. Enumerable.Range(0, 16 * 3000).Select(_ => random.NextSingle())];
        var expected = Run(new(AuxBackend.Cpu, 8), 2, 8, 3000, scores, Lengths(), Options(), 64);
        foreach (var threads in (int[])[2, 3, 7])
            Assert.Equal(expected, Run(new(AuxBackend.Cpu, 8, threads), 2, 8, 3000, scores, Lengths(), Options(), 64));

        static int[] Lengths() => [.. Enumerable.Range(0, 16).Select(i => 3000 - i * 100)];

        static KvEvictOptions Options() => new() { Budget = Budget.Ratio(0.6), PoolWidth = 5, Recent = 64, HeadFloor = 0.2 };
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_nothing_is_written()
    {
        var (keys, values) = (new float[2 * 5 * 8], new float[2 * 5 * 8]);
        int[] lengths = [5, 4], numbers = new int[2 * 5];
        var scores = _pinned.View(new float[2 * 5], 1, 2, 5);
        var cache = new KvCacheViews { Keys = _pinned.View(keys, 1, 2, 5, 8), Values = _pinned.View(values, 1, 2, 5, 8) };
        var options = new KvEvictOptions { Budget = Budget.Ratio(0.5) };
        keys.AsSpan().Fill(3);

        Refused<ArgumentException>("options.Budget: a default value", new() { Budget = default });
        Refused<ArgumentOutOfRangeException>("options.PoolWidth is odd", new() { Budget = options.Budget, PoolWidth = 4 });
        Refused<ArgumentOutOfRangeException>("options.Sinks is not negative", new() { Budget = options.Budget, Sinks = -1 });
        Refused<ArgumentOutOfRangeException>("options.Recent is not negative", new() { Budget = options.Budget, Recent = -1 });
        Refused<ArgumentOutOfRangeException>("options.HeadFloor lies within", new() { Budget = options.Budget, HeadFloor = double.NaN });
        Refused<ArgumentException>("heads share a Budget.Count or Ratio", new() { Budget = Budget.Threshold(1), HeadFloor = 0.2 });
        Refused<ArgumentException>("or pass counts", new());
        Refused<ArgumentException>("Ratio(0.5), but counts say", options, n: _pinned.View([1, 1], 1, 2));
        Refused<ArgumentException>("counts: float32", new(), n: _pinned.View([1f, 1f], 1, 2));
        Refused<ArgumentException>("counts: int32[2, 1]", new(), n: _pinned.View([1, 1], 2, 1));
        Refused<ArgumentOutOfRangeException>("counts[0, 1] is negative", new(), n: _pinned.View([1, -1], 1, 2));
        Refused<ArgumentException>("lengths overlaps counts", new(), n: _pinned.View(lengths, 1, 2));
        Refused<ArgumentException>("5 positions of each head, but lengths[0, 1] is 4", new() { Budget = Budget.Count(5) });
        lengths[1] = 6;
        Refused<ArgumentOutOfRangeException>("lengths[0, 1] is not within 0 and 5", options);
        lengths[1] = 4;
        Refused<ArgumentOutOfRangeException>("lengths[0, 0] is not within 0 and 4", options, s: _pinned.View(new float[8], 1, 2, 4));
        Refused<ArgumentOutOfRangeException>(
            "lengths[0, 0] is not within 0 and 3", options, p: _pinned.View(new int[6], 1, 2, 3));
        Refused<ArgumentException>("is not of rank 3", options, s: _pinned.View(new float[10], 2, 5));
        Refused<ArgumentException>("does not match 3 heads", options, s: _pinned.View(new float[15], 1, 3, 5));
        Refused<ArgumentException>("positions: float32", options, p: _pinned.View(new float[10], 1, 2, 5));
        Refused<ArgumentException>("scores overlaps cache.Keys", options, s: _pinned.View(keys, DType.Float32, 0, [1, 2, 5]));
        Refused<ArgumentException>("cache.Values overlaps cache.Keys", options, c: cache with { Values = cache.Keys });
        var kivi = new KvCacheViews
        {
            Keys = _pinned.View(new byte[32 * 20 * 2], 1, 2, 32, 20), Values = _pinned.View(new byte[32 * 64 * 2], 1, 2, 32, 64),
            KeyFormat = KvFormat.Kivi4, ValueFormat = KvFormat.BF16, KeyResidual = _pinned.View(new float[2 * 32 * 32], 1, 2, 32, 32),
        };
        Refused<ArgumentException>("rows of Kivi4 do not stand for themselves", options, c: kivi);
        Assert.Throws<ArgumentNullException>(() => KvEvict.Run(scores, _pinned.View(lengths, 1, 2), cache, null!));
        foreach (var backend in (AuxBackend[])[AuxBackend.Cuda, AuxBackend.Ilgpu])
        {
            Assert.Throws<BackendUnavailableException>(
                () => KvEvict.Run(scores, _pinned.View(lengths, 1, 2), cache, options, backend: backend));
        }

        void Refused<TException>(
            string text, KvEvictOptions o, TensorView? s = null, TensorView p = default, KvCacheViews? c = null, TensorView n = default)
            where TException : ArgumentException
        {
            var before = (int[])lengths.Clone();
            var error = Assert.Throws<TException>(() => KvEvict.Run(s ?? scores, _pinned.View(lengths, 1, 2), c ?? cache, o, p, n));
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
            Assert.Equal(before, lengths);
            Assert.All(keys, x => Assert.Equal(3, x));
        }
    }

    public void Dispose() => _pinned.Dispose();

    /// <summary>What is kept, as numbers b, h, t in row-major order; the cache's rows hold these numbers.</summary>
    private int[] Run(
        Runner runner, int batch, int heads, int capacity, float[] scores, int[] lengths, KvEvictOptions options, int dim = 2,
        int[]? counts = null)
    {
        var (keys, values) = (new float[batch * heads * capacity * dim], new float[batch * heads * capacity * dim]);
        for (var i = 0; i < keys.Length; i++)
            (keys[i], values[i]) = (i / dim, -(i / dim));
        int[] numbers = [.. Enumerable.Range(0, batch * heads * capacity)];
        runner.Run(backend => KvEvict.Run(
            _pinned.View(scores, batch, heads, capacity), _pinned.View(lengths, batch, heads),
            new() { Keys = _pinned.View(keys, batch, heads, capacity, dim), Values = _pinned.View(values, batch, heads, capacity, dim) },
            options, _pinned.View(numbers, batch, heads, capacity), counts is null ? default : _pinned.View(counts, batch, heads),
            backend));
        var kept = new List<int>();
        for (var head = 0; head < batch * heads; head++)
        {
            for (var j = 0; j < lengths[head]; j++)
            {
                var at = head * capacity + j;
                kept.Add(numbers[at]);
                Assert.Equal((numbers[at], -numbers[at]), ((int)keys[at * dim], (int)values[at * dim]));
                Assert.Equal((numbers[at], -numbers[at]), ((int)keys[at * dim + dim - 1], (int)values[at * dim + dim - 1]));
            }
        }

        return [.. kept];
    }

    /// <summary>Few different scores, some of them NaN.</summary>
    private static float[] Ties(Random random, int count) =>
        [.. Enumerable.Range(0, count).Select(_ => random.Next(40) == 0 ? float.NaN : random.Next(-4, 5) / 4f)];

    private static KvEvictOptions With(KvEvictOptions options, int count) => new()
    {
        Budget = Budget.Count(count), PoolWidth = options.PoolWidth, Sinks = options.Sinks, Recent = options.Recent,
    };

    private static int[] Expect(ReadOnlySpan<float> scores, int length, KvEvictOptions options)
    {
        var means = new float[length];
        var end = Math.Max(0, length - options.Recent);
        for (var t = 0; t < length; t++)
        {
            var sum = 0.0;
            for (var i = Math.Max(0, t - options.PoolWidth / 2); i <= t + options.PoolWidth / 2 && i < end; i++)
                sum += scores[i];
            means[t] = t < end && options.PoolWidth > 1 ? (float)(sum / options.PoolWidth) : scores[t];
        }

        bool[] always = [.. Enumerable.Range(0, length).Select(t => t < options.Sinks || t >= length - options.Recent)];
        var ranked = Enumerable.Range(0, length).OrderBy(t => always[t] ? 0 : 1)
            .ThenBy(t => always[t] ? 0 : float.IsNaN(means[t]) ? double.PositiveInfinity : -means[t]).ThenBy(t => t);
        var text = options.Budget.ToString();
        var value = double.Parse(text[(text.IndexOf('(') + 1)..text.IndexOf(')')], System.Globalization.CultureInfo.InvariantCulture);
        var count = text[0] == 'C' ? (int)value
            : text[0] == 'R' ? (int)Math.Floor(value * length + 0.5)
            : means.Where((mean, t) => always[t] || mean >= (float)value).Count();
        return [.. ranked.Take(Math.Max(count, always.Count(x => x))).Order()];
    }
}
