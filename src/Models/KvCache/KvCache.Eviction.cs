using AuxCore.Interop;
using AuxCore.Kernels;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

public abstract partial class KvCache
{
    /// <summary>Evicts from a layer all but some tokens of each head. Heads may keep different numbers; memory follows.</summary>
    /// <param name="layer">Which layer.</param>
    /// <param name="offsets">[B · Hkv + 1]: the kept slots of head h of sequence b lie at offsets[b · Hkv + h] up to the next.</param>
    /// <param name="slots">Within each head, ascending, below its length.</param>
    /// <exception cref="ArgumentException">Offsets or slots do not ascend, or there is no such slot; the cache is unchanged.</exception>
    /// <exception cref="NotSupportedException">Keys or values are in <see cref="KvFormat.Kivi4"/>.</exception>
    /// <exception cref="KvCapacityException">A page that others share must be copied, and none is free; the cache is unchanged.</exception>
    public void Keep(int layer, ReadOnlySpan<int> offsets, ReadOnlySpan<int> slots)
    {
        Slots(layer, 0);
        RequireEvictable();
        RequireSlots(_slots[layer], offsets, slots);
        var lengths = _slots[layer].Lengths();
        var (n, counts) = (lengths.Max(), new int[lengths.Length]);
        var scores = new float[lengths.Length * n];
        for (var stream = 0; stream < lengths.Length; stream++)
        {
            counts[stream] = offsets[stream + 1] - offsets[stream];
            foreach (var slot in slots.Slice(offsets[stream], counts[stream]))
                scores[stream * n + slot] = 1;
        }

        Evict(layer, scores, counts);
    }

    /// <summary>Evicts from a layer all but the tokens of greatest score, by <see cref="KvEvict"/>: its ranking, its moves.</summary>
    /// <param name="layer">Which layer.</param>
    /// <param name="scores">[B · Hkv, n], where n is the longest head; what is behind shorter ones is not read.</param>
    /// <param name="counts">[B · Hkv]: how many tokens each head keeps, all where it holds fewer.</param>
    /// <param name="headFloor">Where the heads of a sequence share the sum of their counts: <see cref="KvEvictOptions.HeadFloor"/>.</param>
    /// <returns>The slots that each head kept, ascending.</returns>
    /// <exception cref="KvCapacityException">A page that others share must be copied, and none is free; the cache is unchanged.</exception>
    internal unsafe int[][] Evict(int layer, float[] scores, int[] counts, double? headFloor = null)
    {
        var (held, heads) = (_slots[layer], Layout.Layers[layer].KvHeads);
        var lengths = held.Lengths();
        var n = lengths.Max();
        if (n == 0)
            return [.. lengths.Select(_ => Array.Empty<int>())];
        Own(layer, [.. Enumerable.Range(0, held.Streams).Where(MayLose)]);
        int[] slots = [.. Enumerable.Range(0, held.Streams * n).Select(i => i % n)];
        fixed (float* score = scores)
        fixed (int* length = lengths, slot = slots, count = counts)
        {
            KvEvict.Run(
                TensorView.FromPointer(score, DType.Float32, [Layout.Batch, heads, n]), OfHeads(length), Complete(layer),
                new() { HeadFloor = headFloor }, TensorView.FromPointer(slot, DType.Int32, [Layout.Batch, heads, n]), OfHeads(count));
        }

        int[][] kept = [.. lengths.Select((length, stream) => slots.AsSpan(stream * n, length).ToArray())];
        for (var stream = 0; stream < kept.Length; stream++)
        {
            Shrink(layer, stream, kept[stream].Length);
            Observations?.Keep(layer, stream, kept[stream]);
        }

        for (var b = 0; b < Layout.Batch; b++)
            held.Keep(b, kept.AsSpan(b * heads, heads).ToArray());
        return kept;

        TensorView OfHeads(int* numbers) => TensorView.FromPointer(numbers, DType.Int32, [Layout.Batch, heads]);

        // Where heads share, it is known only afterwards which of them give something up.
        bool MayLose(int stream)
        {
            var first = stream / heads * heads;
            return headFloor is null
                ? counts[stream] < held.Length(stream)
                : Enumerable.Range(first, heads).Sum(i => (long)counts[i]) < Enumerable.Range(first, heads).Sum(i => (long)held.Length(i));
        }
    }

    /// <summary>Refuses KIVI: what its tokens share scales with would have to be restored and rounded again.</summary>
    internal void RequireEvictable()
    {
        if (_residuals is not null)
        {
            throw new NotSupportedException(
                $"{Layout.Keys} keys and {Layout.Values} values: nothing can be evicted from a cache in {KvFormat.Kivi4}, whose tokens "
                + "share scales and leave its window in their order; "
                + $"store in {KvFormat.Q4_0} or {KvFormat.Q8_0} what is to be compressed");
        }
    }

    /// <summary>Makes sure that all rows of a layer can be overwritten, or throws and changes nothing.</summary>
    /// <exception cref="KvCapacityException">A page that others share must be copied, and none is free.</exception>
    internal void Own(int layer) => Own(layer, [.. Enumerable.Range(0, _slots[layer].Streams)]);

    /// <summary>Overwrites the values of a layer, of all its heads: float32 [B, Hkv, n, d], where n is the longest head.</summary>
    internal unsafe void SetValues(int layer, Tensor values)
    {
        using var scope = TorchSharp.torch.NewDisposeScope();
        var (n, depth) = (values.shape[2], Layout.Layers[layer].HeadDim);
        var contiguous = values.contiguous();
        Own(layer);
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

    private static void RequireSlots(KvSlots held, ReadOnlySpan<int> offsets, ReadOnlySpan<int> slots)
    {
        if (offsets.Length != held.Streams + 1 || offsets[0] != 0 || offsets[^1] != slots.Length)
        {
            throw new ArgumentException(
                $"offsets: they are not {held.Streams + 1} numbers from 0 to {slots.Length}", nameof(offsets));
        }

        for (var stream = 0; stream < held.Streams; stream++)
        {
            if (offsets[stream + 1] < offsets[stream])
                throw new ArgumentException($"offsets[{stream + 1}] is below the one before it", nameof(offsets));
            for (var i = offsets[stream]; i < offsets[stream + 1]; i++)
            {
                if (slots[i] <= (i == offsets[stream] ? -1 : slots[i - 1]) || slots[i] >= held.Length(stream))
                {
                    throw new ArgumentException(
                        $"slots[{i}] is {slots[i]}; those of a head ascend, below {held.Length(stream)} here", nameof(slots));
                }
            }
        }
    }
}
