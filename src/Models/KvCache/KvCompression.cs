using AuxCore.Kernels;
using TorchSharp;

namespace AuxCore.Models;

/// <summary>How a <see cref="KvCompression"/> works.</summary>
public sealed record KvCompressionOptions
{
    /// <summary>
    /// By how many tokens a head may exceed its budget while decoding, before it is compressed again; 0: only prompts are compressed.
    /// Rules that need statistics of the prompt compress prompts only.
    /// </summary>
    public int DecodeInterval { get; init; } = 128;

    /// <summary>
    /// Whether the value of an evicted token goes into that of the kept token whose key is most similar, of several the first. With weights
    /// w = cos · ‖v_e‖ / (‖v_e‖ + ‖v_t‖), the value becomes (v_t + Σ w v_e) / (1 + Σ w); a cosine that is not above 0 has no weight.
    /// As in D2O (Wan et al. 2024, arXiv 2406.13035), weighted by norms of values as kvpress does.
    /// </summary>
    public bool MergeValues { get; init; }
}

/// <summary>
/// Compresses the caches that a <see cref="CausalDecoder"/> reads prompts into, from <see cref="CausalDecoder.CompressKv"/> until it is
/// disposed: when a layer has read a prompt, all but the tokens of greatest score are evicted from its cache, and memory follows.
/// </summary>
/// <remarks>
/// What is kept, <see cref="KvEvict"/> decides, in its order: of equal scores the lower slot and, where heads compete, that of the lower
/// head. Tokens keep the positions at which their keys were rotated. A layer is compressed as soon as it has attended, so that only one
/// layer's keys are scored at a time. Each prompt, and each part of one, is compressed at its end. A cache in <see cref="KvFormat.Kivi4"/>
/// is refused by a <see cref="NotSupportedException"/>, and stays as it was.
/// </remarks>
public sealed class KvCompression : DecoderHook, IDisposable
{
    private readonly CausalDecoder _model;
    private readonly IKvScorer _scorer;
    private readonly KvBudget _budget;
    private readonly KvCompressionOptions _options;
    private readonly KvScorerNeeds _needs;
    private readonly IDisposable _hook;

    internal KvCompression(CausalDecoder model, IKvScorer scorer, KvBudget budget, KvCompressionOptions options)
    {
        ArgumentNullException.ThrowIfNull(scorer);
        ArgumentNullException.ThrowIfNull(budget);
        ArgumentOutOfRangeException.ThrowIfNegative(options.DecodeInterval, nameof(options));
        (_model, _scorer, _budget, _options, _needs) = (model, scorer, budget, options, scorer.Needs);
        _hook = model.AddHook(this);
    }

    /// <summary>How many tokens of how many heads were evicted so far, in all layers together.</summary>
    public long Evicted { get; private set; }

    private bool CompressesSteps => _options.DecodeInterval > 0 && !_needs.QueryStatistics;

    /// <summary>Ends the compression. Caches stay as they are.</summary>
    public void Dispose() => _hook.Dispose();

    /// <inheritdoc/>
    public override bool ReadsAttention(DecoderPhase phase) => phase switch
    {
        DecoderPhase.Prefill => true,
        DecoderPhase.Decode => CompressesSteps && _needs.QueryWindow > 0,
        _ => false,
    };

    /// <inheritdoc/>
    public override void AfterAttention(LayerAttention attention)
    {
        if (attention.Cache is not { } cache)
            return;
        cache.RequireEvictable();
        if (_needs.QueryWindow > 0)
            RememberQueries(attention, cache);
        if (attention.Phase != DecoderPhase.Prefill)
            return;
        if (_needs.AttentionSums)
            SumAttention(attention, cache);
        Compress(attention.Layer, cache, slack: 0, attention);
    }

    /// <inheritdoc/>
    public override void AfterPass(DecoderPhase phase, KvCache? cache)
    {
        if (phase != DecoderPhase.Decode || cache is null || !CompressesSteps)
            return;
        cache.RequireEvictable();
        for (var layer = 0; layer < cache.Layout.Layers.Count; layer++)
            Compress(layer, cache, _options.DecodeInterval, null);
    }

    private void RememberQueries(LayerAttention attention, KvCache cache)
    {
        var seen = cache.Observations ??= new(cache.Layout);
        for (var b = 0; b < cache.Layout.Batch; b++)
        {
            var rows = attention.Rows.Length(b);
            var count = Math.Min(rows, _needs.QueryWindow);
            using var scope = torch.NewDisposeScope();
            var last = attention.Queries[b].narrow(1, rows - count, count).transpose(0, 1).contiguous();
            var width = (int)(last.numel() / count);
            var positions = attention.Rows.Positions[b].narrow(0, rows - count, count).contiguous().data<long>().ToArray();
            foreach (var (position, row) in positions.Zip(last.data<float>().ToArray().Chunk(width)))
                seen.Add(attention.Layer, b, (int)position, row, _needs.QueryWindow);
        }
    }

