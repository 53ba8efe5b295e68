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
    /// <summary>
    /// What 1 stands for in keys of <see cref="KvFormat.Fp8E4M3"/>, finite and above 0: with s, magnitudes from s / 512 to 448 s are told
    /// apart. Other formats ignore it.
    /// </summary>
    public float KeyScale { get; init; } = 1;

    /// <summary>The same of values.</summary>
    public float ValueScale { get; init; } = 1;

    /// <summary>
    /// How many of the latest tokens of each head a cache in <see cref="KvFormat.Kivi4"/> keeps in float32, as KIVI does: 128 in the paper
    /// (Liu et al. 2024, arXiv 2402.02750). At least so many values, and up to 31 keys more, because keys are quantised by 32. Not
    /// negative; other formats ignore it.
    /// </summary>
    public int ResidualLength { get; init; } = 128;

    /// <summary>Rows of a head in the ring that keeps the latest tokens.</summary>
    internal int Ring => Window + KiviGroup.Elements;

    // More than the capacity is the same as the capacity.
    private int Window => Math.Min(ResidualLength, Capacity);

    /// <summary>How many of a head's keys are stored in their format; the others are in a ring.</summary>
    internal int StoredKeys(int length) => Keys == KvFormat.Kivi4 ? KiviRing.Quantised(length, Window, isKeys: true) : length;

    /// <summary>How many of a head's values are stored in their format; the others are in a ring.</summary>
    internal int StoredValues(int length) => Values == KvFormat.Kivi4 ? KiviRing.Quantised(length, Window, isKeys: false) : length;

    /// <summary>Refuses what no cache can be.</summary>
    internal void Check()
    {
        ArgumentNullException.ThrowIfNull(Layers);
        Sizes.RequirePositive((nameof(Layers), Layers.Count), (nameof(Batch), Batch), (nameof(Capacity), Capacity));
        for (var i = 0; i < Layers.Count; i++)
        {
            Sizes.RequirePositive(($"Layers[{i}].KvHeads", Layers[i].KvHeads), ($"Layers[{i}].HeadDim", Layers[i].HeadDim));
            RequireGroups(nameof(Keys), Keys, i);
            RequireGroups(nameof(Values), Values, i);
        }

        ArgumentOutOfRangeException.ThrowIfNegative(ResidualLength);
        RequireScale(nameof(KeyScale), KeyScale);
        RequireScale(nameof(ValueScale), ValueScale);
    }

    private void RequireGroups(string name, KvFormat format, int layer)
    {
        if (Layers[layer].HeadDim % format.GroupSize() != 0)
        {
            throw new ArgumentException(
                $"{name}: heads of {Layers[layer].HeadDim} in layer {layer} are not a multiple of {format.GroupSize()}, the groups of "
                + $"{format}");
        }
    }

    private static void RequireScale(string name, float scale)
    {
        if (!(scale > 0 && float.IsFinite(scale)))
            throw new ArgumentOutOfRangeException(name, scale, "A scale is finite and above 0.");
    }
}

/// <summary>Keys and values of a layer, restored to float32.</summary>
/// <param name="Keys">float32 [B, Hkv, n, d], where n is the longest head; zeros behind shorter ones.</param>
/// <param name="Values">float32 [B, Hkv, n, d].</param>
/// <param name="Lengths">[B · Hkv]: how many positions of each head are filled.</param>
public sealed record KvTensors(torch.Tensor Keys, torch.Tensor Values, int[] Lengths);
