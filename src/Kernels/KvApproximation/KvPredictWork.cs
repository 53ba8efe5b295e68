using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The layers of a call of <see cref="KvPredictWrite"/>, as calls of <see cref="KvAppend"/> without queries.</summary>
internal static unsafe class KvPredictWork
{
    private const string Layers = "layers", Places = "places";

    /// <summary>Takes layers apart, or refuses them.</summary>
    public static KvAppendWork[] Of(
        ReadOnlySpan<KvPredictLayer> layers, in KvTokenPlaces places, RotaryOptions? rotary, double normEpsilon)
    {
        var works = new KvAppendWork[layers.Length];
        for (var i = 0; i < works.Length; i++)
        {
            works[i] = Of(layers[i], $"{Layers}[{i}]", places, rotary, normEpsilon);
            var (first, work) = (works[0], works[i]);
            if (work.Tokens != first.Tokens || work.HeadDim != first.HeadDim || work.Cache.Batch != first.Cache.Batch
                || work.Keys.Type != first.Keys.Type || layers[i].Keys.Device != layers[0].Keys.Device)
            {
                throw TensorArguments.Refused(
                    $"{Layers}[{i}].Keys: {layers[i].Keys} of {work.Cache.Batch} sequences does not match {Layers}[0].Keys: "
                    + $"{layers[0].Keys} of {first.Cache.Batch}, but for the heads", Layers);
            }
        }

        RequireDisjoint(works);
        return works;
    }

    /// <summary>Refuses places that a cache does not have. Host memory only.</summary>
    public static void CheckPlaces(KvAppendWork[] works)
    {
        foreach (ref readonly var work in works.AsSpan())
            work.Places.Check(work.Cache, Places);
    }

    private static KvAppendWork Of(
        in KvPredictLayer layer, string name, in KvTokenPlaces places, RotaryOptions? rotary, double normEpsilon)
    {
        var (keys, device) = (layer.Keys, layer.Keys.Device);
        var (tokens, kvHeads, headDim) = KvAppendWork.SizesOf(keys, $"{name}.Keys", Layers);
        var rotated = KvAppendWork.CheckSettings(rotary, headDim, normEpsilon);
        var cache = KvCacheWork.Of(layer.Cache, $"{name}.Cache", kvHeads, headDim, device);
        if (places.Slots.Shape.Length == 2)
            throw TensorArguments.Refused($"{Places}.Slots: {places.Slots}, but int32 [T] is needed", Places);
        long[] bias = [(long)kvHeads * headDim];
        TensorArguments.RequireIfWanted(layer.KeyBias, $"{name}.KeyBias", DType.Float32, bias, device, Layers);
        TensorArguments.RequireIfWanted(layer.ValueBias, $"{name}.ValueBias", DType.Float32, bias, device, Layers);
        var work = new KvAppendWork
        {
            Keys = KvHeadRows.Of(keys, $"{name}.Keys", keys.Shape, keys.DType, layer.KeyNorm, $"{name}.KeyNorm", device, Layers)
                with
            { Bias = (float*)layer.KeyBias.Address },
            Values = KvHeadRows.Of(layer.Values, $"{name}.Values", keys.Shape, keys.DType, default, $"{name}.ValueNorm", device, Layers)
                with
            { Bias = (float*)layer.ValueBias.Address },
            Places = KvPlaces.Of(
                places.Sequences, places.Slots, places.Positions, tokens, cache.Batch, kvHeads, rotary is not null, device, Places),
            Cache = cache,
            NormEpsilon = normEpsilon,
            Rotary = rotary,
            RotatedElements = rotated,
        };
        cache.RequireDisjoint(
            $"{name}.Cache", isWritten: true,
            [.. work.Keys.Memory($"{name}.Key", tokens), .. work.Values.Memory($"{name}.Value", tokens), .. work.Places.Memory(Places)]);
        return work;
    }

    // Each layer was held against itself. Caches of layers may interleave in one pool.
    private static void RequireDisjoint(KvAppendWork[] works)
    {
        for (var i = 0; i < works.Length; i++)
        {
            for (var k = 0; k < works.Length; k++)
            {
                if (i == k)
                    continue;
                var (written, other) = (works[i].Cache, works[k]);
                if (written.Keys.Memory.Overlaps(other.Cache.Keys.Memory) || written.Keys.Memory.Overlaps(other.Cache.Values.Memory)
                    || written.Values.Memory.Overlaps(other.Cache.Values.Memory))
                    throw TensorArguments.Refused($"{Layers}[{i}].Cache overlaps {Layers}[{k}].Cache in memory", Layers);
                foreach (var rows in (ReadOnlySpan<KvHeadRows>)[other.Keys, other.Values])
                {
                    var read = rows.Strided(other.Tokens);
                    if (written.Keys.Memory.Overlaps(read) || written.Values.Memory.Overlaps(read))
                        throw TensorArguments.Refused($"{Layers}[{i}].Cache overlaps what {Layers}[{k}] reads in memory", Layers);
                }
            }
        }
    }
}
