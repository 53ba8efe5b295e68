using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Predicts the keys and values of a large decoder from those of a small one, by an affine map for the keys and one for the values of each
/// layer of the large one, over all heads at once: KV Prediction (Horton et al. 2024, arXiv 2410.08391, section 3).
/// </summary>
/// <remarks>
/// Keys go in and come out before key norm and rotary embedding. Parameters are named <c>keys.0.weight</c>, <c>values.0.bias</c>, ….
/// </remarks>
public sealed class KvPredictor : Module
{
    private readonly Linear[] _keys, _values;
    private readonly int _baseHeadDim;

    /// <summary>A predictor whose weights are as PyTorch initialises a linear layer, from torch's generator.</summary>
    /// <param name="baseOptions">The decoder whose keys and values are predicted; its <c>WeightType</c> is the predictor's.</param>
    /// <param name="auxiliaryOptions">The decoder whose keys and values are known.</param>
    /// <param name="map">
    /// For each layer of the base, which layer of the auxiliary model it is predicted from; <see cref="CanonicalMap"/> without.
    /// </param>
    /// <exception cref="ArgumentException">The map has another number of layers than the base, or names one that is not there.</exception>
    public KvPredictor(DecoderOptions baseOptions, DecoderOptions auxiliaryOptions, IReadOnlyList<int>? map = null)
        : base(nameof(KvPredictor))
    {
        ArgumentNullException.ThrowIfNull(baseOptions);
        ArgumentNullException.ThrowIfNull(auxiliaryOptions);
        baseOptions.Check();
        auxiliaryOptions.Check();
        var (layers, known) = (baseOptions.Layers.Count, auxiliaryOptions.Layers.Count);
        Map = map is null ? CanonicalMap(layers, known) : [.. map];
        if (Map.Count != layers)
            throw new ArgumentException($"map: it has {Map.Count} layers, and the base has {layers}", nameof(map));
        for (var i = 0; i < layers; i++)
        {
            if ((uint)Map[i] >= (uint)known)
                throw new ArgumentOutOfRangeException(nameof(map), Map[i], $"map[{i}] is not within 0 and {known - 1}.");
        }

        (BaseOptions, AuxiliaryOptions, _baseHeadDim) = (baseOptions, auxiliaryOptions, baseOptions.HeadDim);
        (_keys, _values) = (Affine(), Affine());
        register_module("keys", ModuleList(_keys));
        register_module("values", ModuleList(_values));

        Linear[] Affine() => [.. Enumerable.Range(0, layers).Select(i => Linear(
            (long)auxiliaryOptions.Layers[Map[i]].KvHeads * auxiliaryOptions.HeadDim,
            (long)baseOptions.Layers[i].KvHeads * baseOptions.HeadDim, dtype: baseOptions.WeightType))];
    }

    /// <summary>For each layer of the base, which layer of the auxiliary model it is predicted from.</summary>
    public IReadOnlyList<int> Map { get; }

    internal DecoderOptions BaseOptions { get; }

    internal DecoderOptions AuxiliaryOptions { get; }

    /// <summary>
    /// The map for an auxiliary model that is a smaller sibling (KVP-C): of n_B layers each of the n_A serves ⌊n_B / n_A⌋ neighbouring
    /// ones, and the first n_B mod n_A serve one more.
    /// </summary>
    /// <param name="baseLayers">n_B.</param>
    /// <param name="auxiliaryLayers">n_A, no more than n_B.</param>
    /// <exception cref="ArgumentException">A number is below 1, or the auxiliary model has more layers.</exception>
    public static IReadOnlyList<int> CanonicalMap(int baseLayers, int auxiliaryLayers)
    {
        Sizes.RequirePositive((nameof(baseLayers), baseLayers), (nameof(auxiliaryLayers), auxiliaryLayers));
        if (auxiliaryLayers > baseLayers)
        {
            throw new ArgumentException(
                $"auxiliaryLayers: {auxiliaryLayers} layers cannot each serve one of {baseLayers}; give a map", nameof(auxiliaryLayers));
        }

        var (each, more) = (baseLayers / auxiliaryLayers, baseLayers % auxiliaryLayers);
        return [.. Enumerable.Range(0, auxiliaryLayers).SelectMany(j => Enumerable.Repeat(j, j < more ? each + 1 : each))];
    }

    /// <summary>
    /// The map for an auxiliary model that is the base with layers left out (KVP-LP): each layer is predicted from the last one kept at or
    /// before it.
    /// </summary>
    /// <param name="baseLayers">n_B.</param>
    /// <param name="kept">Which layers of the base the auxiliary model has, ascending from 0.</param>
    /// <exception cref="ArgumentException">None is kept, they do not ascend, or the first is not layer 0.</exception>
    /// <exception cref="ArgumentOutOfRangeException">One is no layer of the base.</exception>
    public static IReadOnlyList<int> PrunedMap(int baseLayers, IReadOnlyList<int> kept)
    {
        RequireKept(baseLayers, kept);
        return [.. Enumerable.Range(0, baseLayers).Select(i => kept.Count(layer => layer <= i) - 1)];
    }

