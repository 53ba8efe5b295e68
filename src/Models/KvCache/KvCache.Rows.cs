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
        Stored(layer, positions, n, rows);

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

        Stored(layer, positions, 1, rows);
        return Attend(layer, queries);
    }

    /// <summary>
    /// Stores projected tokens of sequences of which the layer holds nothing, from position 0 on: biases, norm, rotation and storing in one
    /// op.
    /// </summary>
    /// <param name="layer">Which layer.</param>
    /// <param name="products">float32, contiguous, of n tokens of each sequence.</param>
    /// <param name="n">How many.</param>
    /// <param name="rows">[B]: of the n tokens of a sequence, only the first so many are stored.</param>
    /// <param name="norms">How keys are normed and rotated.</param>
    internal void AppendProducts(int layer, in KvProducts products, int n, int[] rows, in HeadNorms norms)
    {
        var heads = Slots(layer, 0);
        int[] positions = [.. Enumerable.Range(0, Layout.Batch * n).Select(i => i % n)];
        RequirePositions(layer, positions, rows, n);
        Reserve(layer, rows);
        long[] shape = [(long)Layout.Batch * n, heads, Layout.Layers[layer].HeadDim];
        using var scope = torch.NewDisposeScope();
        TensorView keys = products.Keys.view(shape).ToTensorView(), values = products.Values.view(shape).ToTensorView();
        var predicted = new KvPredictLayer
        {
            KeyBias = products.KeyBias.ToTensorView(),
            ValueBias = products.ValueBias.ToTensorView(),
            KeyNorm = norms.Key?.ToTensorView() ?? default,
            Cache = Complete(layer),
        };
        var (rotary, epsilon) = (norms.Rotary, norms.Epsilon);
        ForPlaces(layer, n, rows, (first, count, places) => KvPredictWrite.Run(
            [predicted with { Keys = Part(keys, first, count), Values = Part(values, first, count) }], places, rotary, epsilon));
        Stored(layer, positions, n, rows);
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
                queries.detach().contiguous().ToTensorView(), Complete(layer),
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
            var cache = KvCacheWork.Of(Complete(layer), nameof(layer), heads, depth, AuxDevice.Host);
            var k = (float*)keys.ToTensorView().Address;
            var v = (float*)values.ToTensorView().Address;
            for (var stream = 0; stream < lengths.Length; stream++)
            {
                var at = (long)stream * n * depth;
                KvRestore.Run(cache.Keys, stream / heads, stream % heads, lengths[stream], k + at);
                KvRestore.Run(cache.Values, stream / heads, stream % heads, lengths[stream], v + at);
            }
        }

        return new(keys.MoveToOuterDisposeScope(), values.MoveToOuterDisposeScope(), lengths);
    }

    /// <summary>Writes tokens behind those that are there: [B · n, H, d], of each sequence the first rows. Room is reserved.</summary>
    private void Store(int layer, KvAppendTensors tokens, int n, int[] rows, RotaryOptions? rotary = null, double epsilon = 0)
    {
        var views = Complete(layer);
        ForPlaces(layer, n, rows, (first, count, places) => KvAppend.Run(
            tokens with
            {
                Keys = Part(tokens.Keys, first, count),
                Values = Part(tokens.Values, first, count),
                Slots = places.Slots,
                Sequences = places.Sequences,
            },
            views, rotary, epsilon));
    }

    /// <summary>Remembers what was stored: the first rows of [B · n].</summary>
    private void Stored(int layer, ReadOnlySpan<int> positions, int n, int[] rows)
    {
        for (var b = 0; b < rows.Length; b++)
            _slots[layer].Append(b, positions.Slice(b * n, rows[b]));
        for (var stream = 0; stream < _slots[layer].Streams; stream++)
            _residuals?.SetLength(layer, stream, _slots[layer].Length(stream));
    }

    /// <summary>
    /// Calls with the first of some tokens of [B · n], how many they are, and where they go: all at once, or the first rows of each
    /// sequence. A token has one slot where the heads of each sequence hold equally many, else one a head.
    /// </summary>
    private unsafe void ForPlaces(int layer, int n, int[] rows, Action<int, int, KvTokenPlaces> store)
    {
        var (held, heads) = (_slots[layer], Layout.Layers[layer].KvHeads);
        var isEven = Enumerable.Range(0, held.Streams).All(stream => held.Length(stream) == held.Length(stream / heads * heads));
        var perToken = isEven ? 1 : heads;
        var slots = new int[Layout.Batch * n * perToken];
        for (var i = 0; i < slots.Length; i++)
        {
            var (token, head) = Math.DivRem(i, perToken);
            slots[i] = held.Length(token / n * heads + head) + token % n;
        }

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
                store(first, count, new()
                {
                    Slots = TensorView.FromPointer(
                        slot + (long)first * perToken, DType.Int32, perToken == 1 ? [count] : [count, perToken]),
                    Sequences = whole ? default : TensorView.FromPointer(sequence, DType.Int32, [count]),
                });
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

    /// <summary>The layer as ops see it.</summary>
    private unsafe KvCacheViews Complete(int layer)
    {
        var views = Views(layer);
        if (_residuals is not null)
            views = _residuals.With(views, layer);
        if (_scales.Length == 0)
            return views;
        var at = (float*)Marshal.UnsafeAddrOfPinnedArrayElement(_scales, 0);
        return views with { KeyScales = Of(Layout.Keys, at), ValueScales = Of(Layout.Values, at + 1) };

        TensorView Of(KvFormat format, float* scale) => format == KvFormat.Fp8E4M3
            ? TensorView.FromPointer(scale, DType.Float32, [1], owner: _scales)
            : default;
    }

    private static float ScaleOf(KvFormat format, float scale) => format == KvFormat.Fp8E4M3 ? scale : 1;

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
