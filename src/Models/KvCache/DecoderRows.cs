using AuxCore.Interop;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// What goes from layer to layer of a <see cref="CausalDecoder"/>: L rows of each of B sequences, in the order of their positions.
/// </summary>
/// <remarks>
/// Sequences of unequal length are padded on the right: sequence b has the rows 0 … Lengths[b] − 1. A causal row never sees what is after
/// it, so padding costs no mask, and a cache holds no padding. A <see cref="KeyMask"/> serves training, where padding may be anywhere.
/// </remarks>
public sealed record DecoderRows
{
    /// <summary>Rows.</summary>
    /// <param name="hidden">float32 [B, L, D].</param>
    /// <param name="positions">int64 [B, L].</param>
    public DecoderRows(Tensor hidden, Tensor positions) => (Hidden, Positions) = (hidden, positions);

    /// <summary>float32 [B, L, D].</summary>
    public Tensor Hidden { get; init; }

    /// <summary>int64 [B, L]: the position of each row, by which it is rotated; ascending within a sequence.</summary>
    public Tensor Positions { get; init; }

    /// <summary>
    /// bool [B, L], or null: which rows others may attend to. A row always sees itself, so that padding stays finite. Not with a cache.
    /// </summary>
    public Tensor? KeyMask { get; init; }

    /// <summary>[B], or null where all have L: how many rows each sequence has, each at least 1.</summary>
    public IReadOnlyList<int>? Lengths { get; init; }

    /// <summary>How many rows a sequence has.</summary>
    /// <param name="sequence">Which.</param>
    public int Length(int sequence) => Lengths?[sequence] ?? (int)Hidden.shape[1];

    /// <summary>Refuses what a layer could not take.</summary>
    internal void Check(long width, string name, bool cached)
    {
        Tokens.RequireLive(Hidden, $"{name}.{nameof(Hidden)}");
        Tokens.RequireLive(Positions, $"{name}.{nameof(Positions)}");
        var shape = Hidden.shape;
        if (Hidden.dtype != torch.ScalarType.Float32 || shape.Length != 3 || shape[2] != width || shape[0] < 1 || shape[1] < 1)
            throw new ArgumentException($"{name}.Hidden: {Batches.Describe(Hidden)} is not Float32[B, L, {width}] with rows", name);
        if (Hidden.device_type != DeviceType.CPU)
            throw new ArgumentException($"{name}.Hidden: it is on {Hidden.device}, and these models are on the CPU", name);
        RequireRows(Positions, torch.ScalarType.Int64, $"{name}.{nameof(Positions)}");
        if (KeyMask is not null)
        {
            RequireRows(KeyMask, torch.ScalarType.Bool, $"{name}.{nameof(KeyMask)}");
            if (cached)
                throw new ArgumentException($"{name}.KeyMask: with a cache, sequences are padded on the right and have Lengths", name);
        }

        if (Lengths is null)
            return;
        if (Lengths.Count != shape[0])
            throw new ArgumentException($"{name}.Lengths: {Lengths.Count} numbers for {shape[0]} sequences", name);
        for (var b = 0; b < Lengths.Count; b++)
        {
            if (Lengths[b] < 1 || Lengths[b] > shape[1])
                throw new ArgumentOutOfRangeException(name, Lengths[b], $"{name}.Lengths[{b}] is not within 1 and {shape[1]}.");
        }

        void RequireRows(Tensor tensor, torch.ScalarType type, string what)
        {
            Tokens.RequireLive(tensor, what);
            var rows = shape.AsSpan(0, 2);
            if (tensor.dtype != type || !tensor.shape.AsSpan().SequenceEqual(rows))
                throw new ArgumentException($"{what}: {Batches.Describe(tensor)} is not {type}{TensorView.Format(rows)}", name);
        }
    }

    /// <summary>[B · L]: the positions, on the host.</summary>
    internal int[] HostPositions()
    {
        using var scope = torch.NewDisposeScope();
        var flat = Positions.to(torch.int64).contiguous().data<long>().ToArray();
        return Array.ConvertAll(flat, position => position is >= 0 and < int.MaxValue
            ? (int)position
            : throw new ArgumentException($"positions: {position} is not within 0 and {int.MaxValue - 1}"));
    }
}
