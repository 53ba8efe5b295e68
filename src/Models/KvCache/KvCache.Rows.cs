using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

public abstract partial class KvCache
{
    /// <summary>Stores the keys and values of tokens that come behind those that a layer holds.</summary>
    /// <param name="layer">Which layer.</param>
    /// <param name="keys">float32 [B, Hkv, n, d], with whatever rotation the model gives them.</param>
    /// <param name="values">float32 [B, Hkv, n, d].</param>
    /// <param name="positions">[B · n]: the position of each token, ascending within a sequence and above those before.</param>
    /// <param name="lengths">[B]: of the n tokens of a sequence, only the first so many are stored. All without.</param>
    /// <exception cref="KvCapacityException">There is no room; the cache is unchanged.</exception>
    /// <exception cref="ArgumentException">
    /// A shape, dtype or device does not fit, or positions do not ascend; the cache is unchanged.
    /// </exception>
    public void Append(int layer, Tensor keys, Tensor values, ReadOnlySpan<int> positions, ReadOnlySpan<int> lengths = default)
    {
        var heads = Slots(layer, 0);
        var (batch, depth) = (Layout.Batch, Layout.Layers[layer].HeadDim);
        RequireHeads(keys, nameof(keys), null);
        RequireHeads(values, nameof(values), keys);
        var n = (int)keys.shape[2];
        int[] rows = lengths.IsEmpty ? [.. Enumerable.Repeat(n, batch)] : [.. lengths];
        RequireOneEach(rows, nameof(lengths));
        RequirePositions(layer, positions, rows, n);

        using var scope = torch.NewDisposeScope();
        Tensor storedKeys = Quantised(keys, Layout.Keys), storedValues = Quantised(values, Layout.Values);
        Reserve(layer, rows);
        for (var stream = 0; stream < batch * heads; stream++)
            Write(layer, stream, _slots[layer].Length(stream), storedKeys, storedValues, (long)stream * n, rows[stream / heads]);
        for (var b = 0; b < batch; b++)
            _slots[layer].Append(b, positions.Slice(b * n, rows[b]));

        void RequireHeads(Tensor tensor, string name, Tensor? like)
        {
            Tokens.RequireLive(tensor, name);
            var shape = tensor.shape;
            if (tensor.dtype != torch.ScalarType.Float32 || shape.Length != 4 || shape[0] != batch || shape[1] != heads || shape[3] != depth
                || shape[2] > int.MaxValue || (like is not null && shape[2] != like.shape[2]))
            {
                throw new ArgumentException(
                    $"{name}: {Batches.Describe(tensor)} is not Float32[{batch}, {heads}, {like?.shape[2].ToString() ?? "n"}, {depth}], "
                    + $"what layer {layer} of the cache takes", name);
            }

            if (tensor.device_type != DeviceType.CPU)
                throw new ArgumentException($"{name}: it is on {tensor.device}, and the cache is in host memory", name);
        }
    }

    /// <summary>Attention of one token of each sequence over what a layer holds of it, itself included where it was appended.</summary>
    /// <param name="layer">Which layer.</param>
    /// <param name="queries">float32 [B, Hq, d]; Hq is a multiple of the layer's heads.</param>
    /// <param name="scale">What products are multiplied by; 1 / √d without.</param>
    /// <returns>float32 [B, Hq, d]; zeros where a head holds nothing.</returns>
    /// <exception cref="ArgumentException">A shape, dtype or device does not fit, or heads do not divide.</exception>
    public Tensor Attend(int layer, Tensor queries, double? scale = null)
    {
        var heads = Slots(layer, 0);
        Tokens.RequireLive(queries, nameof(queries));
        var (shape, depth) = (queries.shape, Layout.Layers[layer].HeadDim);
        if (queries.dtype != torch.ScalarType.Float32 || shape.Length != 3 || shape[0] != Layout.Batch || shape[2] != depth || shape[1] == 0)
        {
            throw new ArgumentException(
                $"queries: {Batches.Describe(queries)} is not Float32[{Layout.Batch}, Hq, {depth}]", nameof(queries));
        }

        if (shape[1] % heads != 0)
        {
            throw new ArgumentException(
                $"queries: {shape[1]} query heads are not a multiple of {heads} heads of keys and values", nameof(queries));
        }

        if (queries.device_type != DeviceType.CPU)
            throw new ArgumentException($"queries: it is on {queries.device}, and the cache is in host memory", nameof(queries));
        using var scope = torch.NewDisposeScope();
        var output = torch.empty(shape);
        AttendTo(layer, queries.contiguous(), _slots[layer].Lengths(), output, scale);
        return output.MoveToOuterDisposeScope();
    }

