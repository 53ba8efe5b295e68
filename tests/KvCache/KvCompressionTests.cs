using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests;

/// <summary>Compression of caches while a decoder reads and writes.</summary>
[RequiresLibtorch]
public sealed class KvCompressionTests
{
    public static TheoryData<string> Rules => [.. Scorers.Keys];

    private static Dictionary<string, Func<IKvScorer>> Scorers { get; } = new()
    {
        ["StreamingLlm"] = () => new StreamingLlm(),
        ["KNorm"] = () => new KNorm(),
        ["KeyDiff"] = () => new KeyDiff(),
        ["CurDkv"] = () => new CurDkv(),
        ["Tova"] = () => new Tova(),
        ["SnapKv"] = () => new SnapKv(4),
        ["H2O"] = () => new H2O(2),
        ["ExpectedAttention"] = () => new ExpectedAttention(),
        ["LagKv"] = () => new LagKv(6, 2),
        ["AdaKv"] = () => new AdaKv(new SnapKv(4)),
        ["AdaKvKNorm"] = () => new AdaKv(new KNorm()),
    };

    [Theory]
    [MemberData(nameof(Rules))]
    public void A_prompt_is_cut_to_the_budget_and_generation_goes_on(string rule)
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(2, 40);
        using var cache = model.CreateCache(40, batch: 2);
        using var compression = model.CompressKv(Scorers[rule](), KvBudget.Tokens(12), new() { DecodeInterval = 3 });

        var logits = model.Prefill(ids.narrow(1, 0, 30), cache, [30, 21]);
        for (var layer = 0; layer < 3; layer++)
        {
            for (var b = 0; b < 2; b++)
                Assert.Equal(12 * cache.Layout.Layers[layer].KvHeads, Held(cache, layer, b));
        }

        Assert.Equal((30, 21), (cache.NextPosition(0), cache.NextPosition(1)));
        Assert.Equal((2 + 3 + 2) * (18 + 9), compression.Evicted);
        for (var step = 0; step < 10; step++)
        {
            logits = model.Decode(ids.select(1, 30 + step), cache);
            Assert.True(logits.isfinite().all().item<bool>());
        }

