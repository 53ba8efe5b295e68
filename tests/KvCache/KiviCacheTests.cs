using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests;

/// <summary>Caches in KIVI's format: a window of float32, and what leaves it.</summary>
[RequiresLibtorch]
public sealed class KiviCacheTests
{
    public static TheoryData<bool, KvFormat, KvFormat, int> Kinds
    {
        get
        {
            var data = new TheoryData<bool, KvFormat, KvFormat, int>();
            foreach (var paged in (bool[])[false, true])
            {
                data.Add(paged, KvFormat.Kivi4, KvFormat.Kivi4, 5);
                data.Add(paged, KvFormat.Kivi4, KvFormat.Kivi4, 0);
                data.Add(paged, KvFormat.Kivi4, KvFormat.Kivi4, 1000); // more than there is room for
                data.Add(paged, KvFormat.Kivi4, KvFormat.Q8_0, 40);
                data.Add(paged, KvFormat.F16, KvFormat.Kivi4, 33);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void The_window_is_exact_and_the_rest_is_within_half_a_step_of_the_float32_cache(
        bool paged, KvFormat keys, KvFormat values, int window)
    {
        using var scope = torch.NewDisposeScope();
        using var cache = new KiviUnderTest(paged, keys, values, window);
        using var exact = new KiviUnderTest(false, KvFormat.F32, KvFormat.F32, window);
        foreach (var rows in (int[][])[[70, 3], [1, 40], [0, 1], [29, 100]])
        {
            cache.Append(new(rows[0]), rows);
            exact.Append(new(rows[0]), rows);
        }

        var (got, wanted) = (cache.Cache.Materialise(0), exact.Cache.Materialise(0));
        for (var b = 0; b < 2; b++)
        {
            var length = cache.Length(b);
            var left = Math.Max(0, length - window);
            for (var head = 0; head < KiviUnderTest.Heads; head++)
            {
                if (keys == KvFormat.Kivi4)
                    RequireSteps(wanted.Keys[b, head], got.Keys[b, head], length, left / 32 * 32, 32, 1);
                if (values == KvFormat.Kivi4)
                    RequireSteps(wanted.Values[b, head], got.Values[b, head], length, left, 1, 32);
            }
        }

        // What is attended to is what is restored.
        using var restored = new ContiguousKvCache(KiviUnderTest.Layout(KvFormat.F32, KvFormat.F32, 0));
        int[] lengths = [cache.Length(0), cache.Length(1)];
        restored.Append(0, got.Keys, got.Values, KiviUnderTest.Positions(lengths.Max()), lengths);
        var query = torch.randn(2, 4, 32);
        Assert.InRange(TinyDecoder.Distance(restored.Attend(0, query), cache.Cache.Attend(0, query)), 0, 1e-4);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Appending_one_by_one_gives_the_bits_of_appending_at_once(bool paged, KvFormat keys, KvFormat values, int window)
    {
        using var cache = new KiviUnderTest(paged, keys, values, window);
        var random = new Random(4);
        for (var i = 0; i < 150; i++)
            cache.Append(random, [1, i % 2]);
        cache.Check();
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Any_sequence_of_operations_gives_what_a_new_cache_holds(bool paged, KvFormat keys, KvFormat values, int window)
    {
        var (rewound, refused) = (0, 0);
        for (var seed = 0; seed < 12; seed++)
        {
            var random = new Random(seed);
            var caches = new List<KiviUnderTest> { new(paged, keys, values, window) };
            for (var step = 0; step < 30; step++)
            {
                var cache = caches[random.Next(caches.Count)];
                switch (random.Next(7))
                {
                    case 0 or 1 or 2:
                        int[] rows = [random.Next(45), random.Next(1, 45)];
                        if (cache.Length(0) + rows[0] <= KiviUnderTest.Capacity && cache.Length(1) + rows[1] <= KiviUnderTest.Capacity)
                            cache.Append(random, rows);
                        break;
                    case 3 or 4:
                        var back = random.Next(2) == 0 ? 3 : 60;
                        if (cache.Rewind([Shorter(cache.Length(0), back), Shorter(cache.Length(1), back)]))
                            rewound++;
                        else
                            refused++;
                        break;
                    case 5:
                        cache.Reorder([random.Next(2), random.Next(2)]);
                        break;
                    default:
                        if (caches.Count < 4)
                            caches.Add(cache.Fork());
                        break;
                }

                cache.Check();

                int Shorter(int length, int most) => random.Next(9) == 0 ? 0 : Math.Max(0, length - random.Next(most));
            }

            caches.ForEach(cache => cache.Check());
            caches.Skip(1).ToList().ForEach(cache => cache.Dispose());
            caches[0].Check();
            caches[0].Cache.Dispose();
            Assert.Equal(caches[0].Pool?.PageCount, caches[0].Pool?.FreePages);
            caches[0].Dispose();
        }

        Assert.True(rewound > 20, $"{rewound} rewound");
        Assert.Equal(window < KiviUnderTest.Capacity, refused > 0);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_cache_goes_back_as_far_as_its_ring_has_what_is_not_quantised_and_no_further(bool paged)
    {
        // Window 5, ring 37. Of 110 tokens keys 96 and values 105 are quantised, and the ring has tokens 73 to 109.
        using var scope = torch.NewDisposeScope();
        using var cache = new KiviUnderTest(paged, KvFormat.Kivi4, KvFormat.Kivi4, 5);
        cache.Append(new(1), [110, 20]);
        Assert.True(cache.Rewind([109, 20]));
        Assert.True(cache.Rewind([101, 20])); // the least at which 96 keys are quantised; at 100 it is 64, and the ring begins at 73
        cache.Check();

        var error = Assert.Throws<ArgumentOutOfRangeException>(() => cache.Cache.Rewind([100, 3]));
        Assert.Contains("positions[0]: 100 of 101 tokens would be left of sequence 0 in layer 0", error.Message, StringComparison.Ordinal);
        Assert.Contains("for 0, or for 101 and more", error.Message, StringComparison.Ordinal);
        Assert.Equal(20, cache.Cache.Length(0, 1)); // neither sequence changed
        cache.Check();
        cache.Append(new(2), [4, 17]); // tokens 105 to 109 of before are forgotten, but what they overwrote stays overwritten
        Assert.False(cache.Rewind([100, 37]));
        cache.Check();
        Assert.True(cache.Rewind([0, 0]));
        cache.Append(new(3), [37, 36]);
        Assert.True(cache.Rewind([2, 1])); // nothing was overwritten since it was empty
        cache.Append(new(4), [60, 5]);
        cache.Check();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_thousand_forks_rewinds_and_disposals_leak_nothing(bool paged)
    {
        using var cache = new KiviUnderTest(paged, KvFormat.Kivi4, KvFormat.Kivi4, 5);
        cache.Append(new(2), [90, 100]);
        var free = cache.Pool?.FreePages;
        TensorLeaks.None(() =>
        {
            for (var i = 0; i < 1000; i++)
            {
                using var fork = cache.Cache.Fork();
                fork.Rewind(i % 2 == 0 ? 0 : 99);
                if (i % 3 == 0)
                    fork.Reorder([1, 1]);
            }
        });
        Assert.Equal(free, cache.Pool?.FreePages);
        cache.Check();
    }

    [Fact]
    public void Bytes_are_those_of_quantised_and_of_exact_tokens()
    {
        using var cache = new KiviUnderTest(false, KvFormat.Kivi4, KvFormat.Kivi4, 5);
        cache.Append(new(6), [70, 4]);

        // 64 keys and 65 values of a head are quantised, in 20 bytes each; the others take 128. Positions are of all heads.
        var (long_, short_) = ((64 + 65) * 20 + (6 + 5) * 128, 2 * 4 * 128);
        Assert.Equal(2 * (long_ + short_) + 74 * sizeof(int), cache.Cache.BytesUsed);
        Assert.Equal(2 * 2 * (2 * 224 * 20 + 2 * 37 * 128), cache.Cache.BytesReserved); // 200 tokens in whole blocks

        using var paged = new KiviUnderTest(true, KvFormat.Kivi4, KvFormat.Kivi4, 5);
        paged.Append(new(6), [70, 4]);
        Assert.Equal(2 * (3 + 1) * 32 * 40 + 2 * 2 * 2 * 37 * 128, paged.Cache.BytesReserved);

        // A window longer than the cache takes the memory of one as long.
        using KiviUnderTest all = new(false, KvFormat.Kivi4, KvFormat.Kivi4, 200), more = new(false, KvFormat.Kivi4, KvFormat.Kivi4, 9000);
        Assert.Equal(all.Cache.BytesReserved, more.Cache.BytesReserved);
    }

    [Fact]
    public void Nothing_can_be_evicted_and_the_message_says_what_to_do()
    {
        using var scope = torch.NewDisposeScope();
        using var under = new KiviUnderTest(false, KvFormat.Q8_0, KvFormat.Kivi4, 5);
        under.Append(new(7), [9, 8]);
        Assert.Contains("store in Q4_0", Assert.Throws<NotSupportedException>(
            () => under.Cache.Keep(0, [0, 1, 2, 3, 4], [0, 0, 0, 0])).Message, StringComparison.Ordinal);
        under.Check();

        using var model = TinyDecoder.Model();
        using var cache = model.CreateCache(60, KvFormat.Kivi4);
        var ids = TinyDecoder.Tokens(1, 40);
        using (model.CompressKv(new SnapKv(4), KvBudget.Tokens(64))) // also where there is nothing to evict yet
            Assert.Throws<NotSupportedException>(() => model.Prefill(ids, cache));
        Assert.Equal(0, cache.Length(0, 0));
        model.Prefill(ids, cache);
        using (model.CompressKv(new KNorm(), KvBudget.Tokens(8)))
            Assert.Throws<NotSupportedException>(() => model.Decode(ids.select(1, 0), cache));
        Assert.Equal(40, cache.NextPosition(0));
    }

    [Fact]
    public void Layouts_and_pools_that_do_not_fit_are_refused()
    {
        var layout = KiviUnderTest.Layout(KvFormat.Kivi4, KvFormat.F32, 5);
        Refused("heads of 48 in layer 0 are not a multiple of 32", layout with { Layers = [new(1, 48)] });
        Refused("ResidualLength", layout with { ResidualLength = -1 });
        Assert.Contains("pageTokens: 16 is not a multiple of 32", Assert.Throws<ArgumentException>(
            () => new KvPagePool(4, 32, KvFormat.Kivi4, KvFormat.F32)).Message, StringComparison.Ordinal);
        using var pool = new KvPagePool(4, 32, KvFormat.F32, KvFormat.Kivi4); // values are blocks of nothing

        static void Refused(string words, KvLayout layout) => Assert.Contains(
            words, Assert.ThrowsAny<ArgumentException>(() => new ContiguousKvCache(layout)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_decoder_generates_with_it(bool paged)
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        using var pool = new KvPagePool(200, 32, KvFormat.Kivi4, KvFormat.Kivi4, pageTokens: 32);
        var ids = TinyDecoder.Tokens(2, 120);
        var layout = model.Layout(130, KvFormat.Kivi4, KvFormat.Kivi4, batch: 2) with { ResidualLength = 8 };
        using KvCache cache = paged ? new PagedKvCache(pool, layout) : new ContiguousKvCache(layout);
        using KvCache exact = model.CreateCache(130, batch: 2), wide = model.CreateCache(130, KvFormat.Kivi4, batch: 2);
        using KvCache blocks = model.CreateCache(130, KvFormat.Q4_0, batch: 2);
        foreach (var each in (KvCache[])[cache, exact, wide, blocks])
            model.Prefill(ids.narrow(1, 0, 100), each, [100, 71]);
        var (greatest, ofBlocks) = (0.0, 0.0);
        for (var i = 100; i < 120; i++)
        {
            var (got, wanted) = (model.Decode(ids.select(1, i), cache), model.Decode(ids.select(1, i), exact));
            greatest = Math.Max(greatest, TinyDecoder.Distance(wanted, got));
            ofBlocks = Math.Max(ofBlocks, TinyDecoder.Distance(wanted, model.Decode(ids.select(1, i), blocks)));
            Assert.InRange(TinyDecoder.Distance(wanted, model.Decode(ids.select(1, i), wide)), 0, 1e-4); // nothing has left its window
        }

        Assert.InRange(greatest, 1e-5, 1.5 * ofBlocks); // rounded, and hardly further than by the other format of four bits
        var next = ids.narrow(1, 0, 5);
        model.Prefill(next, cache); // more of a conversation
        Assert.Equal((125, 96), (cache.NextPosition(0), cache.NextPosition(1)));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_pass_that_fails_is_taken_back_further_than_the_ring_reaches(bool paged)
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        using var pool = new KvPagePool(200, 32, KvFormat.Kivi4, KvFormat.Kivi4, pageTokens: 32);
        var layout = model.Layout(260, KvFormat.Kivi4, KvFormat.Kivi4) with { ResidualLength = 8 };
        using KvCache cache = paged ? new PagedKvCache(pool, layout) : new ContiguousKvCache(layout);
        var ids = TinyDecoder.Tokens(1, 260);
        model.Prefill(ids.narrow(1, 0, 60), cache);
        using var untouched = cache.Fork();
        var many = ids.narrow(1, 0, 150);
        TensorLeaks.None(() =>
        {
            using (model.AddHook(new Failing()))
                Assert.Throws<InvalidOperationException>(() => model.Prefill(many, cache));
        });

        Assert.Equal(60, cache.Length(0, 0));
        for (var i = 60; i < 140; i++) // past where the failed pass had overwritten the ring
            Assert.Equal(0, TinyDecoder.Distance(model.Decode(ids.select(1, i), untouched), model.Decode(ids.select(1, i), cache)));
    }

    /// <summary>Rows of [n, 32]: exact from one on; before it, of groups of so many rows and channels, to half of 15 steps.</summary>
    private static void RequireSteps(Tensor wanted, Tensor got, int length, int quantised, int tokens, int channels)
    {
        float[] w = wanted.contiguous().data<float>().ToArray(), g = got.contiguous().data<float>().ToArray();
        Assert.Equal(w[(quantised * 32)..(length * 32)], g[(quantised * 32)..(length * 32)]);
        for (var t = 0; t < quantised; t += tokens)
        {
            for (var c = 0; c < 32; c += channels)
            {
                int[] group = [.. Enumerable.Range(0, 32).Select(i => (t + i % tokens) * 32 + c + i / tokens)];
                // Scale and zero point are binary16, rounded outwards: of elements within ±1 by less than a thousandth each.
                var step = (group.Max(i => w[i]) - group.Min(i => w[i]) + 1e-3) / 15 * 1.001;
                Assert.All(group, i => Assert.InRange(g[i] - w[i], -step / 2, step / 2));
            }
        }

        Assert.True(quantised == 0 || !w.AsSpan(0, quantised * 32).SequenceEqual(g.AsSpan(0, quantised * 32)), "something is rounded");
    }

    private sealed class Failing : DecoderHook
    {
        public override void AfterAttention(LayerAttention attention)
        {
            if (attention.Layer == 1)
                throw new InvalidOperationException("on purpose");
        }
    }
}
