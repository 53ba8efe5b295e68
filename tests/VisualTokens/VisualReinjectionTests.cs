using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using static AuxCore.Tests.VisualTokens.PruningScene;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.VisualTokens;

/// <summary>When an image is shown again, what leaves the cache and what comes into it.</summary>
[RequiresLibtorch]
public class VisualReinjectionTests
{
    private const int Height = 3, Wide = 4;

    [Fact]
    public void Decoding_afterwards_equals_a_plain_pass_over_the_same_visible_rows()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length + 12, batch: scene.Batch);
        var tvc = new VisualReinjection(
            scene.Decoder, new() { At = [2], Bridge = [7, 8], Pooling = VisualPooling.PoolWindow(2, 2) });
        scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);
        tvc.Begin(cache, scene.Layout);
        var said = scene.Ids(4);
        var image = scene.Random(scene.Batch, Visual, PruningScene.Width);
        scene.Decoder.Decode(said.select(1, 0), cache);
        Assert.False(tvc.Observe(said.select(1, 0)));
        Assert.True(tvc.Observe(said.select(1, 1)));

        var reinjected = tvc.Reinject(cache, image, Height, Wide);
        var first = scene.Decoder.Decode(said.select(1, 1), cache);
        var second = scene.Decoder.Decode(said.select(1, 2), cache);

        // Prompt, one word, bridge, the pooled image, two words; what was cached was computed while the old image was there.
        var pooled = torch.stack(
            [.. new[] { (0, 0), (0, 2), (2, 0), (2, 2) }.Select(cell => Cell(image, cell.Item1, cell.Item2))], 1);
        var before = torch.cat([scene.Embeddings, Words(scene, said, 0, 1)], 1);
        var after = torch.cat(
            [scene.Decoder.Embed(torch.tensor([7L, 8L])).unsqueeze(0).expand(2, 2, -1), pooled, Words(scene, said, 1, 2)], 1);
        var expected = WithoutTheImage(scene, before, after);
        Assert.InRange(Distance(expected.select(1, 5), reinjected), 0, 1e-4);
        Assert.InRange(Distance(expected.select(1, 6), first), 0, 1e-4);
        Assert.InRange(Distance(expected.select(1, 7), second), 0, 1e-4);
        Assert.Equal((2, 1, false), (tvc.Generated, tvc.Reinjections, tvc.IsDue));
    }

    [Fact]
    public void Old_rows_leave_every_layer_and_text_keeps_its_positions()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length + 5, batch: scene.Batch);
        var tvc = new VisualReinjection(scene.Decoder, new() { Interval = 1, Bridge = [3], Pooling = VisualPooling.PoolToGrid(1, 2) });
        scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);
        tvc.Begin(cache, scene.Layout);

        tvc.Observe(1, 1);
        tvc.Reinject(cache, scene.Random(2, Visual, PruningScene.Width), Height, Wide);
        int[] text = [0, 13, 14, 15];
        AssertPositions([.. text, 16, 17, 18]);

        tvc.Observe(1, 1);
        tvc.Reinject(cache, scene.Random(2, Visual, PruningScene.Width), Height, Wide);
        AssertPositions([.. text, 16, 19, 20, 21]); // the bridge of the first time stays: it is text

        tvc.EvictVisual(cache);
        AssertPositions([.. text, 16, 19]);

        void AssertPositions(int[] expected)
        {
            for (var layer = 0; layer < DecoderLayers; layer++)
            {
                for (var b = 0; b < 2; b++)
                {
                    Assert.Equal(expected.Length, cache.Length(layer, b));
                    Assert.Equal(expected, cache.Positions(layer, b, 1).ToArray());
                }
            }
        }
    }

    [Fact]
    public void Rows_that_a_policy_left_are_found_in_each_layer()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length + 4, batch: scene.Batch);
        using var pruning = VisualPruning.Of(scene.Decoder, new PyramidDrop([(1, 0.5), (3, 0.5)]));
        pruning.Begin(scene.Layout, scene.Embeddings);
        scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);
        var tvc = new VisualReinjection(scene.Decoder, new() { Interval = 1, Pooling = VisualPooling.None, Evict = true });
        tvc.Begin(cache, pruning);
        tvc.Observe(0, 0);

        tvc.EvictVisual(cache);

        Assert.Equal([0, 13, 14, 15], cache.Positions(0, 0, 0).ToArray());
        Assert.Equal([0, 7, 8, 9], cache.Positions(2, 0, 0).ToArray());
        Assert.Equal([0, 4, 5, 6], cache.Positions(3, 1, 1).ToArray());
        tvc.Reinject(cache, scene.Random(2, 2, PruningScene.Width), 1, 2);
        Assert.Equal([0, 13, 14, 15, 16, 17], cache.Positions(0, 0, 0).ToArray());
        Assert.Equal([0, 4, 5, 6, 7, 8], cache.Positions(3, 1, 1).ToArray());
    }

    [Fact]
    public void Text_in_the_place_of_an_image_that_left_stays()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length, batch: scene.Batch);
        var tvc = new VisualReinjection(scene.Decoder, new());
        scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);
        tvc.Begin(cache, scene.Layout);
        tvc.EvictVisual(cache);
        cache.Rewind(Before);
        scene.Decoder.Decode(scene.Ids(1).select(1, 0), cache);

        tvc.EvictVisual(cache);

        for (var layer = 0; layer < DecoderLayers; layer++)
            Assert.Equal([.. Enumerable.Range(0, Before + 1)], cache.Positions(layer, 0, 0).ToArray());
    }

    [Fact]
    public void Without_eviction_the_old_image_stays_until_the_next_time()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(2 * Length, batch: scene.Batch);
        var tvc = new VisualReinjection(scene.Decoder, new() { Evict = false, Pooling = VisualPooling.PoolWindow(3, 4) });
        scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);
        tvc.Begin(cache, scene.Layout);

        tvc.Reinject(cache, scene.Random(2, Visual, PruningScene.Width), Height, Wide);
        Assert.Equal(Length + 1, cache.Length(2, 0));
        tvc.EvictVisual(cache);
        Assert.Equal(Length - Visual, cache.Length(2, 0));
    }

    [Fact]
    public void It_is_due_at_tokens_intervals_and_places_and_not_beyond_the_limit()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(2 * Length, batch: scene.Batch);
        scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);

        Assert.Equal([false, false, true, false, false, true], Due(new() { Interval = 3 }));
        Assert.Equal([false, true, false, false, true, false], Due(new() { At = [2, 5] }));
        Assert.Equal([false, false, false, true, false, false], Due(new() { ReflectionTokens = [9] })); // of one of two sequences
        Assert.Equal([false, false, true, true, false, false], Due(new() { ReflectionTokens = [9], Interval = 3, Limit = 2 }));
        Assert.Equal([false, false, false, false, false, false], Due(new() { Interval = 1, Limit = 0 }));

        bool[] Due(ReinjectionOptions options)
        {
            var tvc = new VisualReinjection(scene.Decoder, options with { Evict = false, Pooling = VisualPooling.PoolToGrid(1, 1) });
            using var copy = cache.Fork();
            tvc.Begin(copy, scene.Layout);
            return [.. Enumerable.Range(0, 6).Select(i =>
            {
                var due = tvc.Observe(1, i == 3 ? 9 : 2);
                Assert.Equal(due, tvc.IsDue);
                if (due)
                    tvc.Reinject(copy, scene.Random(2, Visual, PruningScene.Width), Height, Wide);
                return due;
            })];
        }
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_the_cache_is_unchanged()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        using var cache = scene.Decoder.CreateCache(Length, batch: scene.Batch);
        var image = scene.Random(2, Visual, PruningScene.Width);
        var tvc = new VisualReinjection(scene.Decoder, new() { Bridge = [1, 2, 3], Pooling = VisualPooling.None });
        Assert.Throws<InvalidOperationException>(() => tvc.Observe(1, 1));
        Assert.Throws<InvalidOperationException>(() => tvc.Reinject(cache, image, Height, Wide));
        Assert.Throws<InvalidOperationException>(() => tvc.EvictVisual(cache));
        var empty = Assert.Throws<ArgumentException>(() => tvc.Begin(cache, scene.Layout));
        Assert.Contains("layer 0 holds 0 tokens", empty.Message, StringComparison.Ordinal);

        scene.Decoder.PrefillEmbeddings(scene.Embeddings, cache);
        tvc.Begin(cache, scene.Layout);
        Assert.Contains("3 for 2", Assert.Throws<ArgumentException>(() => tvc.Observe(1, 2, 3)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => tvc.Observe(torch.zeros(2, 1, torch.int64)));
        Assert.Contains("not Float32[B, 16, D]", Assert.Throws<ArgumentException>(() => tvc.Reinject(cache, image, 4, 4)).Message,
            StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => tvc.Reinject(cache, image.narrow(0, 0, 1), Height, Wide));
        Assert.Throws<ArgumentException>(() => tvc.Reinject(cache, image.narrow(2, 0, 8), Height, Wide));
        var room = Assert.Throws<KvCapacityException>(() => tvc.Reinject(cache, image, Height, Wide)); // 4 + 3 + 12 rows
        Assert.Contains("15 tokens behind 4", room.Message, StringComparison.Ordinal);
        Assert.All(Enumerable.Range(0, DecoderLayers), layer => Assert.Equal(Length, cache.Length(layer, 1)));
        Assert.Equal(0, tvc.Reinjections);

        Assert.Throws<ArgumentOutOfRangeException>(() => new VisualReinjection(scene.Decoder, new() { Interval = 0 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new VisualReinjection(scene.Decoder, new() { At = [0] }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new VisualReinjection(scene.Decoder, new() { Limit = -1 }));
    }

    [Fact]
    public void Pooling_is_by_windows_or_to_a_grid_with_its_gradient()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        var image = scene.Random(2, Visual, PruningScene.Width).requires_grad_(true);
        Assert.Equal((12, 1, 4, 2), (VisualPooling.None.Count(3, 4), VisualPooling.PoolWindow(4, 4).Count(3, 4),
            VisualPooling.PoolWindow(2, 2).Count(3, 4), VisualPooling.PoolToGrid(1, 2).Count(3, 4)));

        var pooled = VisualPooling.PoolToGrid(1, 2).Apply(image, Height, Wide);
        Assert.InRange(Distance(
            torch.nn.functional.adaptive_avg_pool2d(image.transpose(1, 2).view(2, -1, Height, Wide), [1, 2]).flatten(2).transpose(1, 2),
            pooled), 0, 1e-6);
        (pooled * 6).sum().backward();
        Assert.All(image.grad!.data<float>(), gradient => Assert.Equal(1, gradient));

        Assert.Throws<ArgumentOutOfRangeException>(() => VisualPooling.PoolToGrid(4, 4).Apply(image, Height, Wide));
        Assert.Throws<ArgumentOutOfRangeException>(() => VisualPooling.PoolWindow(0, 2));
        Assert.Equal(VisualPooling.PoolWindow(4, 4).Name, new ReinjectionOptions().Pooling.Name);
    }

    private static Tensor Cell(Tensor image, int row, int column)
    {
        var grid = image.view(2, Height, Wide, -1);
        return grid.narrow(1, row, Math.Min(2, Height - row)).narrow(2, column, 2).mean([1L, 2]);
    }

    private static Tensor Words(PruningScene scene, Tensor ids, int from, int count) => scene.Decoder.Embed(ids.narrow(1, from, count));

    // Logits of the rows after the eviction, which see the others but for the old image; positions go on.
    private static Tensor WithoutTheImage(PruningScene scene, Tensor before, Tensor after)
    {
        var (old, all) = (before, before.shape[1] + after.shape[1]);
        var rows = torch.cat([before, after], 1);
        var seen = torch.ones([2, all], torch.@bool);
        seen.narrow(1, Before, Visual).fill_(false);
        for (var layer = 0; layer < DecoderLayers; layer++)
        {
            // Rows of before are those of a pass with the image; rows behind it are of one without.
            rows = torch.cat(
                [
                    old,
                    scene.Plain.Layer(layer, torch.cat([old, rows.narrow(1, old.shape[1], after.shape[1])], 1), Positions(rows), seen)
                        .narrow(1, old.shape[1], after.shape[1]),
                ], 1);
            old = scene.Plain.Layer(layer, old, Positions(old), torch.ones([2, old.shape[1]], torch.@bool));
        }

        return scene.Plain.Logits(rows.narrow(1, before.shape[1], after.shape[1]));
    }
}