        // While decoding, budgets are exceeded by three tokens at most; statistics of the prompt are not there then.
        Assert.Equal((40, 31), (cache.NextPosition(0), cache.NextPosition(1)));
        var expected = rule == "ExpectedAttention" ? 22 : 15;
        Assert.InRange(Held(cache, 1, 0), 3 * 12, 3 * expected);
    }

    [Fact]
    public void A_sequence_within_its_slack_keeps_all_while_another_is_compressed()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        using var cache = model.CreateCache(40, batch: 2);
        using var compression = model.CompressKv(new KNorm(), KvBudget.Tokens(12), new() { DecodeInterval = 3 });

        model.Prefill(TinyDecoder.Tokens(2, 30), cache, [30, 11]);
        for (var step = 0; step < 4; step++) // to 16 and to 15, of which 12 and 3 more may be there
            model.Decode(TinyDecoder.Tokens(2, 1).select(1, 0), cache);

        Assert.Equal((12, 15), (cache.Length(1, 0), cache.Length(1, 1)));
    }

    [Fact]
    public void A_budget_beyond_the_prompt_changes_nothing()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(1, 12);
        using var cache = model.CreateCache(12);
        using (model.CompressKv(new SnapKv(4), KvBudget.Tokens(64)))
            model.Prefill(ids.narrow(1, 0, 11), cache);

        var logits = model.Decode(ids.select(1, 11), cache);

        Assert.InRange(TinyDecoder.Distance(model.forward(ids).select(1, 11), logits), 0, 1e-4);
    }

    [Fact]
    public void What_is_kept_is_attended_to_as_if_there_had_been_nothing_else()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model(TinyDecoder.Options() with { Layers = [new(4, 2, 40)] });
        var ids = TinyDecoder.Tokens(1, 14);
        using var cache = model.CreateCache(14);
        using (model.CompressKv(new StreamingLlm(2), KvBudget.Tokens(6)))
            model.Prefill(ids.narrow(1, 0, 13), cache);
        Assert.Equal([0, 1, 9, 10, 11, 12], cache.Positions(0, 0, 1));

        var logits = model.Decode(ids.select(1, 13), cache);

        // One layer, whose keys do not depend on each other: the kept tokens at their own positions are all that the last one sees.
        long[] left = [0, 1, 9, 10, 11, 12, 13];
        var alone = model.forward(ids.index_select(1, torch.tensor(left)), torch.tensor(left).unsqueeze(0));
        Assert.InRange(TinyDecoder.Distance(alone.select(1, 6), logits), 0, 1e-4);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void What_a_rule_of_ones_own_keeps_is_what_a_sort_keeps(bool paged, bool shares)
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        using var pool = new KvPagePool(300, 32, KvFormat.F32, KvFormat.F32, pageTokens: 4);
        using KvCache cache = paged ? model.CreateCache(pool, 30, batch: 2) : model.CreateCache(30, batch: 2);
        using (model.CompressKv(shares ? new AdaKv(new Tied(), floor: 0.5) : new Tied(), new Uneven()))
            model.Prefill(TinyDecoder.Tokens(2, 30), cache, [30, 19]);

        for (var layer = 0; layer < 3; layer++)
        {
            for (var b = 0; b < 2; b++)
            {
                var (heads, length) = (cache.Layout.Layers[layer].KvHeads, b == 0 ? 30 : 19);
                var all = Enumerable.Range(0, heads * length).Select(i => (Head: i / length, Slot: i % length));
                var ranked = all.OrderByDescending(x => Tied.ScoreOf(x.Head, x.Slot)).ThenBy(x => x.Head).ThenBy(x => x.Slot).ToList();
                if (shares) // half of its budget is each head's own
                {
                    var own = ranked.GroupBy(x => x.Head).SelectMany(group => group.Take((3 + 4 * group.Key) / 2)).ToHashSet();
                    ranked = [.. ranked.OrderBy(x => own.Contains(x) ? 0 : 1)];
                }

                var total = Enumerable.Range(0, heads).Sum(head => 3 + 4 * head);
                for (var head = 0; head < heads; head++)
                {
                    var wanted = shares
                        ? ranked.Take(total).Where(x => x.Head == head)
                        : ranked.Where(x => x.Head == head).Take(3 + 4 * head);
                    Assert.Equal(wanted.Select(x => x.Slot).Order(), cache.Positions(layer, b, head).ToArray());
                }
            }
        }
    }

    [Fact]
    public void After_the_scope_nothing_is_compressed()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        using var cache = model.CreateCache(20);
        model.CompressKv(new KNorm(), KvBudget.Tokens(2)).Dispose();

        model.Prefill(TinyDecoder.Tokens(1, 20), cache);

        Assert.Equal(20, cache.Length(0, 0));
    }

    [Fact]
    public void Heads_that_compete_free_the_memory_of_what_they_give_up()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        using var pool = new KvPagePool(600, 32, KvFormat.Q8_0, KvFormat.Q8_0);
        using KvCache whole = model.CreateCache(pool, 512), half = model.CreateCache(pool, 512);
        var ids = TinyDecoder.Tokens(1, 512);
        model.Prefill(ids, whole);
        var (used, pages) = (whole.BytesUsed, pool.BytesUsed);
        using (model.CompressKv(new AdaKv(new SnapKv(32)), KvBudget.Ratio(0.5)))
            model.Prefill(ids, half);

        Assert.Contains(Enumerable.Range(0, 3), head => half.Length(1, 0, head) != 256); // ragged
        Assert.True(half.BytesUsed <= 0.55 * used, $"{half.BytesUsed} of {used}");
        Assert.True(half.BytesReserved <= 0.55 * whole.BytesReserved, $"{half.BytesReserved} of {whole.BytesReserved}");
        Assert.Equal(half.BytesReserved, pool.BytesUsed - pages);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_a_fork_gives_up_the_other_keeps(bool compete)
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        using var pool = new KvPagePool(300, 32, KvFormat.F32, KvFormat.F32, pageTokens: 4);
        using KvCache cache = model.CreateCache(pool, 30);
        model.Prefill(TinyDecoder.Tokens(1, 20), cache);
        var (keys, values) = (cache.Materialise(1).Keys, cache.Materialise(1).Values);
        using var fork = cache.Fork();
        using (model.CompressKv(compete ? new AdaKv(new KNorm()) : new KNorm(), KvBudget.Tokens(8), new() { DecodeInterval = 1 }))
            model.Decode(TinyDecoder.Tokens(1, 1).select(1, 0), fork);

        Assert.Equal(3 * 8, Held(fork, 1, 0));
        Assert.Equal(0, TinyDecoder.Distance(keys, cache.Materialise(1).Keys));
        Assert.Equal(0, TinyDecoder.Distance(values, cache.Materialise(1).Values));
    }

    [Fact]
    public void Values_are_not_merged_where_pages_run_out_and_nothing_is_evicted()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model(TinyDecoder.Options() with { Layers = [new(2, 2, 40)] });
        // The token takes copies of both heads' last pages, and what the second gives up one of its first; merging wants one more.
        using var pool = new KvPagePool(7, 32, KvFormat.F32, KvFormat.F32, pageTokens: 4);
        using KvCache cache = model.CreateCache(pool, 30);
        model.Prefill(TinyDecoder.Tokens(1, 7), cache);
        using var fork = cache.Fork();
        using var compression = model.CompressKv(
            new KNorm(), KvBudget.PerHead(8, 2), new() { DecodeInterval = 1, MergeValues = true });
        var before = cache.Materialise(0);

        Assert.Throws<KvCapacityException>(() => model.Decode(TinyDecoder.Tokens(1, 1).select(1, 0), cache));

        Assert.Equal((7, 7, 0), (cache.Length(0, 0, 0), cache.Length(0, 0, 1), compression.Evicted));
        Assert.Equal(0, TinyDecoder.Distance(before.Values, cache.Materialise(0).Values));
    }

    [Fact]
    public void Heavy_hitters_are_those_of_the_attention_matrix()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model(TinyDecoder.Options() with { Layers = [new(4, 2, 40)] });
        var ids = TinyDecoder.Tokens(1, 9);
        using var cache = model.CreateCache(9);
        var reader = new Reader();
        using (model.AddHook(reader))
            model.forward(ids);
        using (model.CompressKv(new H2O(), KvBudget.Tokens(100)))
        {
            model.Prefill(ids.narrow(1, 0, 5), cache); // the first queries, in libtorch's attention
            model.Prefill(ids.narrow(1, 5, 1), cache);
            for (var i = 6; i < 9; i++)
                model.Decode(ids.select(1, i), cache); // the others in ours
        }

        var sums = cache.Observations!.Sums(0)!;
        for (var head = 0; head < 2; head++)
        {
            for (var i = 0; i < 9; i++)
                Assert.InRange(sums[head * 9 + i] - reader.Column(head, i), -1e-4, 1e-4);
        }

        using var fork = cache.Fork();
        fork.Rewind(4);
        Assert.Equal(0, fork.Observations!.Sums(0)![5]);
        Assert.NotEqual(0, cache.Observations.Sums(0)![5]);

        float[] kept = [sums[1], sums[4], sums[8], 0, 0, 0, 0, 0, 0, sums[9], sums[9 + 7], 0, 0, 0, 0, 0, 0, 0];
        cache.Keep(0, [0, 3, 5], [1, 4, 8, 0, 7]);
        Assert.Equal(kept, cache.Observations.Sums(0));
    }

    [Fact]
    public void Values_of_evicted_tokens_are_merged_into_the_most_similar_kept_ones()
    {
        using var scope = torch.NewDisposeScope();
        float[] keys = [1, 0, 0, 1, 3, 1, -1, -1], values = [2, 0, 0, 1, 0, 4, 5, 5];
        using var cache = new ContiguousKvCache(new([new(1, 2)], 1, 4, KvFormat.F32, KvFormat.F32));
        cache.Append(0, torch.tensor(keys).view(1, 1, 4, 2), torch.tensor(values).view(1, 1, 4, 2), [0, 1, 2, 3]);

        // Kept 0 and 1; 2 is more similar to 0, with cos 3 / √10 and norms 4 and 2; 3 is unlike both.
        var merged = ValueMerge.Merged(cache.Materialise(0), [[0, 1]]).data<float>().ToArray();

        var weight = 3 / Math.Sqrt(10) * 4 / 6;
        Assert.Equal(2 / (1 + weight), merged[0], 1e-6);
        Assert.Equal(4 * weight / (1 + weight), merged[1], 1e-6);
        Assert.Equal([0, 1], merged[2..4]);
    }

    [Fact]
    public void Merging_changes_values_and_no_keys()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        using KvCache plain = model.CreateCache(20, KvFormat.Q8_0), merged = model.CreateCache(20, KvFormat.Q8_0);
        var ids = TinyDecoder.Tokens(1, 20);
        using (model.CompressKv(new KNorm(), KvBudget.Tokens(8)))
            model.Prefill(ids, plain);
        using (model.CompressKv(new KNorm(), KvBudget.Tokens(8), new() { MergeValues = true }))
            model.Prefill(ids, merged);

        Assert.Equal(0, TinyDecoder.Distance(plain.Materialise(1).Keys, merged.Materialise(1).Keys));
        Assert.True(TinyDecoder.Distance(plain.Materialise(1).Values, merged.Materialise(1).Values) > 1e-3);
    }

    [Fact]
    public void Compression_leaves_no_tensor_and_no_page_behind()
    {
        using var model = TinyDecoder.Model();
        using var pool = new KvPagePool(200, 32, KvFormat.F16, KvFormat.Q4_0, pageTokens: 4);
        TensorLeaks.None(() =>
        {
            using var scope = torch.NewDisposeScope();
            foreach (var (_, make) in Scorers)
            {
                using var cache = model.CreateCache(pool, 64);
                using var compression = model.CompressKv(make(), KvBudget.Tokens(8), new() { DecodeInterval = 1, MergeValues = true });
                model.Prefill(TinyDecoder.Tokens(1, 20), cache);
                using var fork = cache.Fork();
                for (var i = 0; i < 4; i++)
                    model.Decode(TinyDecoder.Tokens(1, 1).squeeze(0), fork);
            }
        });
        Assert.Equal(200, pool.FreePages);
    }

    [Fact]
    public void Wrong_arguments_are_refused_and_no_hook_stays()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        Assert.Throws<ArgumentNullException>(() => model.CompressKv(null!, KvBudget.Tokens(1)));
        Assert.Throws<ArgumentNullException>(() => model.CompressKv(new KNorm(), null!));
        Assert.Throws<ArgumentOutOfRangeException>(() => model.CompressKv(new KNorm(), KvBudget.Tokens(1), new() { DecodeInterval = -1 }));
        using var cache = model.CreateCache(8);
        using (model.CompressKv(new KNorm(), KvBudget.PerHead(1, 2, 3))) // layer 0 has two heads
            Assert.Contains("layer 0", Assert.Throws<ArgumentException>(
                () => model.Prefill(TinyDecoder.Tokens(1, 8), cache)).Message, StringComparison.Ordinal);
        Assert.Equal(0, cache.Length(0, 0));
        model.Prefill(TinyDecoder.Tokens(1, 8), cache);
        Assert.Equal(8, cache.Length(0, 0));
    }

    /// <summary>Scores of few values.</summary>
    private sealed class Tied : IKvScorer
    {
        public KvScorerNeeds Needs => default;

        public static int ScoreOf(int head, int slot) => (slot * 7 + head) % 5;

        public void Score(in KvScoreContext context, Span<float> scores)
        {
            for (var i = 0; i < scores.Length; i++)
                scores[i] = ScoreOf(i / context.Length, i % context.Length);
        }
    }

    /// <summary>3 tokens of the first head, 4 more of each other.</summary>
    private sealed class Uneven : KvBudget
    {
        public override int Keep(KvHeadPlace place) => 3 + 4 * place.Head;
    }

    private static int Held(KvCache cache, int layer, int sequence) =>
        Enumerable.Range(0, cache.Layout.Layers[layer].KvHeads).Sum(head => cache.Length(layer, sequence, head));

    /// <summary>The attention matrix of the first layer, summed over queries and the heads of a group.</summary>
    private sealed class Reader : DecoderHook
    {
        private float[] _columns = [];

        public float Column(int head, int i) => _columns[head * (_columns.Length / 2) + i];

        public override void AfterAttention(LayerAttention attention)
        {
            using var scope = torch.NewDisposeScope();
            using var noGrad = torch.no_grad();
            var (queries, keys) = (attention.Queries, attention.Keys.repeat_interleave(2, 1));
            var n = keys.shape[2];
            var logits = torch.matmul(queries, keys.transpose(2, 3)) / Math.Sqrt(keys.shape[3]);
            var hidden = torch.ones(n, n, torch.@bool).tril().logical_not();
            var weights = logits.masked_fill(hidden, float.NegativeInfinity).softmax(-1).sum(new long[] { 2 });
            _columns = weights.view(2, 2, n).sum(new long[] { 1 }).contiguous().data<float>().ToArray();
        }
    }
}
