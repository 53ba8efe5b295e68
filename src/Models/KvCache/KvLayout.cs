using AuxCore.Kernels;
using TorchSharp;

namespace AuxCore.Models;

/// <summary>What one layer keeps of each token.</summary>
/// <param name="KvHeads">Hkv: heads of keys and values.</param>
/// <param name="HeadDim">d: elements of a head.</param>
public readonly record struct KvLayer(int KvHeads, int HeadDim);

/// <summary>What a <see cref="KvCache"/> holds, and in which formats.</summary>
/// <param name="Layers">Each layer's heads; they may differ.</param>
/// <param name="Batch">B: how many sequences.</param>
/// <param name="Capacity">Nmax: for how many tokens each head has room.</param>
/// <param name="Keys">How keys are stored.</param>
/// <param name="Values">How values are stored.</param>
public sealed record KvLayout(IReadOnlyList<KvLayer> Layers, int Batch, int Capacity, KvFormat Keys, KvFormat Values)
{
    /// <summary>Refuses what no cache can be.</summary>
    internal void Check()
    {
        ArgumentNullException.ThrowIfNull(Layers);
        Sizes.RequirePositive((nameof(Layers), Layers.Count), (nameof(Batch), Batch), (nameof(Capacity), Capacity));
        for (var i = 0; i < Layers.Count; i++)
        {
            Sizes.RequirePositive(($"Layers[{i}].KvHeads", Layers[i].KvHeads), ($"Layers[{i}].HeadDim", Layers[i].HeadDim));
            foreach (var (name, format) in ((string, KvFormat)[])[(nameof(Keys), Keys), (nameof(Values), Values)])
            {
                if (format == KvFormat.Fp8E4M3)
                    throw new ArgumentException($"{name}: {format} is not for caches; its scales would have to be known before the data");
                if (Layers[i].HeadDim % format.GroupSize() != 0)
                {
                    throw new ArgumentException(
                        $"{name}: heads of {Layers[i].HeadDim} in layer {i} are not a multiple of {format.GroupSize()}, the groups of {format}");
                }
            }
        }
    }
}

/// <summary>Keys and values of a layer, restored to float32.</summary>
/// <param name="Keys">float32 [B, Hkv, n, d], where n is the longest head; zeros behind shorter ones.</param>
/// <param name="Values">float32 [B, Hkv, n, d].</param>
/// <param name="Lengths">[B · Hkv]: how many positions of each head are filled.</param>
public sealed record KvTensors(torch.Tensor Keys, torch.Tensor Values, int[] Lengths);