    /// <summary>The sizes of the base with layers left out.</summary>
    /// <param name="options">The base.</param>
    /// <param name="kept">Which of its layers stay, ascending from 0.</param>
    /// <exception cref="ArgumentException">As <see cref="PrunedMap"/>.</exception>
    public static DecoderOptions Pruned(DecoderOptions options, IReadOnlyList<int> kept)
    {
        ArgumentNullException.ThrowIfNull(options);
        RequireKept(options.Layers.Count, kept);
        return options with { Layers = [.. kept.Select(layer => options.Layers[layer])] };
    }

    /// <summary>Keys and values of a layer of the base, differentiable.</summary>
    /// <param name="layer">Which layer of the base.</param>
    /// <param name="keys">float32 [B, Hkv, L, d] of layer <c>Map[layer]</c> of the auxiliary model, before key norm and rotation.</param>
    /// <param name="values">float32 [B, Hkv, L, d] of the same.</param>
    /// <returns>float32 [B, Hkv, L, d] of the base each; keys before key norm and rotation.</returns>
    /// <exception cref="ArgumentException">A shape, dtype or device does not fit, or there is no such layer.</exception>
    public (Tensor Keys, Tensor Values) Predict(int layer, Tensor keys, Tensor values)
    {
        if ((uint)layer >= (uint)Map.Count)
            throw new ArgumentOutOfRangeException(nameof(layer), layer, $"It is not within 0 and {Map.Count - 1}.");
        using var scope = torch.NewDisposeScope();
        return (Apply(_keys[layer], layer, keys, nameof(keys)).MoveToOuterDisposeScope(),
            Apply(_values[layer], layer, values, nameof(values)).MoveToOuterDisposeScope());
    }

    /// <summary>The same in [B · L, Hkv · d] and without the biases, for those who add them with what follows.</summary>
    internal KvProducts Products(int layer, Tensor keys, Tensor values)
    {
        using var scope = torch.NewDisposeScope();
        return new(
            Product(_keys[layer], keys, nameof(keys)), Bias(_keys[layer]), Product(_values[layer], values, nameof(values)),
            Bias(_values[layer]));

        Tensor Product(Linear affine, Tensor heads, string name)
        {
            var merged = Merged(layer, heads, name);
            return Projections.Of(affine.weight, merged.reshape(-1, merged.shape[2])).MoveToOuterDisposeScope();
        }

        static Tensor Bias(Linear affine) => affine.bias!.to(torch.ScalarType.Float32).MoveToOuterDisposeScope();
    }

    private Tensor Apply(Linear affine, int layer, Tensor heads, string name)
    {
        var merged = Merged(layer, heads, name);
        return Projections.Of(affine, merged).view(merged.shape[0], merged.shape[1], -1, _baseHeadDim).transpose(1, 2);
    }

    /// <summary>[B, L, Hkv · d] of the auxiliary model's [B, Hkv, L, d].</summary>
    private Tensor Merged(int layer, Tensor heads, string name)
    {
        Batches.Require(heads, name);
        var (kvHeads, depth) = (AuxiliaryOptions.Layers[Map[layer]].KvHeads, AuxiliaryOptions.HeadDim);
        var shape = heads.shape;
        if (heads.dtype != torch.ScalarType.Float32 || heads.device_type != DeviceType.CPU || shape.Length != 4 || shape[1] != kvHeads
            || shape[3] != depth)
        {
            throw new ArgumentException(
                $"{name}: {Batches.Describe(heads)} on {heads.device} is not Float32[B, {kvHeads}, L, {depth}] in host memory", name);
        }

        return heads.transpose(1, 2).reshape(shape[0], shape[2], kvHeads * depth);
    }

    private static void RequireKept(int baseLayers, IReadOnlyList<int> kept)
    {
        Sizes.RequirePositive((nameof(baseLayers), baseLayers));
        ArgumentNullException.ThrowIfNull(kept);
        if (kept is not [0, ..])
            throw new ArgumentException("kept: the first layer must be among them, for the layers before the next one", nameof(kept));
        for (var i = 1; i < kept.Count; i++)
        {
            if (kept[i] <= kept[i - 1])
                throw new ArgumentException($"kept: {kept[i]} follows {kept[i - 1]}; layers ascend", nameof(kept));
            if (kept[i] >= baseLayers)
                throw new ArgumentOutOfRangeException(nameof(kept), kept[i], $"kept[{i}] is not within 0 and {baseLayers - 1}.");
        }
    }
}

/// <summary>Products of a layer's projections, and what is yet to be added to them.</summary>
/// <param name="Keys">[B · L, Hkv · d].</param>
/// <param name="KeyBias">[Hkv · d].</param>
/// <param name="Values">[B · L, Hkv · d].</param>
/// <param name="ValueBias">[Hkv · d].</param>
internal readonly record struct KvProducts(Tensor Keys, Tensor KeyBias, Tensor Values, Tensor ValueBias);
