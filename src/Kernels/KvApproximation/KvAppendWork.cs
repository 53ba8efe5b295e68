using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>One call of <see cref="KvAppend"/> whose arguments were checked.</summary>
internal readonly unsafe struct KvAppendWork
{
    private static readonly DType[] SourceTypes = [DType.Float32, DType.BFloat16, DType.Float16];

    public KvHeadRows Query { get; init; }

    public float* Rotated { get; init; }

    /// <summary>Floats from one token's rotated query to the next.</summary>
    public long RotatedStep { get; init; }

    public required KvHeadRows Keys { get; init; }

    public required KvHeadRows Values { get; init; }

    public required KvPlaces Places { get; init; }

    public required KvCacheWork Cache { get; init; }

    public required double NormEpsilon { get; init; }

    /// <summary>Null where nothing is rotated.</summary>
    public required RotaryOptions? Rotary { get; init; }

    /// <summary>How many elements of a head are rotated.</summary>
    public required int RotatedElements { get; init; }

    public int Tokens => Places.Tokens;

    public long Elements => (long)Tokens * (Query.Heads + 2 * KvHeads) * HeadDim;

    public int HeadDim => Cache.HeadDim;

    public int KvHeads => Cache.KvHeads;

    public static KvAppendWork Of(in KvAppendTensors tensors, in KvCacheViews cache, RotaryOptions? rotary, double normEpsilon)
    {
        const string Tokens = "tokens", Cache = "cache";
        var (keys, device) = (tensors.Keys, tensors.Keys.Device);
        var (tokens, kvHeads, headDim) = SizesOf(keys, $"{Tokens}.Keys", Tokens);
        var rotated = CheckSettings(rotary, headDim, normEpsilon);
        var work = KvCacheWork.Of(cache, Cache, kvHeads, headDim, device);
        var query = QueryOf(tensors, tokens, kvHeads, headDim);
        return new KvAppendWork
        {
            Query = query,
            Rotated = (float*)tensors.RotatedQuery.Address,
            RotatedStep = query.First == null ? 0 : tensors.RotatedQuery.Strides()[0],
            Keys = KvHeadRows.Of(
                keys, $"{Tokens}.Keys", keys.Shape, keys.DType, tensors.KeyNorm, $"{Tokens}.KeyNorm", device, Tokens),
            Values = KvHeadRows.Of(
                tensors.Values, $"{Tokens}.Values", keys.Shape, keys.DType, default, $"{Tokens}.ValueNorm", device, Tokens),
            Places = KvPlaces.Of(
                tensors.Sequences, tensors.Slots, tensors.Positions, tokens, work.Batch, kvHeads, rotary is not null, device, Tokens),
            Cache = work,
            NormEpsilon = normEpsilon,
            Rotary = rotary,
            RotatedElements = rotated,
        }.RequireDisjoint();
    }

    /// <summary>T, heads and d of [T, heads, d] in one of the dtypes that are appended.</summary>
    public static (int Tokens, int Heads, int HeadDim) SizesOf(in TensorView view, string name, string parameter)
    {
        if (view.Shape.Length != 3 || !SourceTypes.Contains(view.DType))
            throw TensorArguments.Refused($"{name}: {view}, but float32, bfloat16 or float16 [T, heads, d] is needed", parameter);
        if (view.Shape[0] > int.MaxValue || view.Shape[1] * view.Shape[2] is < 1 or > int.MaxValue)
            throw TensorArguments.Refused($"{name}: {view} has no elements, or too many", parameter);
        return ((int)view.Shape[0], (int)view.Shape[1], (int)view.Shape[2]);
    }

    /// <summary>How many elements are rotated; refuses settings that no head can have.</summary>
    public static int CheckSettings(RotaryOptions? rotary, int headDim, double normEpsilon)
    {
        if (!(normEpsilon >= 0 && double.IsFinite(normEpsilon))) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(normEpsilon), normEpsilon, "An epsilon is finite and not negative.");
        if (rotary is null)
            return 0;
        if (rotary.Sections.Count > 0)
            throw TensorArguments.Refused("rotary.Sections: tokens have one position each here", nameof(rotary));
        return rotary.Check(headDim);
    }

    /// <summary>Refuses places that the cache does not have. Host memory only.</summary>
    public void CheckPlaces() => Places.Check(Cache, "tokens");

    private static KvHeadRows QueryOf(in KvAppendTensors tensors, int tokens, int kvHeads, int headDim)
    {
        const string Tokens = "tokens";
        var (query, rotated, type) = (tensors.Query, tensors.RotatedQuery, tensors.Keys.DType);
        if (TensorArguments.IsWanted(query) != TensorArguments.IsWanted(rotated))
        {
            var missing = TensorArguments.IsWanted(query) ? "RotatedQuery" : "Query";
            throw TensorArguments.Refused($"{Tokens}.{missing}: missing, but the other of the two is there", Tokens);
        }

        if (!TensorArguments.IsWanted(query))
        {
            if (TensorArguments.IsWanted(tensors.QueryNorm))
                throw TensorArguments.Refused($"{Tokens}.QueryNorm is there, but {Tokens}.Query is not", Tokens);
            return default;
        }

        var (_, heads, _) = SizesOf(query, $"{Tokens}.Query", Tokens);
        if (heads % kvHeads != 0)
        {
            throw TensorArguments.Refused(
                $"{Tokens}.Query: {heads} query heads are not a multiple of {kvHeads} heads of keys and values", Tokens);
        }

        long[] shape = [tokens, heads, headDim];
        KvHeadRows.RequireRows(rotated, $"{Tokens}.RotatedQuery", shape, DType.Float32, tensors.Keys.Device, Tokens);
        return KvHeadRows.Of(
            query, $"{Tokens}.Query", shape, type, tensors.QueryNorm, $"{Tokens}.QueryNorm", tensors.Keys.Device, Tokens);
    }

    // A rotated query may take the query's place, element by element, also between the keys and values of one projection.
    private KvAppendWork RequireDisjoint()
    {
        const string Tokens = "tokens", Cache = "cache";
        var rotated = new KvHeadRows
        {
            First = (byte*)Rotated,
            Type = DType.Float32,
            Heads = Query.Heads,
            HeadDim = HeadDim,
            TokenStep = RotatedStep * sizeof(float),
        };
        var isInPlace = rotated.First == Query.First && rotated.TokenStep == Query.TokenStep && Query.Type == DType.Float32;
        this.Cache.RequireDisjoint(
            Cache, isWritten: true, [.. Keys.Memory($"{Tokens}.Key", this.Tokens), .. Values.Memory($"{Tokens}.Value", this.Tokens)]);
        this.Cache.RequireDisjoint(
            Cache, isWritten: true,
            [
                NamedMemory.Read($"{Tokens}.Query", Query.First, isInPlace ? 0 : Query.Extent(this.Tokens)),
                NamedMemory.Read($"{Tokens}.QueryNorm", Query.Norm, Query.Norm == null ? 0 : HeadDim * (long)sizeof(float)),
                NamedMemory.Read($"{Tokens}.KeyNorm", Keys.Norm, Keys.Norm == null ? 0 : HeadDim * (long)sizeof(float)),
                .. Places.Memory(Tokens),
                NamedMemory.Written($"{Tokens}.RotatedQuery", rotated.First, rotated.Extent(this.Tokens)),
            ]);
        foreach (var (name, rows) in ((string, KvHeadRows)[])[("Keys", Keys), ("Values", Values)])
        {
            if (rotated.First != null && rotated.Strided(this.Tokens).Overlaps(rows.Strided(this.Tokens)))
                throw TensorArguments.Refused($"{Tokens}.RotatedQuery overlaps {Tokens}.{name} in memory", Tokens);
        }

        return this;
    }
}