    /// <summary>Adds the attention that a prompt's queries give to all that the layer now holds.</summary>
    private static void SumAttention(LayerAttention attention, KvCache cache)
    {
        var seen = cache.Observations ??= new(cache.Layout);
        var (layer, sums) = (attention.Layer, seen.SumsOf(attention.Layer));
        var held = cache.Materialise(layer);
        var (heads, capacity, group) = (cache.Layout.Layers[layer].KvHeads, cache.Layout.Capacity,
            (int)attention.Queries.shape[1] / cache.Layout.Layers[layer].KvHeads);
        for (var stream = 0; stream < held.Lengths.Length; stream++)
        {
            using var scope = torch.NewDisposeScope();
            var (b, head) = Math.DivRem(stream, heads);
            var (rows, length) = (attention.Rows.Length(b), held.Lengths[stream]);
            var queries = attention.Queries[b].narrow(0, head * group, group).narrow(1, 0, rows).unsqueeze(0).contiguous();
            var scores = torch.empty(1, length);
            TokenScores.Run(
                new()
                {
                    Queries = queries.ToTensorView(),
                    Keys = held.Keys[b, head].narrow(0, 0, length).view(1, 1, length, -1).ToTensorView(),
                    HeadWeights = torch.ones(group).ToTensorView(),
                    Scores = scores.ToTensorView(),
                },
                causal: true);
            var received = scores.data<float>().ToArray();
            for (var i = 0; i < length; i++)
                sums[stream * capacity + i] += received[i];
        }
    }

    /// <summary>
    /// Compresses a layer of all sequences of which a head exceeds its budget by more than some tokens or, where heads compete, all
    /// together do.
    /// </summary>
    private void Compress(int layer, KvCache cache, int slack, LayerAttention? attention)
    {
        var (heads, batch) = (cache.Layout.Layers[layer].KvHeads, cache.Layout.Batch);
        var budgets = new int[batch * heads];
        var exceeds = new bool[batch];
        for (var b = 0; b < batch; b++)
        {
            int[] held = [.. Enumerable.Range(0, heads).Select(head => cache.Length(layer, b, head))];
            var own = budgets.AsSpan(b * heads, heads);
            for (var head = 0; head < heads; head++)
                own[head] = _budget.Keep(new(layer, cache.Layout.Layers.Count, head, heads, held[head], cache.NextPosition(b)));
            exceeds[b] = _scorer.Allocation.Floor is null
                ? held.Zip(own.ToArray(), (have, keep) => have > keep + (long)slack).Contains(true)
                : held.Sum(have => (long)have) > own.ToArray().Sum(keep => keep + (long)slack);
        }

        if (!exceeds.Contains(true))
            return;
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var tensors = cache.Materialise(layer);
        var n = tensors.Lengths.Max();
        var scores = new float[batch * heads * n];
        for (var b = 0; b < batch; b++)
        {
            if (exceeds[b])
                Score(layer, b, cache, tensors, attention, scores.AsSpan(b * heads * n, heads * n));
            else
                tensors.Lengths.AsSpan(b * heads, heads).CopyTo(budgets.AsSpan(b * heads)); // keeps all
        }

        if (_options.MergeValues)
            cache.Own(layer); // what can fail comes before what is written
        var kept = cache.Evict(layer, scores, budgets, _scorer.Allocation.Floor);
        if (_options.MergeValues)
            cache.SetValues(layer, ValueMerge.Merged(tensors, kept));
        Evicted += tensors.Lengths.Sum(length => (long)length) - kept.Sum(slots => (long)slots.Length);
    }

    /// <summary>Writes the scores of a sequence's heads, [Hkv, n].</summary>
    private void Score(int layer, int b, KvCache cache, KvTensors tensors, LayerAttention? attention, Span<float> scores)
    {
        var heads = cache.Layout.Layers[layer].KvHeads;
        var n = scores.Length / heads;
        var views = new KvLayerSnapshot(layer, b, cache, tensors, _needs, attention, _model.Options);
        var together = cache.IsUniform(layer) ? heads : 1;
        for (var first = 0; first < heads; first += together)
        {
            var context = views.Context(first, together);
            var own = new float[together * context.Length];
            _scorer.Score(context, own);
            for (var head = 0; head < together; head++)
                own.AsSpan(head * context.Length, context.Length).CopyTo(scores[((first + head) * n)..]);
        }
    }
}
