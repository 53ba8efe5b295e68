using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>When and how <see cref="VisualReinjection"/> shows an image again.</summary>
public sealed record ReinjectionOptions
{
    /// <summary>Tokens at which a sequence reflects. Sequences of a batch reflect together: as soon as one does.</summary>
    public IReadOnlyList<long> ReflectionTokens { get; init; } = [];

    /// <summary>After how many generated tokens the image is shown again, and again; null: by itself never.</summary>
    public int? Interval { get; init; }

    /// <summary>After which numbers of generated tokens as well. The paper's training does it once, at half of the answer.</summary>
    public IReadOnlyList<int> At { get; init; } = [];

    /// <summary>How often at most.</summary>
    public int Limit { get; init; } = int.MaxValue;

    /// <summary>Tokens in front of the image, such as "Let me see the image again"; may be none.</summary>
    public IReadOnlyList<long> Bridge { get; init; } = [];

    /// <summary>How its tokens are averaged.</summary>
    public VisualPooling Pooling { get; init; } = VisualPooling.PoolWindow(4, 4);

    /// <summary>Whether the rows of the image that was shown before leave the cache.</summary>
    public bool Evict { get; init; } = true;

    internal void Check()
    {
        ArgumentNullException.ThrowIfNull(ReflectionTokens);
        ArgumentNullException.ThrowIfNull(At);
        ArgumentNullException.ThrowIfNull(Bridge);
        ArgumentNullException.ThrowIfNull(Pooling);
        if (Interval is < 1)
            throw new ArgumentOutOfRangeException(nameof(Interval), Interval, "An interval is at least 1.");
        foreach (var at in At)
            ArgumentOutOfRangeException.ThrowIfLessThan(at, 1, nameof(At));
        ArgumentOutOfRangeException.ThrowIfNegative(Limit);
    }
}

/// <summary>
/// Take-along visual conditioning (TVC, Sun et al. 2025, arXiv 2503.13360): a model that reasons for long forgets the image, so it is
/// shown again at points of reflection, compressed, in place of the old one.
/// <code>
/// var tvc = new VisualReinjection(decoder, new() { Interval = 64, Bridge = bridge });
/// tvc.Begin(cache, layout);                          // behind the prefill
/// while (…)
/// {
///     if (tvc.Observe(next))
///         tvc.Reinject(cache, visual, height: 24, width: 24);
///     next = decoder.Decode(next, cache).argmax(1);
/// }
/// </code>
/// </summary>
/// <remarks>
/// <para>The paper's: that an image is given again at reflection, behind a bridging prompt (in training at half of the answer, at inference
/// at intervals), averaged over 4 × 4 tokens, with a "visual cache reset". What is dynamic is when the image is shown, not which of its
/// tokens: no score chooses any. Its repository has none of this in code.</para>
/// <para>Ours: what the reset is. The rows of the old image leave the cache of every layer; text rows stay where they are, with their
/// positions. Bridge and pooled tokens are appended at the end, at the positions that come next, as a new image's would be. They stand in
/// front of the token that was observed, if that is decoded afterwards. A batch reflects together.</para>
/// <para>One object serves one batch at a time. Visual rows are known by their positions in each layer, so it goes together with <see
/// cref="VisualPruning"/> and with caches that others compress.</para>
/// </remarks>
public sealed class VisualReinjection
{
    private readonly CausalDecoder _decoder;
    private readonly ReinjectionOptions _options;
    private HashSet<int>[,]? _visual; // by layer and sequence: positions of visual rows
    private int _batch;

    /// <summary>Nothing is tracked yet.</summary>
    /// <param name="decoder">What reads the image.</param>
    /// <param name="options">When and how.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number of the options is out of its range.</exception>
    public VisualReinjection(CausalDecoder decoder, ReinjectionOptions options)
    {
        ArgumentNullException.ThrowIfNull(decoder);
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        (_decoder, _options) = (decoder, options);
    }

    /// <summary>How many tokens of each sequence were observed since <see cref="Begin(KvCache, SequenceLayout)"/>.</summary>
    public int Generated { get; private set; }

