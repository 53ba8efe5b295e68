using AuxCore.Kernels;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// SparseVLM (Zhang et al. 2024, arXiv 2410.04417): the attention of those text tokens that are about the image, its raters, says which
/// visual tokens go on, and a share of the others is recycled as means of clusters. Positions are numbered anew, as in the released code.
/// </summary>
/// <remarks>
/// <para>Raters: text tokens behind the first visual one whose relevance, the mean over visual tokens of softmax over text of the product
/// of the decoder's inputs, is above the mean. Recycling: of n tokens that do not go on, the ⌊<see cref="RecycledShare"/> n⌋ + 1 of highest
/// score, m, form ⌊m <see cref="ClusterShare"/>⌋ + 1 clusters by density peaks; their means are added to those that go on.</para>
/// <para>Different from the released code: a cluster's mean takes the place of its centre, not one behind all that were selected; equal
/// densities are told apart by index and not by noise; every sequence of a batch has raters of its own.</para>
/// </remarks>
public sealed class SparseVlm : DecoderPruning
{
    private readonly int[] _counts;
    private readonly double _recycledShare = 0.3, _clusterShare = 0.1;

    /// <param name="cuts">
    /// After how many layers it prunes, and how many tokens go on at most: (2, 300), (6, 200), (15, 110) in the paper, of 576.
    /// </param>
    /// <exception cref="ArgumentException">Cuts do not ascend from 1, or a number is negative.</exception>
    public SparseVlm(IReadOnlyList<(int Layers, int Tokens)> cuts)
        : base([.. (cuts ?? throw new ArgumentNullException(nameof(cuts))).Select(cut => cut.Layers)], PositionMode.Renumber)
    {
        foreach (var (_, tokens) in cuts)
            ArgumentOutOfRangeException.ThrowIfNegative(tokens, nameof(cuts));
        _counts = [.. cuts.Select(cut => cut.Tokens)];
    }

    /// <summary>τ: the share of dropped tokens that is recycled, within [0, 1]; 0 recycles none.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is NaN or outside [0, 1].</exception>
    public double RecycledShare
    {
        get => _recycledShare;
        init => _recycledShare = Share(value);
    }

    /// <summary>θ: clusters for each recycled token, within [0, 1].</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is NaN or outside [0, 1].</exception>
    public double ClusterShare
    {
        get => _clusterShare;
        init => _clusterShare = Share(value);
    }

    /// <inheritdoc/>
    protected internal override VisualSelection Choose(DecoderState state, int cut)
    {
        ArgumentNullException.ThrowIfNull(state);
        var layout = state.Layout;
        var scores = state.RowAttention(state.Queries, state.Keys, Raters(state));
        var selected = VisualSelection.Highest(scores, layout, Budget.Ratio(1).Within(0, _counts[cut]));
        if (RecycledShare == 0)
            return selected;

        var width = (int)state.Hidden.shape[2];
        var rows = state.VisualHidden();
        var owners = new int[layout.VisualTokens];
        for (var token = 0; token < owners.Length; token++)
            owners[token] = selected.Slots[token] < 0 ? -1 : token;
        for (var b = 0; b < layout.Batch; b++)
        {
            int[] dropped = [.. Range(layout.VisualSegments, b).Where(token => owners[token] < 0)];
            if (dropped.Length == 0)
                continue;
            var recycled = Math.Min(dropped.Length, (int)(dropped.Length * RecycledShare) + 1);
            // OrderBy is stable, and so the lower index goes first among equals; NaN is last.
            int[] members = [.. dropped.OrderByDescending(token => scores[token]).Take(recycled).Order()];
            var clusters = Math.Min(recycled, (int)(recycled * ClusterShare) + 1);
            float[] points = [.. members.SelectMany(token => rows.AsSpan(token * width, width).ToArray())];
            var centres = DensityPeaks.Cluster(points, width, clusters);
            for (var i = 0; i < members.Length; i++)
                owners[members[i]] = members[centres[i]];
        }

        return VisualSelection.Groups(owners, layout);
    }

    // For each sequence the places of its raters. Text always goes on, so the n-th text token then is the n-th now.
    private static int[][] Raters(DecoderState state)
    {
        var (first, now) = (state.InputLayout, state.Layout);
        var raters = new int[now.Batch][];
        for (var b = 0; b < now.Batch; b++)
        {
            var image = first.Visual(b).IndexOf(true);
            int[] text = Places(first.Visual(b), visual: false), current = Places(now.Visual(b), visual: false);
            var before = text.Count(place => place < image);
            var relevance = image < 0 ? [] : Relevance(state.Inputs, b, Places(first.Visual(b), visual: true), text[before..]);
            var mean = relevance.Length == 0 ? 0 : relevance.Average();
            int[] above = [.. Enumerable.Range(0, relevance.Length).Where(i => relevance[i] > mean)];
            if (above.Length == 0) // all are equally relevant, or there are none behind the image
                above = [.. Enumerable.Range(0, relevance.Length)];
            raters[b] = above.Length == 0 ? [now.Length(b) - 1] : [.. above.Select(i => current[before + i])];
        }

        return raters;
    }

    private static float[] Relevance(Tensor inputs, int sequence, int[] visual, int[] text)
    {
        if (text.Length == 0)
            return [];
        using var scope = TorchSharp.torch.NewDisposeScope();
        var rows = inputs.detach().select(0, sequence);
        var seen = rows.index_select(0, TorchSharp.torch.tensor(visual));
        var said = rows.index_select(0, TorchSharp.torch.tensor(text));
        return [.. TorchSharp.torch.matmul(seen, said.transpose(0, 1)).softmax(1).mean([0]).data<float>()];
    }

    private static int[] Places(ReadOnlySpan<bool> flags, bool visual)
    {
        var places = new List<int>();
        for (var i = 0; i < flags.Length; i++)
        {
            if (flags[i] == visual)
                places.Add(i);
        }

        return [.. places];
    }

    private static IEnumerable<int> Range(ReadOnlySpan<int> segments, int b) =>
        Enumerable.Range(segments[b], segments[b + 1] - segments[b]);

    private static double Share(double value)
    {
        if (!(value is >= 0 and <= 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(value), value, "A share lies within [0, 1].");
        return value;
    }
}
