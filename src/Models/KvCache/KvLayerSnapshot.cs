using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>What rules are told of one layer of one sequence; <see cref="Context"/> gives some or all of its heads.</summary>
internal sealed class KvLayerSnapshot
{
    private readonly int _layer, _sequence, _heads, _group, _depth, _rows;
    private readonly KvCache _cache;
    private readonly KvTensors _tensors;
    private readonly RotaryOptions _rotary;
    private readonly IReadOnlyList<(int Position, float[] Row)> _window;
    private readonly float[] _mean = [], _covariance = [];
    private readonly bool _sums;

    public KvLayerSnapshot(
        int layer, int sequence, KvCache cache, KvTensors tensors, KvScorerNeeds needs, LayerAttention? attention, DecoderOptions options)
    {
        (_layer, _sequence, _cache, _tensors, _rotary) = (layer, sequence, cache, tensors, options.Rotary);
        (_heads, _depth) = (cache.Layout.Layers[layer].KvHeads, options.HeadDim);
        _group = options.Layers[layer].QueryHeads / _heads;
        _window = needs.QueryWindow > 0 && cache.Observations is { } seen ? seen.Window(layer, sequence) : [];
        (_sums, _rows) = (needs.AttentionSums, needs.QueryWindow);
        if (needs.QueryStatistics && attention is not null)
            (_mean, _covariance) = Statistics(attention, needs.StatisticsSkip);
    }

    /// <summary>Some heads, of equal length.</summary>
    public KvScoreContext Context(int firstHead, int heads)
    {
        var (stream, queryHeads) = (_sequence * _heads + firstHead, heads * _group);
        var length = _tensors.Lengths[stream];
        var rows = Math.Min(Math.Min(_window.Count, _rows), length);
        return new()
        {
            Layer = _layer,
            Heads = heads,
            QueryHeads = queryHeads,
            HeadDim = _depth,
            Length = length,
            Keys = Heads(_tensors.Keys, firstHead, heads, length),
            Values = Heads(_tensors.Values, firstHead, heads, length),
            Positions = _cache.Positions(_layer, _sequence, firstHead),
            NextPosition = _cache.NextPosition(_sequence),
            Rotary = _rotary,
            QueryRows = rows,
            Queries = Queries(firstHead * _group, queryHeads, rows),
            QueryMean = Part(_mean, _depth),
            QueryCovariance = Part(_covariance, _depth * _depth),
            AttentionSums = _sums ? Sums(stream, heads, length) : default,
        };

        ReadOnlySpan<float> Part(float[] statistics, int each) =>
            statistics.Length == 0 ? default : statistics.AsSpan(firstHead * _group * each, queryHeads * each);
    }

    /// <summary>[heads, length, d]: the tensor's memory, or a copy where heads do not lie side by side.</summary>
    private unsafe ReadOnlySpan<float> Heads(Tensor tensor, int first, int heads, int length)
    {
        var n = (int)tensor.shape[2];
        var from = (float*)TorchNative.THSTensor_data(tensor.Handle)
            + ((long)_sequence * _heads + first) * n * _depth;
        if (heads == 1 || length == n)
            return new(from, heads * length * _depth);
        var copy = new float[heads * length * _depth];
        for (var head = 0; head < heads; head++)
            new ReadOnlySpan<float>(from + (long)head * n * _depth, length * _depth).CopyTo(copy.AsSpan(head * length * _depth));
        return copy;
    }

    private float[] Queries(int first, int heads, int rows)
    {
        var result = new float[heads * rows * _depth];
        for (var i = 0; i < heads * rows; i++)
        {
            var (head, row) = Math.DivRem(i, rows);
            _window[_window.Count - rows + row].Row.AsSpan((first + head) * _depth, _depth).CopyTo(result.AsSpan(i * _depth));
        }

        return result;
    }

    private float[] Sums(int stream, int heads, int length)
    {
        var sums = _cache.Observations!.SumsOf(_layer);
        var result = new float[heads * length];
        for (var head = 0; head < heads; head++)
            sums.AsSpan((stream + head) * _cache.Layout.Capacity, length).CopyTo(result.AsSpan(head * length));
        return result;
    }

    private (float[] Mean, float[] Covariance) Statistics(LayerAttention attention, int skip)
    {
        using var scope = torch.NewDisposeScope();
        var rows = attention.Rows.Length(_sequence);
        var from = skip < rows ? skip : 0;
        var queries = attention.UnrotatedQueries[_sequence].narrow(1, from, rows - from);
        var mean = queries.mean([1], keepdim: true);
        var centred = queries - mean;
        var covariance = torch.matmul(centred.transpose(1, 2), centred) / (rows - from);
        return (mean.contiguous().data<float>().ToArray(), covariance.contiguous().data<float>().ToArray());
    }
}
