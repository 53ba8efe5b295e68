using AuxCore.Kernels;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// One layer of a <see cref="CausalDecoder"/>: h + attention(norm(h)), then h + down(silu(gate(norm(h))) · up(norm(h))) (SwiGLU, Shazeer
/// 2020, arXiv 2002.05202).
/// </summary>
public sealed class DecoderBlock : Module
{
    private readonly DecoderLayerSizes _sizes;
    private readonly int _headDim;
    private readonly double _epsilon;
    private readonly RotaryOptions _rotary;
    private readonly RootMeanSquareNorm _attentionNorm, _feedForwardNorm;
    private readonly RootMeanSquareNorm? _queryNorm, _keyNorm;
    private readonly Linear _query, _key, _value, _output, _gate, _up, _down;

    internal DecoderBlock(DecoderOptions options, DecoderLayerSizes sizes) : base(nameof(DecoderBlock))
    {
        (_sizes, _headDim, _epsilon, _rotary) = (sizes, options.HeadDim, options.NormEpsilon, options.Rotary);
        long width = options.Width, inner = (long)sizes.QueryHeads * _headDim, kv = (long)sizes.KvHeads * _headDim;
        _attentionNorm = new(width, options.NormEpsilon);
        _feedForwardNorm = new(width, options.NormEpsilon);
        (_query, _key, _value) = (Project(width, inner, options.QkvBias), Project(width, kv, options.QkvBias),
            Project(width, kv, options.QkvBias));
        _output = Project(inner, width, options.OutputBias);
        (_gate, _up) = (Project(width, sizes.FeedForward, options.FeedForwardBias),
            Project(width, sizes.FeedForward, options.FeedForwardBias));
        _down = Project(sizes.FeedForward, width, options.FeedForwardBias);
        register_module("input_norm", _attentionNorm);
        foreach (var (name, projection) in ((string, Linear)[])
            [("q_proj", _query), ("k_proj", _key), ("v_proj", _value), ("o_proj", _output)])
            register_module(name, projection);
        if (options.QueryKeyNorm)
        {
            (_queryNorm, _keyNorm) = (new(_headDim, options.NormEpsilon), new(_headDim, options.NormEpsilon));
            register_module("q_norm", _queryNorm);
            register_module("k_norm", _keyNorm);
        }

        register_module("post_attention_norm", _feedForwardNorm);
        register_module("gate_proj", _gate);
        register_module("up_proj", _up);
        register_module("down_proj", _down);

        Linear Project(long from, long to, bool bias)
        {
            var layer = Linear(from, to, hasBias: bias, dtype: options.WeightType);
            init.normal_(layer.weight, 0, options.InitialDeviation);
            if (bias)
                init.zeros_(layer.bias!);
            return layer;
        }
    }

    /// <summary>The layer's output, of rows that were checked.</summary>
    internal Tensor Forward(
        int layer, DecoderPhase phase, DecoderRows rows, RotaryTables rotary, HostRows host, KvCache? cache,
        IReadOnlyList<DecoderHook> readers)
    {
        using var scope = torch.NewDisposeScope();
        var normed = _attentionNorm.forward(rows.Hidden);
        var isStep = cache is not null && rows.Hidden.shape[1] == 1 && readers.Count == 0;
        var seen = isStep ? Step(layer, normed, host, cache!) : Attended(layer, phase, normed, rows, rotary, host, cache, readers);
        var (batch, length) = (seen.shape[0], seen.shape[2]);
        var hidden = rows.Hidden
            + Projections.Of(_output, seen.transpose(1, 2).reshape(batch, length, (long)_sizes.QueryHeads * _headDim));
        normed = _feedForwardNorm.forward(hidden);
        var inner = functional.silu(Projections.Of(_gate, normed)) * Projections.Of(_up, normed);
        return (hidden + Projections.Of(_down, inner)).MoveToOuterDisposeScope();
    }

    /// <summary>What becomes of queries and keys in ops that store keys.</summary>
    internal HeadNorms HeadNorms => new(_queryNorm?.weight, _keyNorm?.weight, _epsilon, _rotary);

    /// <summary>Keys after the key norm, where there is one: float32 [B, Hkv, L, d].</summary>
    private Tensor NormKeys(Tensor keys) => _keyNorm is null ? keys : _keyNorm.forward(keys);