    /// <summary>How often the image was shown again since then.</summary>
    public int Reinjections { get; private set; }

    /// <summary>Whether the last observation asked for it, and it was not done yet.</summary>
    public bool IsDue { get; private set; }

    /// <summary>Begins with a prompt that no policy pruned.</summary>
    /// <param name="cache">What the prompt was read into.</param>
    /// <param name="layout">The prompt's sequences.</param>
    /// <exception cref="ArgumentException">A layer of the cache does not hold those tokens.</exception>
    public void Begin(KvCache cache, SequenceLayout layout)
    {
        ArgumentNullException.ThrowIfNull(layout);
        Begin(cache, _ => layout);
    }

    /// <summary>Begins with a prompt that a policy pruned.</summary>
    /// <param name="cache">What the prompt was read into.</param>
    /// <param name="pruning">What pruned it.</param>
    /// <exception cref="ArgumentException">A layer of the cache does not hold what it left.</exception>
    /// <exception cref="InvalidOperationException">It pruned nothing yet.</exception>
    public void Begin(KvCache cache, VisualPruning pruning)
    {
        ArgumentNullException.ThrowIfNull(pruning);
        Begin(cache, pruning.LayoutOf);
    }

    /// <summary>Tells it the tokens that were generated, and asks whether the image is to be shown again now.</summary>
    /// <param name="tokens">[B].</param>
    /// <exception cref="ArgumentException">Not one token a sequence.</exception>
    /// <exception cref="InvalidOperationException">Nothing was begun.</exception>
    public bool Observe(params ReadOnlySpan<long> tokens)
    {
        Require();
        if (tokens.Length != _batch)
            throw new ArgumentException($"tokens: {tokens.Length} for {_batch} sequences", nameof(tokens));
        Generated++;
        var due = Generated % (_options.Interval ?? int.MaxValue) == 0 || _options.At.Contains(Generated);
        foreach (var token in tokens)
            due |= _options.ReflectionTokens.Contains(token);
        return IsDue = due && Reinjections < _options.Limit;
    }

    /// <inheritdoc cref="Observe(ReadOnlySpan{long})"/>
    /// <param name="tokens">int64 [B].</param>
    public bool Observe(Tensor tokens)
    {
        Batches.Require(tokens, nameof(tokens));
        if (tokens.dtype != torch.ScalarType.Int64 || tokens.shape.Length != 1)
            throw new ArgumentException($"tokens: {Batches.Describe(tokens)} is not Int64[B]", nameof(tokens));
        using var host = tokens.cpu().contiguous();
        return Observe(host.data<long>().ToArray());
    }

    /// <summary>Shows the image again: evicts the old one, and appends bridge and pooled tokens.</summary>
    /// <param name="cache">The cache that was begun with.</param>
    /// <param name="visual">float32 [B, height · width, D]: the image's tokens as the decoder reads them.</param>
    /// <param name="height">Rows of the image's tokens.</param>
    /// <param name="width">Tokens of a row.</param>
    /// <returns>float32 [B, V]: logits of what follows, for those who decode nothing before.</returns>
    /// <exception cref="ArgumentException">Shapes do not fit, or the cache is of another batch. The cache is unchanged.</exception>
    /// <exception cref="KvCapacityException">The cache has no room for the new tokens; it is unchanged.</exception>
    /// <exception cref="InvalidOperationException">Nothing was begun.</exception>
    public Tensor Reinject(KvCache cache, Tensor visual, int height, int width)
    {
        Require();
        ArgumentNullException.ThrowIfNull(cache);
        Batches.Require(visual, nameof(visual));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var pooled = _options.Pooling.Apply(visual.detach(), height, width);
        if (cache.Layout.Batch != _batch || pooled.shape[0] != _batch)
            throw new ArgumentException($"{pooled.shape[0]} images and a cache of {cache.Layout.Batch}, but {_batch} sequences were begun");
        if (pooled.shape[2] != _decoder.Options.Width)
            throw new ArgumentException($"visual: {Batches.Describe(visual)} is not of width {_decoder.Options.Width}", nameof(visual));
        var (bridge, added) = (_options.Bridge.Count, _options.Bridge.Count + (int)pooled.shape[1]);
        var rows = bridge == 0
            ? pooled
            : torch.cat([_decoder.Embed(torch.tensor(_options.Bridge.ToArray())).unsqueeze(0).expand(_batch, bridge, -1), pooled], 1);
        RequireRoom(cache, added);
        if (_options.Evict)
            EvictVisual(cache);
        var logits = _decoder.PrefillEmbeddings(rows, cache);
        Track(cache, added - bridge);
        IsDue = false;
        Reinjections++;
        return logits.MoveToOuterDisposeScope();
    }

