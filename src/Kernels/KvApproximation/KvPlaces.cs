using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Where in a cache each of some tokens goes, and by which position it is rotated.</summary>
internal readonly unsafe struct KvPlaces
{
    public required int Tokens { get; init; }

    /// <summary>B.</summary>
    public required int Batch { get; init; }

    /// <summary>Null where tokens are [B, T / B].</summary>
    public int* Sequences { get; init; }

    public int* Slots { get; init; }

    /// <summary>Slots of a token: 1, or Hkv.</summary>
    public required int SlotsOfToken { get; init; }

    /// <summary>Null where nothing is rotated.</summary>
    public int* Positions { get; init; }

    public int Sequence(int token) => Sequences == null ? (int)((long)token * Batch / Tokens) : Sequences[token];

    public int Slot(int token, int kvHead) => Slots[(long)token * SlotsOfToken + (SlotsOfToken == 1 ? 0 : kvHead)];

    /// <summary>The greatest position; −1 where there is none.</summary>
    public int GreatestPosition
    {
        get
        {
            var greatest = -1;
            for (var token = 0; token < Tokens && Positions != null; token++)
                greatest = Math.Max(greatest, Positions[token]);
            return greatest;
        }
    }

    /// <summary>Takes views apart, or refuses them.</summary>
    public static KvPlaces Of(
        in TensorView sequences, in TensorView slots, in TensorView positions, int tokens, int batch, int kvHeads, bool isRotated,
        AuxDevice device, string name)
    {
        if (!TensorArguments.IsWanted(slots) && tokens > 0)
            throw TensorArguments.Refused($"{name}.Slots: missing", name);
        TensorArguments.RequireIfWanted(sequences, $"{name}.Sequences", DType.Int32, [tokens], device, name);
        if (!TensorArguments.IsWanted(sequences) && tokens % batch != 0)
            throw TensorArguments.Refused($"{name}.Sequences: missing; {tokens} tokens are not as many of each of {batch} sequences", name);
        var ofHeads = slots.Shape.Length == 2;
        TensorArguments.RequireIfWanted(
            slots, $"{name}.Slots", DType.Int32, ofHeads ? [tokens, kvHeads] : [tokens], device, name);
        TensorArguments.RequireIfWanted(positions, $"{name}.Positions", DType.Int32, [tokens], device, name);
        if (ofHeads && kvHeads > 1 && isRotated && !TensorArguments.IsWanted(positions))
            throw TensorArguments.Refused($"{name}.Positions: missing; each head has slots of its own", name);
        return new()
        {
            Tokens = tokens,
            Batch = batch,
            Sequences = (int*)sequences.Address,
            Slots = (int*)slots.Address,
            SlotsOfToken = ofHeads ? kvHeads : 1,
            Positions = !isRotated ? null : (int*)(TensorArguments.IsWanted(positions) ? positions.Address : slots.Address),
        };
    }

    /// <summary>The memory of the views, for checks of overlap.</summary>
    public NamedMemory[] Memory(string name) =>
    [
        NamedMemory.Read($"{name}.Sequences", Sequences, Sequences == null ? 0 : Tokens * (long)sizeof(int)),
        NamedMemory.Read($"{name}.Slots", Slots, (long)Tokens * SlotsOfToken * sizeof(int)),
        NamedMemory.Read($"{name}.Positions", Positions, Positions == null ? 0 : Tokens * (long)sizeof(int)),
    ];

    /// <summary>Refuses places that a cache does not have, or that are out of order. Host memory only.</summary>
    public void Check(in KvCacheWork cache, string name)
    {
        for (var token = 0; token < Tokens; token++)
        {
            if ((uint)Sequence(token) >= (uint)Batch)
            {
                throw new ArgumentOutOfRangeException(
                    name, Sequence(token), $"{name}.Sequences[{token}] is not within 0 and {Batch - 1}.");
            }
        }

        CheckSlots(cache, name);
        if (Positions != null)
            CheckPositions(name);
    }

    private void CheckSlots(in KvCacheWork cache, string name)
    {
        var count = Batch * SlotsOfToken;
        var last = count <= 256 ? stackalloc int[count] : new int[count];
        last.Fill(-1);
        for (var token = 0; token < Tokens; token++)
        {
            var b = Sequence(token);
            for (var i = 0; i < SlotsOfToken; i++)
            {
                var slot = Slots[(long)token * SlotsOfToken + i];
                if (slot < 0)
                    throw new ArgumentOutOfRangeException(name, slot, $"{NameOfSlot(name, token, i)} is negative.");
                RequireRoom(cache, name, token, i);
                ref var before = ref last[b * SlotsOfToken + i];
                if (slot <= before || (before >= 0 && slot > before + 1 && cache.NeedsEveryPosition))
                {
                    throw TensorArguments.Refused(
                        $"{NameOfSlot(name, token, i)} is {slot}, but {before} was before it; those of a sequence ascend"
                        + (cache.NeedsEveryPosition ? ", one by one, in a cache with a residual" : ""), name);
                }

                before = slot;
            }
        }
    }

    // A slot of all heads needs room in each of them, where each has pages of its own.
    private void RequireRoom(in KvCacheWork cache, string name, int token, int i)
    {
        var b = Sequence(token);
        var heads = SlotsOfToken == 1 && cache.Keys.PagesAreOfHeads ? cache.KvHeads : 1;
        for (var head = i; head < i + heads; head++)
        {
            var (slot, capacity) = (Slots[(long)token * SlotsOfToken + i], cache.Capacity(b, head));
            if (slot >= capacity)
            {
                throw new KvCapacityException(
                    $"{NameOfSlot(name, token, i)} is {slot}, but sequence {b} has room for {capacity} positions", name);
            }
        }
    }

    private void CheckPositions(string name)
    {
        var last = Batch <= 256 ? stackalloc int[Batch] : new int[Batch];
        last.Clear();
        for (var token = 0; token < Tokens; token++)
        {
            ref var before = ref last[Sequence(token)];
            if (Positions[token] < 0)
            {
                throw new ArgumentOutOfRangeException(name, Positions[token], $"{name}.Positions[{token}] is negative.");
            }

            if (Positions[token] < before)
            {
                throw TensorArguments.Refused(
                    $"{name}.Positions[{token}] is {Positions[token]}, but {before} was before it; those of a sequence do not descend",
                    name);
            }

            before = Positions[token];
        }
    }

    private string NameOfSlot(string name, int token, int i) =>
        SlotsOfToken == 1 ? $"{name}.Slots[{token}]" : $"{name}.Slots[{token}, {i}]";
}
