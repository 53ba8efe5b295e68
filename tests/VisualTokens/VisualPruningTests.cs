using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using static AuxCore.Tests.VisualTokens.PruningScene;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.VisualTokens;

/// <summary>Pruning between layers of a decoder, against plain formulas in which the dropped keys are masked.</summary>
[RequiresLibtorch]
public class VisualPruningTests
{
    private const double Tolerance = 1e-4;

    private static readonly int[][] Few = [[0, 3, 4, 11], [2, 5, 9, 10]], Fewer = [[1, 2], [0, 3]];

    public static TheoryData<int, PositionMode> Cuts => new()
    {
        { 1, PositionMode.Keep }, { 2, PositionMode.Keep }, { 3, PositionMode.Keep },
        { 1, PositionMode.Renumber }, { 2, PositionMode.Renumber },
    };

    [Theory]
    [MemberData(nameof(Cuts))]
    public void Dropping_equals_masking_at_prefill_and_over_decode_steps(int cut, PositionMode mode)
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length + 4, batch: scene.Batch);
        using var pruning = VisualPruning.Of(scene.Decoder, new ChosenTokens([cut], [Few], mode));
        pruning.Begin(scene.Layout, scene.Embeddings);

        var logits = scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);
        var inputs = scene.Embeddings;
        Check(logits);
        for (var step = 0; step < 4; step++)
        {
            var ids = scene.Ids(1).squeeze(1);
            inputs = torch.cat([inputs, scene.Decoder.Embed(ids).unsqueeze(1)], 1);
            Check(scene.Decoder.Decode(ids, cache));
        }

        for (var layer = 0; layer < DecoderLayers; layer++)
            Assert.Equal((layer < cut ? Length : Before + 4 + PruningScene.After) + 4, cache.Length(layer, 0));

        void Check(Tensor actual)
        {
            var (visible, moved) = After(inputs, [Few]);
            var expected = scene.Masked(inputs, layer => layer < cut
                ? (Positions(inputs), torch.ones_like(visible))
                : (mode == PositionMode.Keep ? Positions(inputs) : moved, visible));
            Assert.InRange(Distance(expected.select(1, -1), actual), 0, Tolerance);
        }
    }

    [Theory]
    [InlineData(PositionMode.Keep)]
    [InlineData(PositionMode.Renumber)]
    public void Two_cuts_drop_in_stages(PositionMode mode)
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length + 2, batch: scene.Batch);
        using var pruning = VisualPruning.Of(scene.Decoder, new ChosenTokens([1, 3], [Few, Fewer], mode));
        pruning.Begin(scene.Layout, scene.Embeddings);
        scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);

        var ids = scene.Ids(1).squeeze(1);
        var actual = scene.Decoder.Decode(ids, cache);

        var inputs = torch.cat([scene.Embeddings, scene.Decoder.Embed(ids).unsqueeze(1)], 1);
        var all = torch.ones(scene.Batch, inputs.shape[1], torch.@bool);
        var (first, firstMoved) = After(inputs, [Few]);
        var (second, secondMoved) = After(inputs, [Few, Fewer]);
        var expected = scene.Masked(inputs, layer => layer switch
        {
            0 => (Positions(inputs), all),
            1 or 2 => (mode == PositionMode.Keep ? Positions(inputs) : firstMoved, first),
            _ => (mode == PositionMode.Keep ? Positions(inputs) : secondMoved, second),
        });
        Assert.InRange(Distance(expected.select(1, -1), actual), 0, Tolerance);
        int[] lengths = [.. Enumerable.Range(0, DecoderLayers).Select(layer => cache.Length(layer, 1))];
        Assert.Equal([Length + 1, 4 + 5, 4 + 5, 2 + 5], lengths);
        Assert.Equal([Length, 8, 8, 6], [.. Enumerable.Range(0, DecoderLayers).Select(layer => pruning.LayoutOf(layer).Length(1))]);
    }

    [Fact]
    public void Gradients_go_through_what_was_kept_and_are_those_of_masking()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        var given = scene.Embeddings.clone().requires_grad_(true);
        var expectedGiven = scene.Embeddings.clone().requires_grad_(true);
        using var pruning = VisualPruning.Of(scene.Decoder, new ChosenTokens([2], [Few]));
        pruning.Begin(scene.Layout, given);
        var weights = scene.Random(scene.Batch, PruningScene.After, Vocabulary);

        var logits = scene.Decoder.ForwardEmbeddings(given);
        Assert.Equal([scene.Batch, Before + 4 + PruningScene.After, Vocabulary], logits.shape);
        (logits.narrow(1, Before + 4, PruningScene.After) * weights).sum().backward();
        var parameters = scene.Decoder.parameters().Where(parameter => parameter.grad is not null).ToArray(); // all but the embedding
        Tensor[] gradients = [.. parameters.Select(parameter => parameter.grad!.clone())];
        foreach (var parameter in parameters)
            parameter.grad = null;

        var (visible, _) = After(expectedGiven, [Few]);
        var expected = scene.Masked(
            expectedGiven, layer => (Positions(expectedGiven), layer < 2 ? torch.ones_like(visible) : visible));
        (expected.narrow(1, Length - PruningScene.After, PruningScene.After) * weights).sum().backward();

        Assert.InRange(Distance(expectedGiven.grad!, given.grad!) / expectedGiven.grad!.abs().max().item<float>(), 0, Tolerance);
        for (var i = 0; i < parameters.Length; i++)
        {
            var scale = parameters[i].grad!.abs().max().item<float>();
            Assert.InRange(Distance(parameters[i].grad!, gradients[i]) / scale, 0, Tolerance);
        }

        Assert.True(given.grad!.abs().sum(2).gt(0).all().item<bool>()); // dropped tokens were seen before they were dropped
    }

    [Theory]
    [InlineData(PositionMode.Keep)]
    [InlineData(PositionMode.Renumber)]
    public void Keeping_all_is_the_identity_bit_for_bit(PositionMode mode)
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        var ids = scene.Ids(1).squeeze(1);
        var plain = Run(null);
        var pruned = Run(new ChosenTokens([1, 2], (state, _) => VisualSelection.Highest(
            new float[state.Layout.VisualTokens], state.Layout, Budget.Ratio(1)), mode));

        Assert.Equal(plain, pruned);

        byte[][] Run(DecoderPruning? policy)
        {
            using var pruning = policy is null ? null : VisualPruning.Of(scene.Decoder, policy);
            using var cache = scene.Decoder.CreateCache(Length + 1, batch: scene.Batch);
            pruning?.Begin(scene.Layout, scene.Embeddings);
            var prompt = scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);
            var next = scene.Decoder.Decode(ids, cache);
            var given = scene.Embeddings.clone().requires_grad_(true);
            pruning?.Begin(scene.Layout, given);
            var forward = scene.Decoder.ForwardEmbeddings(given);
            forward.square().sum().backward();
            return [Bits(prompt), Bits(next), Bits(forward), Bits(given.grad!)];
        }
    }

    [Fact]
    public void Sequences_of_a_batch_keep_different_numbers_and_are_as_alone()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene(batch: 3);
        int[][] kept = [[], [0, 1, 2, 3, 4, 5, 6, 7], [5]];
        var ids = scene.Ids(2);
        using var cache = scene.Decoder.CreateCache(Length + 2, batch: 3);
        Tensor[] together = [.. Run(scene.Embeddings, scene.Layout, kept, ids, cache)];

        Assert.Equal([4, 12, 5], [.. Enumerable.Range(0, 3).Select(b => cache.Length(3, b) - 2)]);
        for (var b = 0; b < 3; b++)
        {
            using var own = scene.Decoder.CreateCache(Length + 2);
            Tensor[] alone = [.. Run(
                scene.Embeddings.narrow(0, b, 1), SequenceLayout.Uniform(1, Length, Before..(Before + Visual)), [kept[b]],
                ids.narrow(0, b, 1), own)];
            for (var i = 0; i < alone.Length; i++)
                Assert.InRange(Distance(alone[i], together[i].narrow(0, b, 1)), 0, 1e-5);
        }

        IEnumerable<Tensor> Run(Tensor embeddings, SequenceLayout layout, int[][] keep, Tensor words, KvCache into)
        {
            using var pruning = VisualPruning.Of(scene.Decoder, new ChosenTokens([2], [keep], PositionMode.Renumber));
            pruning.Begin(layout, embeddings);
            yield return scene.Decoder.PrefillEmbeddings(embeddings, into);
            yield return scene.Decoder.Decode(words.select(1, 0), into);
            yield return scene.Decoder.Decode(words.select(1, 1), into);
        }
    }

    [Fact]
    public void Prompts_of_different_lengths_are_padded_at_the_end()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        bool[] shorter = [true, true, true, true, false];
        var layout = SequenceLayout.Of([[.. scene.Layout.Visual(0)], shorter]);
        int[][] kept = [[0, 1], [3]];
        using var cache = scene.Decoder.CreateCache(Length, batch: 2);
        using var pruning = VisualPruning.Of(scene.Decoder, new ChosenTokens([1], [kept]));
        pruning.Begin(layout, scene.Embeddings);

        var logits = scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache, lengths: [Length, shorter.Length]);

        using var own = scene.Decoder.CreateCache(Length);
        var alone = scene.Embeddings.narrow(0, 1, 1).narrow(1, 0, shorter.Length);
        pruning.Dispose();
        using var again = VisualPruning.Of(scene.Decoder, new ChosenTokens([1], [[kept[1]]]));
        again.Begin(SequenceLayout.Of([shorter]), alone);
        Assert.InRange(Distance(scene.Decoder.PrefillEmbeddings(alone, own), logits.narrow(0, 1, 1)), 0, 1e-5);
        Assert.Equal([6, 2], [cache.Length(3, 0), cache.Length(3, 1)]);
    }

    [Fact]
    public void Merged_rows_are_means_at_the_place_and_position_of_their_owner()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene(batch: 1);
        int[] owners = [-1, 1, 1, 3, -1, 3, 1, -1, -1, -1, -1, 11];
        using var pruning = VisualPruning.Of(
            scene.Decoder, new ChosenTokens([2], (state, _) => VisualSelection.Groups(owners, state.Layout), PositionMode.Keep));
        pruning.Begin(scene.Layout, scene.Embeddings);

        var actual = scene.Decoder.ForwardEmbeddings(scene.Embeddings);

        var (hidden, all) = (scene.Embeddings, torch.ones(1, Length, torch.@bool));
        for (var layer = 0; layer < 2; layer++)
            hidden = scene.Plain.Layer(layer, hidden, Positions(hidden), all);
        long[] positions = [0, Before + 1, Before + 3, Before + 11, 13, 14, 15];
        Tensor Row(params long[] tokens) => hidden.index_select(1, torch.tensor(tokens) + Before).mean([1], keepdim: true);
        hidden = torch.cat([hidden.narrow(1, 0, 1), Row(1, 2, 6), Row(3, 5), Row(11), hidden.narrow(1, 13, 3)], 1);
        for (var layer = 2; layer < DecoderLayers; layer++)
            hidden = scene.Plain.Layer(layer, hidden, torch.tensor(positions).unsqueeze(0), torch.ones(1, 7, torch.@bool));
        Assert.InRange(Distance(scene.Plain.Logits(hidden), actual), 0, Tolerance);
    }

    [Fact]
    public void Only_the_pass_that_was_begun_is_pruned()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        var plain = scene.Decoder.ForwardEmbeddings(scene.Embeddings);
        using var pruning = VisualPruning.Of(scene.Decoder, new ChosenTokens([1], [Few], PositionMode.Renumber));
        pruning.Begin(scene.Layout, scene.Embeddings);
        Assert.Equal(8, scene.Decoder.ForwardEmbeddings(scene.Embeddings).shape[1]);

        Assert.Equal(Bits(plain), Bits(scene.Decoder.ForwardEmbeddings(scene.Embeddings)));
        pruning.Dispose();
        Assert.Throws<ObjectDisposedException>(() => pruning.Begin(scene.Layout, scene.Embeddings));
    }

    [Fact]
    public void No_tensor_is_left_behind()
    {
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length, batch: scene.Batch);
        var policy = new SparseVlm([(1, 6), (2, 3)]);
        TensorLeaks.None(() =>
        {
            using var pruning = VisualPruning.Of(scene.Decoder, policy);
            pruning.Begin(scene.Layout, scene.Embeddings);
            scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache).Dispose();
            pruning.Begin(scene.Layout, scene.Embeddings); // begun, and never run
        });
    }

    [Fact]
    public void A_policy_that_fails_leaves_the_cache_as_it_was()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length, batch: scene.Batch);
        using var pruning = VisualPruning.Of(scene.Decoder, new FastV(2, Budget.Count(Visual + 1)));
        pruning.Begin(scene.Layout, scene.Embeddings);

        var error = Assert.Throws<ArgumentException>(() => scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache));

        Assert.Contains("12", error.Message, StringComparison.Ordinal);
        Assert.All(Enumerable.Range(0, DecoderLayers), layer => Assert.Equal(0, cache.Length(layer, 0)));
    }

    [Fact]
    public void What_does_not_fit_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        var late = Assert.Throws<ArgumentException>(() => VisualPruning.Of(scene.Decoder, new FastV(DecoderLayers, Budget.Ratio(0.5))));
        Assert.Contains("4 layers", late.Message, StringComparison.Ordinal);
        Assert.Contains("ascend", Assert.Throws<ArgumentException>(() => new PyramidDrop([(2, 0.5), (2, 0.5)])).Message,
            StringComparison.Ordinal);
        Assert.Contains("ascend", Assert.Throws<ArgumentException>(() => new FastV(0, Budget.Ratio(0.5))).Message,
            StringComparison.Ordinal);

        var foreignChoice = ChosenTokens.Keep(SequenceLayout.Uniform(1, 3, 0..2), [[0]]);
        using var pruning = VisualPruning.Of(scene.Decoder, new ChosenTokens([1], (_, _) => foreignChoice, PositionMode.Keep));
        Assert.Throws<InvalidOperationException>(() => pruning.Layout);
        var shape = Assert.Throws<ArgumentException>(() => pruning.Begin(scene.Layout, scene.Embeddings.narrow(1, 0, 5)));
        Assert.Contains("[2,5,16]", shape.Message.Replace(" ", "", StringComparison.Ordinal), StringComparison.Ordinal);
        pruning.Begin(scene.Layout, scene.Embeddings);
        var foreign = Assert.Throws<InvalidOperationException>(() => scene.Decoder.ForwardEmbeddings(scene.Embeddings));
        Assert.Contains("of 2 visual tokens, but there are 24", foreign.Message, StringComparison.Ordinal);

        pruning.Begin(scene.Layout, scene.Embeddings);
        var mask = Assert.Throws<ArgumentException>(() => scene.Decoder.ForwardEmbeddings(
            scene.Embeddings, keyMask: torch.ones(scene.Batch, Length, torch.@bool)));
        Assert.Contains("key mask", mask.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => pruning.LayoutOf(DecoderLayers));
    }

    [Fact]
    public void Going_on_with_another_number_of_sequences_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length, batch: 2);
        using var other = scene.Decoder.CreateCache(Length, batch: 3);
        using var pruning = VisualPruning.Of(scene.Decoder, new ChosenTokens([1], [Few], PositionMode.Renumber));
        pruning.Begin(scene.Layout, scene.Embeddings);
        scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);

        var error = Assert.Throws<ArgumentException>(() => scene.Decoder.Prefill(torch.zeros(3, 2, torch.int64), other));

        Assert.Contains("3 sequences", error.Message, StringComparison.Ordinal);
    }

    // Which rows may be seen after some cuts, and the positions they have when numbered anew; those of dropped rows do not matter.
    private static (Tensor Visible, Tensor Positions) After(Tensor inputs, int[][][] stages)
    {
        var (batch, length) = ((int)inputs.shape[0], (int)inputs.shape[1]);
        var visible = torch.ones(batch, length, torch.@bool);
        var positions = torch.zeros(batch, length, torch.int64);
        for (var b = 0; b < batch; b++)
        {
            int[] left = [.. Enumerable.Range(0, Visual)];
            foreach (var stage in stages)
                left = [.. stage[b].Select(i => left[i])];
            var next = 0L;
            for (var i = 0; i < length; i++)
            {
                var kept = i < Before || i >= Before + Visual || left.Contains(i - Before);
                visible[b, i] = kept;
                positions[b, i] = next;
                next += kept ? 1 : 0;
            }
        }

        return (visible, positions);
    }
}
