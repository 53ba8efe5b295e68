using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.KvApproximation;

/// <summary>Queries and a cache, and attention over it as the tests state it.</summary>
internal sealed class AttentionBatch
{
    private readonly KvAttentionShape _shape;
    private readonly KvFormat _keyFormat, _valueFormat;

    public AttentionBatch(KvAttentionShape shape, int[] lengths, KvFormat keys, KvFormat values, int seed = 1)
    {
        (_shape, Lengths, _keyFormat, _valueFormat) = (shape, lengths, keys, values);
        var random = new Random(seed);
        Query = Normal(shape.Batch * shape.QueryHeads * shape.HeadDim);
        var cache = shape.Batch * shape.KvHeads * shape.Capacity * shape.HeadDim;
        (Keys, Values) = (Stored(Normal(cache), keys), Stored(Normal(cache), values));

        float[] Normal(int count)
        {
            var elements = new float[count];
            foreach (ref var element in elements.AsSpan())
                element = (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(random.NextDouble() * Math.Tau));
            return elements;
        }
    }

    public float[] Query { get; }

    public byte[] Keys { get; }

    public byte[] Values { get; }

    public int[] Lengths { get; }

    public void Run(Span<float> output, AuxBackend backend, double? scale = null) =>
        KvDecodeAttention.Run(Query, Keys, _keyFormat, Values, _valueFormat, Lengths, _shape, output, scale, backend);

    /// <summary>Asserts that an output is the formula's, but for a part of its greatest element.</summary>
    public void RequireClose(float[] output, double allowed)
    {
        var expected = Expect();
        var greatest = expected.Max(Math.Abs);
        for (var i = 0; i < expected.Length; i++)
        {
            if (!(Math.Abs(output[i] - expected[i]) <= allowed * greatest))
                Assert.Fail($"{_shape} {_keyFormat} {_valueFormat} {i}: {output[i]:R}, not {expected[i]:R}; the greatest is {greatest:R}");
        }
    }

    /// <summary>Puts the positions of a single sequence and head into another order.</summary>
    public void Shuffle(int seed)
    {
        var order = Enumerable.Range(0, _shape.Capacity).ToArray();
        new Random(seed).Shuffle(order);
        foreach (var bytes in (byte[][])[Keys, Values])
        {
            var (before, row) = ((byte[])bytes.Clone(), bytes.Length / _shape.Capacity);
            for (var t = 0; t < _shape.Capacity; t++)
                before.AsSpan(order[t] * row, row).CopyTo(bytes.AsSpan(t * row, row));
        }
    }

    private double[] Expect()
    {
        var (d, perHead) = (_shape.HeadDim, _shape.Capacity * _shape.HeadDim);
        var (keys, values, output) = (Restored(Keys, _keyFormat), Restored(Values, _valueFormat), new double[Query.Length]);
        for (var row = 0; row < _shape.Batch * _shape.QueryHeads; row++)
        {
            var (b, head) = Math.DivRem(row, _shape.QueryHeads);
            var start = (b * _shape.KvHeads + head / (_shape.QueryHeads / _shape.KvHeads)) * perHead;
            double[] scores = [.. Enumerable.Range(0, Lengths[b]).Select(
                t => Enumerable.Range(0, d).Sum(i => (double)Query[row * d + i] * keys[start + t * d + i]) / Math.Sqrt(d))];
            if (scores.Length == 0)
                continue;
            var greatest = scores.Max();
            var total = scores.Sum(score => Math.Exp(score - greatest));
            for (var t = 0; t < scores.Length; t++)
            {
                for (var i = 0; i < d; i++)
                    output[row * d + i] += Math.Exp(scores[t] - greatest) / total * values[start + t * d + i];
            }
        }

        return output;
    }

    private static byte[] Stored(float[] elements, KvFormat format)
    {
        var bytes = new byte[format.ByteCount(elements.Length)];
        KvQuantise.Run(elements, format, bytes);
        return bytes;
    }

    private float[] Restored(byte[] bytes, KvFormat format)
    {
        var elements = new float[_shape.Batch * _shape.KvHeads * _shape.Capacity * _shape.HeadDim];
        KvQuantise.Dequantise(bytes, format, elements);
        return elements;
    }
}