    /// <summary>Restores what a layer holds to float32.</summary>
    /// <param name="layer">Which layer.</param>
    /// <returns>Tensors of their own, in the caller's dispose scope.</returns>
    public unsafe KvTensors Materialise(int layer)
    {
        var (heads, depth) = (Slots(layer, 0), Layout.Layers[layer].HeadDim);
        var lengths = _slots[layer].Lengths();
        var n = lengths.Max();
        using var scope = torch.NewDisposeScope();
        Tensor keys = torch.zeros(Layout.Batch, heads, n, depth), values = torch.zeros(Layout.Batch, heads, n, depth);
        if (n > 0)
        {
            var k = (float*)keys.ToTensorView().Address;
            var v = (float*)values.ToTensorView().Address;
            for (var stream = 0; stream < lengths.Length; stream++)
            {
                for (var slot = 0; slot < lengths[stream];)
                {
                    var run = Locate(layer, stream, slot);
                    var count = Math.Min(run.Count, lengths[stream] - slot);
                    var at = ((long)stream * n + slot) * depth;
                    KvQuantise.Dequantise(
                        new(run.Keys, checked((int)(count * KeyRowBytes(layer)))), Layout.Keys, new(k + at, count * depth));
                    KvQuantise.Dequantise(
                        new(run.Values, checked((int)(count * ValueRowBytes(layer)))), Layout.Values, new(v + at, count * depth));
                    slot += count;
                }
            }
        }

        return new(keys.MoveToOuterDisposeScope(), values.MoveToOuterDisposeScope(), lengths);
    }

    /// <summary>Evicts from a layer all but some tokens of each head. Heads may keep different numbers; memory follows.</summary>
    /// <param name="layer">Which layer.</param>
    /// <param name="offsets">[B · Hkv + 1]: the kept slots of head h of sequence b lie at offsets[b · Hkv + h] up to the next.</param>
    /// <param name="slots">Within each head, ascending, below its length.</param>
    /// <exception cref="ArgumentException">Offsets or slots do not ascend, or there is no such slot; the cache is unchanged.</exception>
    public void Keep(int layer, ReadOnlySpan<int> offsets, ReadOnlySpan<int> slots)
    {
        var heads = Slots(layer, 0);
        var held = _slots[layer];
        var kept = KeptByStream(held, offsets, slots);
        Own(layer, [.. Enumerable.Range(0, held.Streams).Where(stream => kept[stream].Length < held.Length(stream))]);
        for (var stream = 0; stream < held.Streams; stream++)
        {
            for (var to = 0; to < kept[stream].Length; to++)
                Move(layer, stream, kept[stream][to], to);
            Shrink(layer, stream, kept[stream].Length);
        }

        for (var b = 0; b < Layout.Batch; b++)
            held.Keep(b, kept.AsSpan(b * heads, heads).ToArray());
    }

    /// <summary>Overwrites the values of a layer, of all its heads: float32 [B, Hkv, n, d], where n is the longest head.</summary>
    internal void SetValues(int layer, Tensor values)
    {
        using var scope = torch.NewDisposeScope();
        var stored = Quantised(values, Layout.Values);
        var n = values.shape[2];
        Own(layer, [.. Enumerable.Range(0, _slots[layer].Streams)]);
        for (var stream = 0; stream < _slots[layer].Streams; stream++)
            Write(layer, stream, 0, null, stored, stream * n, _slots[layer].Length(stream));
    }