    private static (Tensor Keys, Tensor Values) Replaced(DecoderHook hook, LayerProjection projection)
    {
        var (keys, values) = hook.BeforeAttention(projection);
        if (ReferenceEquals(keys, projection.Keys) && ReferenceEquals(values, projection.Values))
            return (keys, values);
        var name = $"{hook.GetType().Name}, layer {projection.Layer}";
        var own = projection.Keys.shape;
        foreach (var (what, tensor) in ((string, Tensor)[])[("keys", keys), ("values", values)])
        {
            Tokens.RequireLive(tensor, what);
            var shape = tensor.shape;
            if (tensor.dtype != torch.ScalarType.Float32 || shape.Length != 4 || shape[0] != own[0] || shape[1] != own[1]
                || shape[2] < own[2] || shape[3] != own[3] || shape[2] != keys.shape[2])
            {
                throw new ArgumentException(
                    $"{name}: {what} {Batches.Describe(tensor)} are not Float32[{own[0]}, {own[1]}, n, {own[3]}], where n, the same for "
                    + $"both, is {own[2]} or more");
            }
        }

        return (keys, values);
    }

    /// <summary>Rotated queries and keys alone, of rows that were checked: what a policy may ask of the next layer.</summary>
    internal (Tensor Queries, Tensor Keys) Project(DecoderRows rows, RotaryTables rotary)
    {
        using var scope = torch.NewDisposeScope();
        var normed = _attentionNorm.forward(rows.Hidden);
        return (
            rotary.Rotate(Heads(_query, normed, _sizes.QueryHeads, _queryNorm)).MoveToOuterDisposeScope(),
            rotary.Rotate(Heads(_key, normed, _sizes.KvHeads, _keyNorm)).MoveToOuterDisposeScope());
    }

    /// <summary>One token of each sequence, [B, Hq, 1, d]: norms, rotation and storing in one op, attention in another.</summary>
    private Tensor Step(int layer, Tensor normed, HostRows host, KvCache cache)
    {
        var batch = normed.shape[0];
        return cache.Step(
            layer, Projections.Of(_query, normed).view(batch, _sizes.QueryHeads, _headDim),
            Projections.Of(_key, normed).view(batch, _sizes.KvHeads, _headDim),
            Projections.Of(_value, normed).view(batch, _sizes.KvHeads, _headDim),
            host.Positions, HeadNorms).unsqueeze(2);
    }

    /// <summary>Any number of tokens, [B, Hq, L, d], shown to hooks.</summary>
    private Tensor Attended(
        int layer, DecoderPhase phase, Tensor normed, DecoderRows rows, RotaryTables rotary, HostRows host, KvCache? cache,
        IReadOnlyList<DecoderHook> readers)
    {
        var unrotated = Heads(_query, normed, _sizes.QueryHeads, _queryNorm);
        var queries = rotary.Rotate(unrotated);
        var (projected, values) = (Heads(_key, normed, _sizes.KvHeads, null), Heads(_value, normed, _sizes.KvHeads, null));
        if (phase == DecoderPhase.Forward)
        {
            foreach (var reader in readers)
                (projected, values) = Replaced(reader, new(layer, projected, values, rows));
        }

        var unrotatedKeys = NormKeys(projected);
        var keys = (projected.shape[2] == rows.Hidden.shape[1] ? rotary : rotary.WithPast(projected.shape[2])).Rotate(unrotatedKeys);
        var seen = Attend(layer, phase, queries, keys, values, rows, host, cache);
        if (readers.Count > 0)
        {
            var attention = new LayerAttention(layer, phase, unrotated, queries, unrotatedKeys, keys, values, rows, cache);
            foreach (var reader in readers)
                reader.AfterAttention(attention);
        }

        return seen;
    }

    private static Tensor Attend(
        int layer, DecoderPhase phase, Tensor queries, Tensor keys, Tensor values, DecoderRows rows, HostRows host, KvCache? cache)
    {
        if (cache is null)
            return GroupedAttention.Causal(queries, keys, values, rows.KeyMask);
        if (phase == DecoderPhase.Decode)
        {
            cache.Append(layer, keys, values, host.Positions);
            return cache.Attend(layer, queries.squeeze(2)).unsqueeze(2);
        }

        // A prompt attends to its own keys and values before they are rounded to the cache's format.
        var past = cache.IsEmpty(layer) ? null : cache.Materialise(layer);
        cache.Append(layer, keys, values, host.Positions, host.Lengths);
        return past is null
            ? GroupedAttention.Causal(queries, keys, values, null)
            : GroupedAttention.AfterCache(queries, keys, values, past);
    }

    /// <summary>[B, H, L, d].</summary>
    private Tensor Heads(Linear projection, Tensor normed, int heads, RootMeanSquareNorm? norm)
    {
        var split = Projections.Of(projection, normed).view(normed.shape[0], normed.shape[1], heads, _headDim);
        return (norm is null ? split : norm.forward(split)).transpose(1, 2);
    }
}

/// <summary>What caches want to know of rows, read from tensors once where the rows stay the same from layer to layer.</summary>
/// <param name="Positions">[B · L].</param>
/// <param name="Lengths">[B].</param>
internal sealed record HostRows(int[] Positions, int[] Lengths);