    /// <summary>Takes the rows of all images out of the cache, in every layer: what the paper measures forgetting by.</summary>
    /// <param name="cache">The cache that was begun with.</param>
    /// <exception cref="InvalidOperationException">Nothing was begun.</exception>
    public void EvictVisual(KvCache cache)
    {
        Require();
        ArgumentNullException.ThrowIfNull(cache);
        for (var layer = 0; layer < cache.Layout.Layers.Count; layer++)
        {
            var heads = cache.Layout.Layers[layer].KvHeads;
            var slots = new List<int>();
            var offsets = new int[_batch * heads + 1];
            for (var stream = 0; stream < _batch * heads; stream++)
            {
                var positions = cache.Positions(layer, stream / heads, stream % heads);
                for (var slot = 0; slot < positions.Length; slot++)
                {
                    if (!_visual![layer, stream / heads].Contains(positions[slot]))
                        slots.Add(slot);
                }

                offsets[stream + 1] = slots.Count;
            }

            cache.Keep(layer, offsets, slots.ToArray());
            for (var b = 0; b < _batch; b++)
                _visual![layer, b].Clear();
        }
    }

    private void Begin(KvCache cache, Func<int, SequenceLayout> layoutOf)
    {
        ArgumentNullException.ThrowIfNull(cache);
        var (layers, batch) = (cache.Layout.Layers.Count, cache.Layout.Batch);
        var visual = new HashSet<int>[layers, batch];
        for (var layer = 0; layer < layers; layer++)
        {
            var layout = layoutOf(layer);
            for (var b = 0; b < batch; b++)
            {
                if (layout.Batch != batch || layout.Length(b) != cache.Length(layer, b))
                {
                    throw new ArgumentException(
                        $"cache: layer {layer} holds {cache.Length(layer, b)} tokens of sequence {b}, and not those of the layout",
                        nameof(cache));
                }

                var (flags, positions) = (layout.Visual(b).ToArray(), cache.Positions(layer, b, 0).ToArray());
                visual[layer, b] = [.. positions.Where((_, slot) => flags[slot])];
            }
        }

        (_visual, _batch, Generated, Reinjections, IsDue) = (visual, batch, 0, 0, false);
    }

    // The image is what was appended last.
    private void Track(KvCache cache, int count)
    {
        for (var layer = 0; layer < cache.Layout.Layers.Count; layer++)
        {
            for (var b = 0; b < _batch; b++)
                _visual![layer, b].UnionWith(cache.Positions(layer, b, 0)[^count..].ToArray());
        }
    }

    private void RequireRoom(KvCache cache, int added)
    {
        for (var layer = 0; layer < cache.Layout.Layers.Count; layer++)
        {
            for (var stream = 0; stream < _batch * cache.Layout.Layers[layer].KvHeads; stream++)
            {
                var (b, head) = (stream / cache.Layout.Layers[layer].KvHeads, stream % cache.Layout.Layers[layer].KvHeads);
                var positions = cache.Positions(layer, b, head).ToArray();
                var stays = _options.Evict ? positions.Count(position => !_visual![layer, b].Contains(position)) : positions.Length;
                if (stays + added > cache.Layout.Capacity)
                {
                    throw new KvCapacityException(
                        $"layer {layer}, sequence {b}: {added} tokens behind {stays}, but the cache has room for {cache.Layout.Capacity}",
                        nameof(cache));
                }
            }
        }
    }

    private void Require()
    {
        if (_visual is null)
            throw new InvalidOperationException("Begin says first what the cache holds.");
    }
}
