using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests;

/// <summary>Prefill and decoding through caches, against the whole sequence at once.</summary>
[RequiresLibtorch]
public sealed class GenerationTests
{
    private const double Tolerance = 1e-4;

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 7)]
    [InlineData(3, 13)]
    public void Prefill_and_steps_give_the_logits_of_the_whole_sequence(int batch, int prompt)
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(batch, 16);
        var whole = model.forward(ids);
        using var cache = model.CreateCache(16, batch: batch);

        var logits = model.Prefill(ids.narrow(1, 0, prompt), cache);
        for (var at = prompt; ; at++)
        {
            Assert.InRange(TinyDecoder.Distance(whole.select(1, at - 1), logits), 0, Tolerance);
            Assert.Equal(at, cache.NextPosition(0));
            Assert.Equal(at, cache.Length(1, batch - 1));
            if (at == 16)
                break;
            logits = model.Decode(ids.select(1, at), cache);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_step_that_a_hook_reads_gives_what_a_fused_one_gives(bool norms)
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model(TinyDecoder.Options(biases: true, norms: norms));
        var ids = TinyDecoder.Tokens(2, 9);
        using var cache = model.CreateCache(9, batch: 2);
        model.Prefill(ids.narrow(1, 0, 8), cache);
        using var fork = cache.Fork();
        var hook = new Counting();

        var fused = model.Decode(ids.select(1, 8), cache);
        Tensor read;
        using (model.AddHook(hook))
            read = model.Decode(ids.select(1, 8), fork);

        Assert.Equal(3, hook.Calls);
        Assert.InRange(TinyDecoder.Distance(fused, read), 0, 2e-5);
        Assert.InRange(TinyDecoder.Distance(model.forward(ids).select(1, 8), fused), 0, Tolerance);
    }

    [Fact]
    public void A_prompt_may_come_in_parts()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(2, 12);
        using var cache = model.CreateCache(12, batch: 2);

        model.Prefill(ids.narrow(1, 0, 5), cache);
        model.Decode(ids.select(1, 5), cache);
        var logits = model.Prefill(ids.narrow(1, 6, 6), cache);

        Assert.InRange(TinyDecoder.Distance(model.forward(ids).select(1, 11), logits), 0, Tolerance);
    }

    [Fact]
    public void Prompts_of_unequal_length_are_padded_on_the_right()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        int[] lengths = [9, 1, 6];
        var ids = TinyDecoder.Tokens(3, 14);
        using var cache = model.CreateCache(16, batch: 3);

        var logits = model.Prefill(ids.narrow(1, 0, 9), cache, lengths);
        for (var step = 0; step < 4; step++)
        {
            for (var b = 0; b < 3; b++)
            {
                var own = torch.cat([ids[b].narrow(0, 0, lengths[b]), ids[b].narrow(0, 10, step)]).unsqueeze(0);
                Assert.InRange(TinyDecoder.Distance(model.forward(own).select(1, -1).squeeze(0), logits[b]), 0, Tolerance);
                Assert.Equal(lengths[b] + step, cache.NextPosition(b));
                Assert.Equal(lengths[b] + step, cache.Length(0, b));
            }

            if (step < 3)
                logits = model.Decode(ids.select(1, 10 + step), cache);
        }

        // More of each conversation, again of unequal length.
        var more = model.Prefill(ids.narrow(1, 0, 2), cache, [2, 1, 2]);
        var second = torch.cat([ids[1].narrow(0, 0, 1), ids[1].narrow(0, 10, 3), ids[1].narrow(0, 0, 1)]).unsqueeze(0);
        Assert.InRange(TinyDecoder.Distance(model.forward(second).select(1, -1).squeeze(0), more[1]), 0, Tolerance);
    }

    [Fact]
    public void Rows_dropped_after_a_layer_are_missing_in_the_caches_of_later_layers()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(1, 8);
        using var cache = model.CreateCache(8);
        using (model.AddHook(new Pruning()))
            model.Prefill(ids.narrow(1, 0, 6), cache);

        Assert.Equal((6, 4, 4), (cache.Length(0, 0), cache.Length(1, 0), cache.Length(2, 0)));
        Assert.Equal([0, 2, 3, 5], cache.Positions(2, 0, 1));
        Assert.Equal(6, cache.NextPosition(0));
        model.Decode(ids.select(1, 6), cache);
        Assert.Equal([0, 2, 3, 5, 6], cache.Positions(2, 0, 1));
    }

    [Fact]
    public void After_any_failure_the_cache_is_as_it_was()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(1, 10);
        using var cache = model.CreateCache(8);
        model.Prefill(ids.narrow(1, 0, 6), cache);

        Assert.Contains("room for 8", Assert.Throws<KvCapacityException>(
            () => model.Prefill(ids.narrow(1, 6, 3), cache)).Message, StringComparison.Ordinal);
        using (model.AddHook(new Failing()))
            Assert.Throws<InvalidOperationException>(() => model.Prefill(ids.narrow(1, 6, 2), cache));
        Assert.Throws<ArgumentOutOfRangeException>(() => model.Decode(torch.tensor(new long[] { 99 }), cache));

        Assert.All(Enumerable.Range(0, 3), layer => Assert.Equal(6, cache.Length(layer, 0)));
        Assert.Equal(6, cache.NextPosition(0));
        var logits = model.Decode(ids.select(1, 6), cache);
        Assert.InRange(TinyDecoder.Distance(model.forward(ids.narrow(1, 0, 7)).select(1, 6), logits), 0, Tolerance);
    }

    [Fact]
    public void Generation_leaves_no_tensor_behind()
    {
        using var model = TinyDecoder.Model();
        TensorLeaks.None(() =>
        {
            using var scope = torch.NewDisposeScope();
            using var cache = model.CreateCache(16, KvFormat.Q8_0);
            model.Prefill(TinyDecoder.Tokens(1, 6), cache);
            for (var i = 0; i < 5; i++)
                model.Decode(TinyDecoder.Tokens(1, 1).squeeze(0), cache);
        });
    }

    [Fact]
    public void The_cache_outlives_the_scope_it_was_made_in()
    {
        using var model = TinyDecoder.Model();
        KvCache cache;
        using (torch.NewDisposeScope())
        {
            cache = model.CreateCache(8);
            model.Prefill(TinyDecoder.Tokens(1, 6), cache);
        }

        using (torch.NewDisposeScope())
            Assert.Equal(6, cache.Materialise(0).Keys.shape[2]);
        cache.Dispose();
        Assert.Throws<ObjectDisposedException>(() => cache.Fork());
    }

    [Fact]
    public void Caches_and_prompts_that_do_not_fit_are_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        using var other = TinyDecoder.Model(TinyDecoder.Options() with { Layers = [new(4, 4, 8)] });
        using var foreign = other.CreateCache(8);
        using var cache = model.CreateCache(8);
        var ids = TinyDecoder.Tokens(1, 4);

        Refused("layer 0", () => model.Prefill(ids, foreign));
        Refused("2 sequences", () => model.Prefill(TinyDecoder.Tokens(2, 4), cache));
        Refused("lengths", () => model.Prefill(ids, cache, [4, 4]));
        Refused("Lengths[0]", () => model.Prefill(ids, cache, [5]));
        Refused("Lengths[0]", () => model.Prefill(ids, cache, [0]));
        Refused("Int64[B]", () => model.Decode(ids, cache));
        Refused("Int64[B, L]", () => model.Prefill(ids.squeeze(0), cache));
        Assert.Equal(0, cache.Length(0, 0));

        static void Refused(string words, Action action) => Assert.Contains(
            words, Assert.ThrowsAny<ArgumentException>(action).Message, StringComparison.OrdinalIgnoreCase);
    }

    private sealed class Pruning : DecoderHook
    {
        public override DecoderRows AfterLayer(int layer, DecoderPhase phase, DecoderRows rows)
        {
            if (layer != 0 || phase != DecoderPhase.Prefill)
                return rows;
            var index = torch.tensor(new long[] { 0, 2, 3, 5 });
            return rows with { Hidden = rows.Hidden.index_select(1, index), Positions = rows.Positions.index_select(1, index) };
        }
    }

    private sealed class Counting : DecoderHook
    {
        public int Calls { get; private set; }

        public override void AfterAttention(LayerAttention attention) => Calls++;
    }

    private sealed class Failing : DecoderHook
    {
        public override void AfterAttention(LayerAttention attention)
        {
            if (attention.Layer == 1)
                throw new InvalidOperationException("of the hook");
        }
    }
}
