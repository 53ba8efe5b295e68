using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using static AuxCore.Tests.VisualTokens.PruningScene;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.VisualTokens;

/// <summary>What each policy chooses, against formulas over the whole attention matrix.</summary>
[RequiresLibtorch]
public class DecoderPoliciesTests
{
    [Fact]
    public void FastV_keeps_what_the_last_token_attends_to_most()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();

        var chosen = Choose(scene, new FastV(2, Budget.Count(5)), cut: 2);

        var attention = Attention(scene, layer: 1).select(1, Length - 1).narrow(1, Before, Visual);
        for (var b = 0; b < scene.Batch; b++)
            Assert.Equal(Highest(attention[b].data<float>().ToArray(), 5), Kept(chosen, b));
    }

    [Fact]
    public void Least_attended_keeps_what_it_would_drop_first()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();

        var chosen = Choose(scene, new LeastAttended(3, Budget.Ratio(0.25)), cut: 3);

        var attention = Attention(scene, layer: 2).select(1, Length - 1).narrow(1, Before, Visual);
        for (var b = 0; b < scene.Batch; b++)
            Assert.Equal(Highest([.. attention[b].data<float>().Select(score => -score)], 3), Kept(chosen, b));
    }

    [Fact]
    public void PyramidDrop_asks_the_layer_that_comes_next_and_renumbers()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        var policy = new PyramidDrop([(1, 0.5), (2, 0.5)]);

        var chosen = Choose(scene, policy, cut: 1);

        var hidden = scene.Plain.Layer(0, scene.Embeddings, Positions(scene.Embeddings), All(scene.Embeddings));
        var attention = Attention(scene.Plain.Project(1, hidden, Positions(hidden))).select(1, Length - 1).narrow(1, Before, Visual);
        for (var b = 0; b < scene.Batch; b++)
            Assert.Equal(Highest(attention[b].data<float>().ToArray(), 6), Kept(chosen, b));
        Assert.Equal(PositionMode.Renumber, policy.Positions);
        using var pruning = VisualPruning.Of(scene.Decoder, policy);
        pruning.Begin(scene.Layout, scene.Embeddings);
        scene.Decoder.ForwardEmbeddings(scene.Embeddings);
        Assert.Equal([12, 6, 3, 3], [.. Enumerable.Range(0, DecoderLayers).Select(layer => pruning.LayoutOf(layer).VisualTokens / 2)]);
    }

    [Fact]
    public void SparseVlm_is_asked_by_the_text_that_is_about_the_image()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();

        var chosen = Choose(scene, new SparseVlm([(2, 4)]) { RecycledShare = 0 }, cut: 2);

        var attention = Attention(scene, layer: 1);
        var asked = new HashSet<int>();
        for (var b = 0; b < scene.Batch; b++)
        {
            var (seen, said) = (scene.Embeddings[b].narrow(0, Before, Visual), scene.Embeddings[b].narrow(0, Before + Visual, 3));
            var relevance = seen.matmul(said.t()).softmax(1).mean([0]).data<float>().ToArray();
            int[] raters = [.. Enumerable.Range(0, 3).Where(i => relevance[i] > relevance.Average())];
            asked.Add(raters.Length);
            var scores = attention[b].index_select(0, torch.tensor(raters) + Before + Visual).mean([0]).narrow(0, Before, Visual);
            Assert.Equal(Highest(scores.data<float>().ToArray(), 4), Kept(chosen, b));
        }

        Assert.DoesNotContain(0, asked);
        Assert.DoesNotContain(3, asked);
    }

    [Fact]
    public void SparseVlm_recycles_clusters_of_what_it_drops()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();

        var plain = Choose(scene, new SparseVlm([(1, 4)]) { RecycledShare = 0 }, cut: 1);
        var chosen = Choose(scene, new SparseVlm([(1, 4)]) { RecycledShare = 0.5, ClusterShare = 0.2 }, cut: 1);

        // 8 dropped, of which 8 / 2 + 1 = 5 are recycled in 5 / 5 + 1 = 2 clusters.
        for (var b = 0; b < scene.Batch; b++)
        {
            Assert.Equal(6, chosen.Offsets[b + 1] - chosen.Offsets[b]);
            Assert.Superset(Kept(plain, b).ToHashSet(), Kept(chosen, b).ToHashSet());
            Assert.Equal(4 + 5, chosen.Slots.Slice(b * Visual, Visual).ToArray().Count(slot => slot >= 0));
        }

        Assert.True(chosen.Merges);
        Assert.Throws<ArgumentOutOfRangeException>(() => new SparseVlm([(1, 4)]) { RecycledShare = 1.5 });
        Assert.Throws<ArgumentOutOfRangeException>(() => new SparseVlm([(1, 4)]) { ClusterShare = double.NaN });
        Assert.Throws<ArgumentOutOfRangeException>(() => new SparseVlm([(1, -1)]));
    }

    [Fact]
    public void Stride_takes_even_steps_and_chance_is_its_seed_s()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();

        var stride = Choose(scene, new StridePruning(1, 0.25), cut: 1);
        Assert.Equal([2, 6, 10], Kept(stride, 0));
        Assert.Equal([2, 6, 10], Kept(stride, 1));

        int[] Random(int seed) => Choose(scene, new RandomPruning(1, Budget.Count(6), seed), cut: 1).Owners.ToArray();
        Assert.Equal(Random(1), Random(1));
        Assert.NotEqual(Random(1), Random(2));
    }

    [Fact]
    public void Pooling_forms_windows_of_the_grid()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();

        var chosen = Choose(scene, new PooledPruning(1, PoolGrid.Window(3, 4, 2, 2)), cut: 1);

        Assert.Equal([0, 2, 8, 10], Kept(chosen, 1));
        Assert.Equal([4, 4, 5, 5, 4, 4, 5, 5, 6, 6, 7, 7], chosen.Slots[Visual..].ToArray());
        var wrong = Assert.Throws<ArgumentException>(() => Choose(scene, new PooledPruning(1, PoolGrid.Window(4, 4, 2, 2)), cut: 1));
        Assert.Contains("4 x 4", wrong.Message, StringComparison.Ordinal);
        var shared = Assert.Throws<ArgumentException>(() => new PooledPruning(1, PoolGrid.ToGrid(3, 4, 2, 2)));
        Assert.Contains("share", shared.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => new PooledPruning(1, default));
    }

    [Fact]
    public void Scores_that_are_NaN_rank_last_and_are_counted()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        var scores = Enumerable.Range(0, 2 * Visual).Select(i => i % 3 == 0 ? float.NaN : -i).ToArray();
        using var pruning = VisualPruning.Of(scene.Decoder, new ChosenTokens(
            [1, 2], (state, _) => VisualSelection.Highest(scores.AsSpan(0, state.Layout.VisualTokens), state.Layout, Budget.Count(4)),
            PositionMode.Keep));
        pruning.Begin(scene.Layout, scene.Embeddings);
        scene.Decoder.ForwardEmbeddings(scene.Embeddings);

        Assert.Equal(8 + 3, pruning.NaNScores); // of 24, then of 8
        Assert.Equal([1, 2, 4, 5], Kept(VisualSelection.Highest(scores, scene.Layout, Budget.Count(4)), 0));
    }

    [Fact]
    public void Selections_of_another_size_are_refused()
    {
        var layout = SequenceLayout.Uniform(2, 5, 1..4);
        Assert.Contains("5 scores for 6", Assert.Throws<ArgumentException>(
            () => VisualSelection.Highest(new float[5], layout, Budget.Ratio(1))).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => VisualSelection.Groups([0, 1, 2], layout));
        var foreign = Assert.Throws<ArgumentException>(() => VisualSelection.Groups([0, 1, 2, 0, 4, 5], layout));
        Assert.Contains("owners[3] is 0", foreign.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => VisualSelection.Groups([1, -1, 2, 3, 4, 5], layout));
        Assert.Throws<ArgumentOutOfRangeException>(() => SequenceLayout.Uniform(1, 3, 1..5));
        Assert.Throws<ArgumentException>(() => SequenceLayout.Of([[true], []]));
        Assert.Throws<ArgumentException>(() => SequenceLayout.Of([]));
    }

    [Fact]
    public void Rows_that_ask_are_checked()
    {
        using var scope = torch.NewDisposeScope();
        using var scene = new PruningScene();
        DecoderState? seen = null;
        Choose(scene, new ChosenTokens([1], (state, _) =>
        {
            seen = state;
            Assert.Contains("16", Assert.Throws<ArgumentException>(() => state.RowAttention(state.Queries, state.Keys, [[Length], [0]]))
                .Message, StringComparison.Ordinal);
            Assert.Throws<ArgumentException>(() => state.RowAttention(state.Queries, state.Keys, [[0]]));
            Assert.Throws<ArgumentException>(() => state.LastQueryAttention(state.Queries.narrow(2, 0, 3), state.Keys));
            Assert.All(state.RowAttention(state.Queries, state.Keys, [[0], [0]]), score => Assert.Equal(0, score)); // before the image
            return ChosenTokens.Keep(state.Layout, [[0], [0]]);
        }, PositionMode.Keep), cut: 1);

        Assert.Equal((1, Visual * 2), (seen!.Layers, seen.Layout.VisualTokens));
    }

    [Fact]
    public void Density_peaks_are_dense_and_far_from_denser_points()
    {
        Assert.Equal([0, 0, 0, 3, 3, 3], DensityPeaks.Cluster([0, 0.1f, 0.25f, 5, 5.05f, 5.3f], 1, 2)); // 3 and 4 are equally dense
        Assert.Equal([0, 0, 0], DensityPeaks.Cluster([0, 0, 2, 0.5f, 3, 0.5f], 2, 1)); // all are equally dense
        Assert.Equal([0, 1, 2], DensityPeaks.Cluster([0, 1, 2], 1, 3));
        Assert.Equal([0, 0, 0], DensityPeaks.Cluster([1, 1, 1], 1, 1));
        Assert.Equal([], DensityPeaks.Cluster([], 4, 1));
    }

    // What a policy chooses at its first cut.
    private static VisualSelection Choose(PruningScene scene, DecoderPruning policy, int cut)
    {
        VisualSelection? chosen = null;
        var probe = new ChosenTokens([cut], (state, _) => chosen = policy.Choose(state, 0), policy.Positions);
        using var pruning = VisualPruning.Of(scene.Decoder, probe);
        pruning.Begin(scene.Layout, scene.Embeddings);
        scene.Decoder.ForwardEmbeddings(scene.Embeddings).Dispose();
        return chosen!;
    }

    private static int[] Kept(VisualSelection selection, int sequence) =>
        [.. selection.Owners[selection.Offsets[sequence]..selection.Offsets[sequence + 1]].ToArray().Select(i => i - sequence * Visual)];

    private static int[] Highest(float[] scores, int count) =>
        [.. Enumerable.Range(0, scores.Length).OrderByDescending(i => scores[i]).Take(count).Order()];

    private static Tensor All(Tensor rows) => torch.ones([rows.shape[0], rows.shape[1]], torch.@bool);

    // [B, L, L]: the mean over heads of a layer's causal attention.
    private static Tensor Attention(PruningScene scene, int layer)
    {
        var hidden = scene.Embeddings;
        for (var i = 0; i < layer; i++)
            hidden = scene.Plain.Layer(i, hidden, Positions(hidden), All(hidden));
        return Attention(scene.Plain.Project(layer, hidden, Positions(hidden)));
    }

    private static Tensor Attention((Tensor Queries, Tensor Keys) projected)
    {
        var (queries, keys) = projected;
        keys = keys.repeat_interleave(queries.shape[1] / keys.shape[1], 1);
        var hidden = torch.ones([Length, Length], torch.@bool).triu(1);
        var logits = queries.matmul(keys.transpose(2, 3)) / Math.Sqrt(queries.shape[3]);
        return logits.masked_fill(hidden, double.NegativeInfinity).softmax(3).mean([1L]);
    }
}
