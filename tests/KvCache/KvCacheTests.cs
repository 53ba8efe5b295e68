using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests;

[RequiresLibtorch]
public sealed class KvCacheTests
{
    public static TheoryData<bool, KvFormat, KvFormat, double> Formats
    {
        get
        {
            var data = new TheoryData<bool, KvFormat, KvFormat, double>();
            foreach (var paged in (bool[])[false, true])
            {
                data.Add(paged, KvFormat.F32, KvFormat.F32, 1e-5);
                data.Add(paged, KvFormat.F16, KvFormat.BF16, 5e-3);
                data.Add(paged, KvFormat.Q8_0, KvFormat.Q4_0, 0.15);
                data.Add(paged, KvFormat.Fp8E4M3, KvFormat.Q8_0, 0.05);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Append_and_attend_in_every_format(bool paged, KvFormat keys, KvFormat values, double tolerance)
    {
        using var cache = new CacheUnderTest(paged, keys: keys, values: values);
        var random = new Random(1);
        foreach (var rows in (int[][])[[7, 3], [1, 1], [1, 1], [0, 9], [5, 0]])
            cache.Append(random, rows);

        cache.Check(tolerance);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Any_sequence_of_operations_gives_what_plain_lists_hold(bool paged)
    {
        for (var seed = 0; seed < 25; seed++)
        {
            var random = new Random(seed);
            var caches = new List<CacheUnderTest> { new(paged) };
            var pool = caches[0];
            for (var step = 0; step < 20; step++)
            {
                var cache = caches[random.Next(caches.Count)];
                switch (random.Next(7))
                {
                    case 0 or 1 or 2:
                        int[] rows = [random.Next(5), 1 + random.Next(4)];
                        if (Enumerable.Range(0, 4).All(i => cache.Cache.Length(i / 2, i % 2) + 5 <= 40))
                            cache.Append(random, rows);
                        break;
                    case 3:
                        cache.Rewind([.. Enumerable.Range(0, 2).Select(b => random.Next(cache.Cache.NextPosition(b) + 2))]);
                        break;
                    case 4:
                        cache.Reorder([random.Next(2), random.Next(2)]);
                        break;
                    case 5 when caches.Count < 4:
                        caches.Add(cache.Fork());
                        break;
                    default:
                        var byHead = random.Next(2) == 0;
                        var salt = random.Next();
                        cache.Keep(random.Next(2), (b, head, slot) => (HashCode.Combine(b, byHead ? head : 0, slot, salt, seed) & 3) != 0);
                        break;
                }

                cache.Check(1e-5);
            }

            caches.ForEach(cache => cache.Check(1e-5));
            caches.Skip(1).ToList().ForEach(cache => cache.Dispose());
            pool.Check(1e-5);
            pool.Cache.Dispose();
            if (paged)
                Assert.Equal(pool.Pool.PageCount, pool.Pool.FreePages);
            pool.Dispose();
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_thousand_forks_rewinds_and_disposals_leak_nothing(bool paged)
    {
        using var cache = new CacheUnderTest(paged);
        var random = new Random(2);
        cache.Append(random, [9, 10]);
        var free = paged ? cache.Pool.FreePages : 0;
        TensorLeaks.None(() =>
        {
            for (var i = 0; i < 1000; i++)
            {
                using var fork = cache.Cache.Fork();
                fork.Rewind(i % 12);
                if (i % 3 == 0)
                    fork.Reorder([1, 1]);
                if (paged)
                    Assert.True(cache.Pool.FreePages <= free);
            }
        });

        if (paged)
            Assert.Equal(free, cache.Pool.FreePages);
        cache.Check(1e-5);
    }

    [Fact]
    public void A_fork_shares_pages_until_it_writes()
    {
        using var cache = new CacheUnderTest(paged: true);
        cache.Append(new(3), [6, 6]);
        var used = cache.Pool.BytesUsed;

        using var fork = cache.Fork();
        Assert.Equal(used, cache.Pool.BytesUsed);
        fork.Append(new(4), [1, 0]); // of the half-filled last pages of 2 + 3 heads, copies

        Assert.Equal(used + 5 * cache.Pool.PageBytes, cache.Pool.BytesUsed);
        fork.Check(1e-5);
        cache.Check(1e-5);
    }

    [Fact]
    public void Evicted_and_rewound_tokens_give_their_pages_back()
    {
        using var cache = new CacheUnderTest(paged: true);
        cache.Append(new(5), [32, 32]);
        var (used, reserved) = (cache.Cache.BytesUsed, cache.Cache.BytesReserved);

        cache.Keep(0, (_, head, slot) => slot % 2 == head); // 2 heads of 5, half of them
        Assert.InRange(cache.Cache.BytesUsed, (long)(used * 0.79), (long)(used * 0.81));
        Assert.Equal(reserved * 8 / 10, cache.Cache.BytesReserved);
        Assert.Equal(cache.Cache.BytesReserved, cache.Pool.BytesUsed);
        cache.Rewind([0, 0]);
        Assert.Equal((0, 0), (cache.Cache.BytesUsed, cache.Pool.BytesUsed));
    }

    [Fact]
    public void Bytes_are_those_of_tokens_and_positions()
    {
        using var cache = new CacheUnderTest(paged: false, keys: KvFormat.Q8_0, values: KvFormat.Q4_0);
        cache.Append(new(6), [3, 5]);

        Assert.Equal(8 * 5 * (34 + 18) + 8 * 2 * sizeof(int), cache.Cache.BytesUsed); // heads of a sequence share positions
        Assert.Equal(2 * 5 * 40 * (34 + 18), cache.Cache.BytesReserved);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Appending_one_by_one_gives_the_bits_of_appending_at_once(bool paged)
    {
        using var scope = torch.NewDisposeScope();
        var layout = new KvLayout([new(2, 32)], 1, 300, KvFormat.Q4_0, KvFormat.Q8_0);
        using var pool = new KvPagePool(200, 32, KvFormat.Q4_0, KvFormat.Q8_0);
        using KvCache one = paged ? new PagedKvCache(pool, layout) : new ContiguousKvCache(layout);
        using KvCache all = new ContiguousKvCache(layout);
        torch.manual_seed(3);
        var (keys, values) = (torch.randn(1, 2, 300, 32), torch.randn(1, 2, 300, 32));

        all.Append(0, keys, values, Enumerable.Range(0, 300).ToArray());
        for (var i = 0; i < 300; i++)
            one.Append(0, keys.narrow(2, i, 1), values.narrow(2, i, 1), [i]);

        Assert.Equal(0, TinyDecoder.Distance(all.Materialise(0).Keys, one.Materialise(0).Keys));
        Assert.Equal(0, TinyDecoder.Distance(all.Materialise(0).Values, one.Materialise(0).Values));
        var query = torch.randn(1, 4, 32);
        Assert.Equal(0, TinyDecoder.Distance(all.Attend(0, query), one.Attend(0, query)));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_does_not_fit_is_refused_and_changes_nothing(bool paged)
    {
        using var scope = torch.NewDisposeScope();
        using var under = new CacheUnderTest(paged);
        under.Append(new(7), [6, 4]);
        var cache = under.Cache;
        var (keys, values) = (torch.zeros(2, 2, 3, 32), torch.zeros(2, 2, 3, 32));
        int[] next = [6, 7, 8, 4, 5, 6];

        Refused<ArgumentException>("keys", () => cache.Append(0, torch.zeros(2, 3, 3, 32), values, next));
        Refused<ArgumentException>("values", () => cache.Append(0, keys, torch.zeros(2, 2, 4, 32), next));
        Refused<ArgumentException>("Float64", () => cache.Append(0, keys.to(torch.float64), values, next));
        Refused<ArgumentException>("on meta", () => cache.Append(0, keys.to(torch.META), values, next));
        Refused<ArgumentException>("positions[1] is 6", () => cache.Append(0, keys, values, [6, 6, 7, 4, 5, 6]));
        Refused<ArgumentException>("positions[3] is 3", () => cache.Append(0, keys, values, [6, 7, 8, 3, 4, 5]));
        Refused<ArgumentException>("positions: 5 numbers", () => cache.Append(0, keys, values, next.AsSpan(0, 5)));
        Refused<ArgumentOutOfRangeException>("lengths[1]", () => cache.Append(0, keys, values, next, [0, 4]));
        Refused<ArgumentException>("lengths", () => cache.Append(0, keys, values, next, [1]));
        Refused<ArgumentOutOfRangeException>("layer", () => cache.Append(2, keys, values, next));
        var many = torch.zeros(2, 2, 35, 32);
        Refused<KvCapacityException>("35 tokens behind 6", () => cache.Append(
            0, many, many, [.. Enumerable.Range(6, 35), .. Enumerable.Range(4, 35)]));
        Refused<ArgumentException>("3 query heads are not a multiple of 2", () => cache.Attend(0, torch.zeros(2, 3, 32)));
        Refused<ArgumentException>("queries", () => cache.Attend(0, torch.zeros(2, 4, 16)));
        Refused<ArgumentException>("offsets", () => cache.Keep(0, [0, 1, 1, 1], [0]));
        Refused<ArgumentException>("slots[1]", () => cache.Keep(0, [0, 2, 2, 2, 2], [3, 3]));
        Refused<ArgumentException>("slots[0]", () => cache.Keep(0, [0, 0, 0, 1, 1], [4]));
        Refused<ArgumentOutOfRangeException>("positions", () => cache.Rewind([0, -1]));
        Refused<ArgumentException>("positions", () => cache.Rewind([0]));
        Refused<ArgumentOutOfRangeException>("from", () => cache.Reorder([0, 2]));
        Refused<ArgumentException>("from", () => cache.Reorder([0]));
        Refused<ArgumentOutOfRangeException>("head", () => cache.Length(0, 0, 2));
        Refused<ArgumentOutOfRangeException>("sequence", () => cache.NextPosition(2));
        under.Check(1e-5);

        static void Refused<T>(string words, Action action) where T : Exception =>
            Assert.Contains(words, Assert.Throws<T>(action).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_pool_without_pages_refuses_and_nothing_changes()
    {
        using var scope = torch.NewDisposeScope();
        using var pool = new KvPagePool(5, 32, KvFormat.F32, KvFormat.F32, pageTokens: 4);
        using var cache = new PagedKvCache(pool, new([new(2, 32)], 1, 100, KvFormat.F32, KvFormat.F32));
        Append(6, 0);
        using var fork = cache.Fork();

        // Two heads hold two pages each. One more each, and copies of the last ones, which the fork shares, are more than there is.
        var error = Assert.Throws<KvCapacityException>(() => Append(4, 6));
        Assert.Contains("4 pages are needed, and 1", error.Message, StringComparison.Ordinal);
        Assert.Contains("2 pages", Assert.Throws<KvCapacityException>(() => Append(1, 6)).Message, StringComparison.Ordinal);
        Assert.Throws<KvCapacityException>(() => cache.Keep(0, [0, 1, 2], [5, 5]));
        Assert.Equal((6, 6, 1), (cache.Length(0, 0), fork.Length(0, 0), pool.FreePages));
        fork.Dispose();
        Append(1, 6);
        Assert.Equal(7, cache.Length(0, 0));

        void Append(int n, int position) => cache.Append(
            0, torch.ones(1, 2, n, 32), torch.ones(1, 2, n, 32), Enumerable.Range(position, n).ToArray());
    }

    [Fact]
    public void Pools_of_other_formats_or_heads_are_refused()
    {
        using var pool = new KvPagePool(4, 32, KvFormat.F32, KvFormat.Q8_0);
        Refused("F32 keys and F32 values", () => new PagedKvCache(pool, new([new(1, 32)], 1, 8, KvFormat.F32, KvFormat.F32)));
        Refused("heads of 64", () => new PagedKvCache(pool, new([new(1, 64)], 1, 8, KvFormat.F32, KvFormat.Q8_0)));
        Refused("not a multiple of 32", () => new KvPagePool(4, 48, KvFormat.F32, KvFormat.Q8_0));
        Refused("layer 1", () => new ContiguousKvCache(new([new(1, 32), new(1, 40)], 1, 8, KvFormat.F32, KvFormat.Q4_0)));
        Refused("KeyScale", () => new ContiguousKvCache(
            new([new(1, 32)], 1, 8, KvFormat.Fp8E4M3, KvFormat.F32) { KeyScale = float.NaN }));
        Refused("Capacity", () => new ContiguousKvCache(new([new(1, 32)], 1, 0, KvFormat.F32, KvFormat.F32)));
        pool.Dispose();
        Assert.Throws<ObjectDisposedException>(() => new PagedKvCache(pool, new([new(1, 32)], 1, 8, KvFormat.F32, KvFormat.Q8_0)));

        static void Refused(string words, Func<object> make) => Assert.Contains(
            words, Assert.ThrowsAny<ArgumentException>(make).Message, StringComparison.Ordinal);
    }
}