    private static int[][] KeptByStream(KvSlots held, ReadOnlySpan<int> offsets, ReadOnlySpan<int> slots)
    {
        if (offsets.Length != held.Streams + 1 || offsets[0] != 0 || offsets[^1] != slots.Length)
        {
            throw new ArgumentException(
                $"offsets: they are not {held.Streams + 1} numbers from 0 to {slots.Length}", nameof(offsets));
        }

        var kept = new int[held.Streams][];
        for (var stream = 0; stream < kept.Length; stream++)
        {
            if (offsets[stream + 1] < offsets[stream])
                throw new ArgumentException($"offsets[{stream + 1}] is below the one before it", nameof(offsets));
            kept[stream] = slots[offsets[stream]..offsets[stream + 1]].ToArray();
            for (var i = 0; i < kept[stream].Length; i++)
            {
                if (kept[stream][i] <= (i == 0 ? -1 : kept[stream][i - 1]) || kept[stream][i] >= held.Length(stream))
                {
                    throw new ArgumentException(
                        $"slots[{offsets[stream] + i}] is {kept[stream][i]}; those of a head ascend, below {held.Length(stream)} here",
                        nameof(slots));
                }
            }
        }

        return kept;
    }

    /// <summary>uint8 [B, Hkv, n, bytes of a row].</summary>
    private static Tensor Quantised(Tensor elements, KvFormat format)
    {
        long[] shape = [.. elements.shape[..^1], format.ByteCount(elements.shape[^1])];
        var bytes = torch.empty(shape, torch.uint8);
        if (elements.numel() > 0)
            KvQuantise.Run(elements.detach().contiguous().ToTensorView(), format, bytes.ToTensorView());
        return bytes;
    }

    /// <summary>Copies rows into a head, from a row on of quantised ones.</summary>
    private unsafe void Write(int layer, int stream, int slot, Tensor? keys, Tensor values, long row, int count)
    {
        var (keyBytes, valueBytes) = (KeyRowBytes(layer), ValueRowBytes(layer));
        var k = keys is null || count == 0 ? null : (byte*)keys.ToTensorView().Address;
        var v = count == 0 ? null : (byte*)values.ToTensorView().Address;
        for (var done = 0; done < count;)
        {
            var run = Locate(layer, stream, slot + done);
            var some = Math.Min(run.Count, count - done);
            if (k != null)
                Copy(k + (row + done) * keyBytes, run.Keys, some * keyBytes);
            Copy(v + (row + done) * valueBytes, run.Values, some * valueBytes);
            done += some;
        }
    }

    private unsafe void Move(int layer, int stream, int from, int to)
    {
        if (from == to)
            return;
        var (source, target) = (Locate(layer, stream, from), Locate(layer, stream, to));
        Copy(source.Keys, target.Keys, KeyRowBytes(layer));
        Copy(source.Values, target.Values, ValueRowBytes(layer));
    }

    private static unsafe void Copy(byte* from, byte* to, long bytes) => Buffer.MemoryCopy(from, to, bytes, bytes);

    private void RequirePositions(int layer, ReadOnlySpan<int> positions, int[] rows, int n)
    {
        if (positions.Length != rows.Length * n)
            throw new ArgumentException($"positions: {positions.Length} numbers for {rows.Length} × {n} tokens", nameof(positions));
        for (var b = 0; b < rows.Length; b++)
        {
            if ((uint)rows[b] > (uint)n)
                throw new ArgumentOutOfRangeException(nameof(rows), rows[b], $"lengths[{b}] is not within 0 and {n}.");
            var least = _slots[layer].Next(b);
            for (var i = b * n; i < b * n + rows[b]; i++)
            {
                if (positions[i] < least)
                {
                    throw new ArgumentException(
                        $"positions[{i}] is {positions[i]}; in layer {layer}, sequence {b}, what comes next is at {least} or later",
                        nameof(positions));
                }

                least = positions[i] + 1;
            }
        }
    }
}
