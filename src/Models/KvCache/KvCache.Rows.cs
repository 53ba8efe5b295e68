using System.Runtime.InteropServices;
using AuxCore.Interop;
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
        Reserve(layer, rows);
        Store(layer, new() { Keys = ByToken(keys), Values = ByToken(values) }, n, rows);
        for (var b = 0; b < batch; b++)
            _slots[layer].Append(b, positions.Slice(b * n, rows[b]));

        void RequireHeads(Tensor tensor, string name, Tensor? like)
        {
            Tokens.RequireLive(tensor, name);
            var shape = tensor.shape;
            var fits = tensor.dtype == torch.ScalarType.Float32 && shape.Length == 4 && shape[0] == batch && shape[1] == heads
                && shape[3] == depth && shape[2] <= int.MaxValue && (like is null || shape[2] == like.shape[2]);
            if (!fits)
            {
                throw new ArgumentException(
                    $"{name}: {Batches.Describe(tensor)} is not Float32[{batch}, {heads}, {like?.shape[2].ToString() ?? "n"}, {depth}], "
                    + $"what layer {layer} of the cache takes", name);
            }

            if (tensor.device_type != DeviceType.CPU)
                throw new ArgumentException($"{name}: it is on {tensor.device}, and the cache is in host memory", name);
        }
    }

    /// <summary>
    /// A step of decoding: norms and rotates queries and keys, stores keys and values, and attends. The queries are overwritten.
    /// </summary>
    /// <param name="layer">Which layer.</param>
    /// <param name="queries">float32 [B, Hq, d], contiguous, before norm and rotation.</param>
    /// <param name="keys">float32 [B, Hkv, d], contiguous, before norm and rotation.</param>
    /// <param name="values">float32 [B, Hkv, d], contiguous.</param>
    /// <param name="positions">[B].</param>
    /// <param name="norms">How they are normed and rotated.</param>
    internal unsafe Tensor Step(int layer, Tensor queries, Tensor keys, Tensor values, int[] positions, in HeadNorms norms)
    {
        RequireLive();
        int[] rows = [.. Enumerable.Repeat(1, Layout.Batch)];
        RequirePositions(layer, positions, rows, 1);
        Reserve(layer, rows);
        fixed (int* at = positions)
        {
            var tokens = new KvAppendTensors
            {
                Query = queries.ToTensorView(),
                RotatedQuery = queries.ToTensorView(),
                Keys = keys.ToTensorView(),
                Values = values.ToTensorView(),
                Positions = TensorView.FromPointer(at, DType.Int32, [positions.Length]),
                QueryNorm = norms.Query?.ToTensorView() ?? default,
                KeyNorm = norms.Key?.ToTensorView() ?? default,
            };
            Store(layer, tokens, 1, rows, norms.Rotary, norms.Epsilon);
        }

        for (var b = 0; b < positions.Length; b++)
            _slots[layer].Append(b, positions.AsSpan(b, 1));
        return Attend(layer, queries);
    }

    /// <summary>Attention of one token of each sequence over what a layer holds of it, itself included where it was appended.</summary>
    /// <param name="layer">Which layer.</param>
    /// <param name="queries">float32 [B, Hq, d]; Hq is a multiple of the layer's heads.</param>
    /// <param name="scale">What products are multiplied by; 1 / √d without.</param>
    /// <returns>float32 [B, Hq, d]; zeros where a head holds nothing.</returns>
    /// <exception cref="ArgumentException">A shape, dtype or device does not fit, or heads do not divide.</exception>
    public unsafe Tensor Attend(int layer, Tensor queries, double? scale = null)
    {
        var heads = Slots(layer, 0);
        Tokens.RequireLive(queries, nameof(queries));
        var (shape, depth) = (queries.shape, Layout.Layers[layer].HeadDim);
        var fits = queries.dtype == torch.ScalarType.Float32 && shape.Length == 3 && shape[0] == Layout.Batch && shape[1] > 0
            && shape[2] == depth;
        if (!fits)
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
        var sums = Observations?.Sums(layer);
        fixed (int* lengths = _slots[layer].Lengths())
        fixed (float* received = sums)
        {
            KvDecodeAttention.Run(
                queries.detach().contiguous().ToTensorView(), WithScales(Views(layer)),
                TensorView.FromPointer(lengths, DType.Int32, [Layout.Batch, heads]), output.ToTensorView(),
                sums is null ? default : TensorView.FromPointer(received, DType.Float32, [Layout.Batch, heads, Layout.Capacity]), scale);
        }

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
                        new(run.Keys, checked((int)(count * KeyRowBytes(layer)))), Layout.Keys, new(k + at, count * depth),
                        ScaleOf(Layout.Keys, Layout.KeyScale));
                    KvQuantise.Dequantise(
                        new(run.Values, checked((int)(count * ValueRowBytes(layer)))), Layout.Values,
                        new(v + at, count * depth), ScaleOf(Layout.Values, Layout.ValueScale));
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
            Observations?.Keep(layer, stream, kept[stream]);
        }

        for (var b = 0; b < Layout.Batch; b++)
            held.Keep(b, kept.AsSpan(b * heads, heads).ToArray());
    }

    /// <summary>Overwrites the values of a layer, of all its heads: float32 [B, Hkv, n, d], where n is the longest head.</summary>
    internal unsafe void SetValues(int layer, Tensor values)
    {
        using var scope = torch.NewDisposeScope();
        var (n, depth) = (values.shape[2], Layout.Layers[layer].HeadDim);
        var contiguous = values.contiguous();
        Own(layer, [.. Enumerable.Range(0, _slots[layer].Streams)]);
        for (var stream = 0; stream < _slots[layer].Streams; stream++)
        {
            for (var slot = 0; slot < _slots[layer].Length(stream);)
            {
                var run = Locate(layer, stream, slot);
                var count = Math.Min(run.Count, _slots[layer].Length(stream) - slot);
                var from = (float*)TorchNative.THSTensor_data(contiguous.Handle) + (stream * n + slot) * depth;
                KvQuantise.Run(
                    new(from, count * depth), Layout.Values, new(run.Values, checked((int)(count * ValueRowBytes(layer)))),
                    ScaleOf(Layout.Values, Layout.ValueScale));
                slot += count;
            }
        }
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

    /// <summary>Writes tokens behind those that are there: [B · n, H, d], of each sequence the first rows. Room is reserved.</summary>
    private unsafe void Store(int layer, KvAppendTensors tokens, int n, int[] rows, RotaryOptions? rotary = null, double epsilon = 0)
    {
        var (held, heads) = (_slots[layer], Layout.Layers[layer].KvHeads);
        var perToken = held.IsUniform ? 1 : heads;
        var slots = new int[Layout.Batch * n * perToken];
        for (var i = 0; i < slots.Length; i++)
        {
            var (token, head) = Math.DivRem(i, perToken);
            slots[i] = held.Length(token / n * heads + head) + token % n;
        }

        var views = WithScales(Views(layer));
        var whole = Array.TrueForAll(rows, count => count == n);
        var sequences = new int[n];
        for (var b = 0; b < (whole ? 1 : Layout.Batch); b++)
        {
            var (first, count) = whole ? (0, Layout.Batch * n) : (b * n, rows[b]);
            if (count == 0)
                continue;
            Array.Fill(sequences, b);
            fixed (int* slot = slots, sequence = sequences)
            {
                KvAppend.Run(
                    tokens with
                    {
                        Keys = Part(tokens.Keys, first, count),
                        Values = Part(tokens.Values, first, count),
                        Slots = TensorView.FromPointer(
                            slot + (long)first * perToken, DType.Int32, perToken == 1 ? [count] : [count, perToken]),
                        Sequences = whole ? default : TensorView.FromPointer(sequence, DType.Int32, [count]),
                    },
                    views, rotary, epsilon);
            }
        }
    }

    /// <summary>[B · n, H, d] of [B, H, n, d].</summary>
    private static TensorView ByToken(Tensor heads)
    {
        var shape = heads.shape;
        return heads.detach().transpose(1, 2).contiguous().view(shape[0] * shape[2], shape[1], shape[3]).ToTensorView();
    }

    private static unsafe TensorView Part(in TensorView tokens, int first, int count)
    {
        var shape = tokens.Shape;
        var strides = tokens.Strides();
        var address = tokens.Address + (nint)(first * strides[0] * tokens.DType.Size());
        return TensorView.FromPointer(
            (void*)address, tokens.DType, [count, shape[1], shape[2]], strides, tokens.Device, tokens.Owner);
    }

    private unsafe KvCacheViews WithScales(in KvCacheViews views)
    {
        if (_scales.Length == 0)
            return views;
        var at = (float*)Marshal.UnsafeAddrOfPinnedArrayElement(_scales, 0);
        return views with { KeyScales = Of(Layout.Keys, at), ValueScales = Of(Layout.Values, at + 1) };

        TensorView Of(KvFormat format, float* scale) => format == KvFormat.Fp8E4M3
            ? TensorView.FromPointer(scale, DType.Float32, [1], owner: _scales)
            : default;
    }

    private static float ScaleOf(KvFormat format, float scale) => format == KvFormat.Fp8E4M3 ? scale : 1;

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

/// <summary>What becomes of queries and keys before they are used.</summary>
/// <param name="Query">[d]: the weights of the query norm; null where there is none.</param>
/// <param name="Key">[d]: the weights of the key norm; null where there is none.</param>
/// <param name="Epsilon">ε of both.</param>
/// <param name="Rotary">How they are rotated.</param>
internal readonly record struct HeadNorms(Tensor? Query, Tensor? Key, double Epsilon, RotaryOptions Rotary);
