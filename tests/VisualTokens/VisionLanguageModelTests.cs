using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.VisualTokens;

/// <summary>An encoder, a projector and a decoder, with and without pruning.</summary>
[RequiresLibtorch]
public class VisionLanguageModelTests
{
    private const int Visual = 6, Pixels = 5, EncoderWidth = 7, Width = 16, Words = 9, Layers = 3;

    [Fact]
    public void Logits_are_those_of_the_text_behind_the_image()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model();
        var (images, text) = Batch(2);

        var logits = model.forward(images, text);

        var embeddings = torch.cat([model.Visual(images), model.Decoder.Embed(text)], 1);
        var expected = model.Decoder.ForwardEmbeddings(embeddings).narrow(1, Visual, text.shape[1]);
        Assert.Equal(PruningScene.Bits(expected), PruningScene.Bits(logits));
        logits.square().sum().backward();
        Assert.All(model.parameters(), parameter => Assert.NotNull(parameter.grad));
        using var cache = model.Decoder.CreateCache(20, batch: 2);
        var prefilled = model.Prefill(images, text, cache);
        Assert.InRange(PruningScene.Distance(logits.select(1, text.shape[1] - 1), prefilled), 0, 1e-5);
        Assert.Equal(Visual + text.shape[1], cache.Length(0, 0));
    }

    [Fact]
    public void A_policy_prunes_forward_and_prefill_until_it_is_taken_away()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model();
        var (images, text) = Batch(2);
        var plain = model.forward(images, text);
        using var cache = model.Decoder.CreateCache(20, batch: 2);

        using (model.Prune(new ChosenTokens([1], [[[0, 1, 5], [2]]])))
        {
            var pruned = model.forward(images, text);
            Assert.Equal(plain.shape, pruned.shape);
            var last = model.Prefill(images, text, cache);
            Assert.InRange(PruningScene.Distance(pruned.select(1, text.shape[1] - 1), last), 0, 1e-5);
            Assert.NotEqual(PruningScene.Bits(plain), PruningScene.Bits(pruned));
            Assert.Equal([3, 1], [.. Enumerable.Range(0, 2).Select(b => cache.Length(Layers - 1, b) - (int)text.shape[1])]);
            Assert.Equal(Visual, cache.Length(0, 1) - (int)text.shape[1]);
            Assert.Throws<InvalidOperationException>(() => model.Prune(new FastV(1, Budget.Ratio(0.5))));
        }

        Assert.Null(model.Pruning);
        Assert.Equal(PruningScene.Bits(plain), PruningScene.Bits(model.forward(images, text)));
    }

    [Fact]
    public void Every_policy_learns()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model();
        var (images, text) = Batch(2);
        DecoderPruning[] policies =
        [
            new FastV(1, Budget.Ratio(0.5)), new PyramidDrop([(1, 0.5), (2, 0.5)]), new SparseVlm([(1, 3)]), new StridePruning(1, 0.5),
            new RandomPruning(2, Budget.TopP(0.5), 3), new PooledPruning(1, PoolGrid.Window(2, 3, 2, 2)),
            new LeastAttended(2, Budget.Count(1)),
        ];
        foreach (var policy in policies)
        {
            using var pruning = model.Prune(policy);
            model.zero_grad();
            functional.cross_entropy(model.forward(images, text).flatten(0, 1), text.flatten()).backward();
            Assert.All(model.parameters(), parameter => Assert.True(parameter.grad!.isfinite().all().item<bool>()));
            Assert.True(model.Pruning!.Layout.VisualTokens < 2 * Visual);
        }
    }

    [Fact]
    public void What_does_not_fit_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model();
        var (images, text) = Batch(2);
        Assert.Contains("2 sequences for 1 images", Assert.Throws<ArgumentException>(
            () => model.forward(images.narrow(0, 0, 1), text)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => model.forward(images, text.select(0, 0)));
        Assert.Throws<ArgumentOutOfRangeException>(() => model.forward(images, text + Words));
        Assert.Throws<ArgumentException>(() => model.forward(images, text.to(torch.float32)));
        using var cache = model.Decoder.CreateCache(20, batch: 3);
        Assert.Throws<ArgumentException>(() => model.Prefill(images, text, cache));
        using var narrow = new VisionLanguageModel(Linear(Pixels, 3), EncoderWidth, Decoder());
        var encoder = Assert.Throws<InvalidOperationException>(() => narrow.forward(images, text));
        Assert.Contains("Float32[B, tokens, 7]", encoder.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => new VisionLanguageModel(Linear(1, 1), 0, model.Decoder));
    }

    private static CausalDecoder Decoder() => new(
        DecoderOptions.Uniform(Words, Width, Layers, queryHeads: 4, kvHeads: 2, feedForward: 20) with { InitialDeviation = 0.3 });

    private static VisionLanguageModel Model() => new(Linear(Pixels, EncoderWidth), EncoderWidth, Decoder());

    private static (Tensor Images, Tensor Text) Batch(int count) =>
        (torch.randn(count, Visual, Pixels), torch.randint(0, Words, [count, 4]));
}
