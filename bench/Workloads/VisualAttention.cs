using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>How much of a decoder's attention falls on rows of an image: the mean over layers, heads and sequences.</summary>
/// <param name="first">Positions of the image's rows, first and behind the last; the same in all sequences.</param>
/// <param name="end">See <paramref name="first"/>.</param>
internal sealed class VisualAttention(int first, int end) : DecoderHook
{
    private int _first = first, _end = end, _layers;
    private double _mass;

    /// <summary>The mean since it was last asked, from 0 to 1.</summary>
    public double Take()
    {
        double mean = _mass / Math.Max(_layers, 1);
        (_mass, _layers) = (0, 0);
        return mean;
    }

    /// <summary>The image stands elsewhere from now on.</summary>
    public void Move(int first, int end) => (_first, _end) = (first, end);

    public override bool ReadsAttention(DecoderPhase phase) => phase == DecoderPhase.Decode;

    public override void AfterAttention(LayerAttention attention)
    {
        using var scope = torch.NewDisposeScope();
        Tensor keys = attention.Cache!.Materialise(attention.Layer).Keys; // [B, Hkv, N, d]
        long[] shape = keys.shape;
        Tensor queries = attention.Queries.view(shape[0], shape[1], -1, shape[3]); // the heads of a group beside each other
        Tensor share = torch.matmul(queries, keys.transpose(2, 3)).div(Math.Sqrt(shape[3])).softmax(-1);
        ReadOnlySpan<int> positions = attention.Cache.Positions(attention.Layer, 0, 0);
        for (int slot = 0; slot < positions.Length; slot++)
        {
            if (positions[slot] >= _first && positions[slot] < _end) _mass += share.select(3, slot).mean().item<float>();
        }

        _layers++;
    }
}
