using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>Values of evicted tokens go into those of the tokens that stay: see <see cref="KvCompressionOptions.MergeValues"/>.</summary>
internal static class ValueMerge
{
    /// <summary>The values of the kept tokens, [B, Hkv, the longest head, d], with those of the others merged into them.</summary>
    /// <param name="tensors">Keys and values of a layer.</param>
    /// <param name="kept">The kept slots of each head, ascending.</param>
    public static Tensor Merged(KvTensors tensors, IReadOnlyList<int[]> kept)
    {
        using var scope = torch.NewDisposeScope();
        var (heads, n, depth) = (tensors.Keys.shape[1], (int)tensors.Keys.shape[2], (int)tensors.Keys.shape[3]);
        var values = tensors.Values.contiguous().data<float>().ToArray();
        var longest = kept.Max(slots => slots.Length);
        var result = new float[kept.Count * longest * depth];
        for (var stream = 0; stream < kept.Count; stream++)
        {
            var length = tensors.Lengths[stream];
            var own = values.AsSpan(stream * n * depth, length * depth);
            if (kept[stream].Length > 0 && kept[stream].Length < length)
            {
                using var inner = torch.NewDisposeScope();
                var keys = tensors.Keys[stream / heads, stream % heads].narrow(0, 0, length).contiguous().data<float>().ToArray();
                Merge(keys, own, kept[stream], depth);
            }

            for (var i = 0; i < kept[stream].Length; i++)
                own.Slice(kept[stream][i] * depth, depth).CopyTo(result.AsSpan((stream * longest + i) * depth));
        }

        return torch.tensor(result).view(tensors.Values.shape[0], heads, longest, depth).MoveToOuterDisposeScope();
    }

    private static void Merge(float[] keys, Span<float> values, int[] kept, int depth)
    {
        var length = keys.Length / depth;
        var slots = new int[length];
        Array.Fill(slots, -1);
        for (var i = 0; i < kept.Length; i++)
            slots[kept[i]] = i;
        var isKept = slots.Select(slot => slot >= 0).ToArray();
        TokenMerge.Assign(keys, depth, [0, length], slots);

        var norms = new double[length];
        for (var i = 0; i < length; i++)
            norms[i] = Scores.Norm(values.Slice(i * depth, depth));
        var (sums, weights) = (new double[kept.Length * depth], new double[kept.Length]);
        for (var i = 0; i < length; i++)
        {
            var to = kept[slots[i]];
            var cosine = isKept[i] ? 0 : Cosine(keys.AsSpan(i * depth, depth), keys.AsSpan(to * depth, depth));
            if (!(cosine > 0) || norms[i] == 0)
                continue;
            var weight = cosine * norms[i] / (norms[i] + norms[to]);
            weights[slots[i]] += weight;
            for (var c = 0; c < depth; c++)
                sums[slots[i] * depth + c] += weight * values[i * depth + c];
        }

        for (var i = 0; i < kept.Length; i++)
        {
            for (var c = 0; c < depth && weights[i] > 0; c++)
            {
                ref var value = ref values[kept[i] * depth + c];
                value = (float)((value + sums[i * depth + c]) / (1 + weights[i]));
            }
        }
    }

    private static double Cosine(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        var dot = 0.0;
        for (var c = 0; c < a.Length; c++)
            dot += (double)a[c] * b[c];
        var lengths = Scores.Norm(a) * Scores.Norm(b);
        return lengths == 0 ? 0 : dot / lengths;
    }
}
