using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Ema;

namespace AuxCore.Tests.KvApproximation;

/// <summary>Attention over caches that are paged, ragged, have scales or a residual, and its sums of positions.</summary>
public class KvDecodeAttentionCacheTests
{
    private static readonly KvFormat[] RowFormats = [KvFormat.F32, KvFormat.F16, KvFormat.BF16, KvFormat.Q8_0, KvFormat.Q4_0];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Pages_give_the_bits_of_a_contiguous_cache(Runner runner)
    {
        foreach (var format in RowFormats)
        {
            foreach (var (heads, kvHeads, page, ofHeads) in ((int, int, int, bool)[])
                [(8, 2, 16, false), (8, 2, 16, true), (2, 2, 7, false), (5, 1, 1, true), (6, 2, 1000, true)])
            {
                using var pinned = new PinnedArrays();
                var shape = new KvAttentionShape(2, heads, kvHeads, 64, 600);
                var batch = new AttentionBatch(shape, [600, 517], format, format);
                var (expected, output) = (new float[batch.Query.Length], new float[batch.Query.Length]);
                runner.Run(backend => batch.Run(expected, backend));

                var cache = Paged(pinned, batch, shape, format, page, ofHeads);
                runner.Run(backend => KvDecodeAttention.Run(
                    pinned.View(batch.Query, 2, heads, 64), cache, pinned.View(batch.Lengths, 2), pinned.View(output, 2, heads, 64),
                    backend: backend));

                Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(output));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Ragged_heads_are_each_as_long_as_they_say(Runner runner)
    {
        // Each head against a call of its own.
        using var pinned = new PinnedArrays();
        var shape = new KvAttentionShape(2, 6, 3, 32, 700);
        var batch = new AttentionBatch(shape, [700, 700], KvFormat.F32, KvFormat.F32);
        int[] lengths = [700, 0, 513, 1, 65, 512];
        var output = new float[batch.Query.Length];
        var contiguous = Contiguous(pinned, batch, shape, KvFormat.F32);
        foreach (var cache in (KvCacheViews[])[contiguous, Paged(pinned, batch, shape, KvFormat.F32, 16, ofHeads: true)])
        {
            runner.Run(backend => KvDecodeAttention.Run(
                pinned.View(batch.Query, 2, 6, 32), cache, pinned.View(lengths, 2, 3), pinned.View(output, 2, 6, 32), backend: backend));
            for (var segment = 0; segment < 6; segment++)
            {
                var (bytes, expected) = (700 * 32 * sizeof(float), new float[2 * 32]);
                runner.Run(backend => KvDecodeAttention.Run(
                    batch.Query.AsSpan(segment * 64, 64), batch.Keys.AsSpan(segment * bytes, bytes), KvFormat.F32,
                    batch.Values.AsSpan(segment * bytes, bytes), KvFormat.F32, [lengths[segment]], new(1, 2, 1, 32, 700), expected,
                    backend: backend));
                Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(output[(segment * 64)..((segment + 1) * 64)]));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Position_sums_add_each_heads_probabilities(Runner runner)
    {
        using var pinned = new PinnedArrays();
        var shape = new KvAttentionShape(1, 18, 2, 32, 1100); // groups of 9: three blocks of heads
        var batch = new AttentionBatch(shape, [1100], KvFormat.F32, KvFormat.F32);
        int[] lengths = [1100, 70];
        var (output, sums) = (new float[18 * 32], new float[2 * 1200]);
        sums.AsSpan().Fill(10);
        var cache = Contiguous(pinned, batch, shape, KvFormat.F32);
        runner.Run(backend => KvDecodeAttention.Run(
            pinned.View(batch.Query, 1, 18, 32), cache, pinned.View(lengths, 1, 2), pinned.View(output, 1, 18, 32),
            pinned.View(sums, 1, 2, 1200), backend: backend));

        var keys = MemoryMarshal.Cast<byte, float>(batch.Keys).ToArray();
        for (var kvHead = 0; kvHead < 2; kvHead++)
        {
            var expected = new double[1200];
            for (var head = kvHead * 9; head < (kvHead + 1) * 9; head++)
            {
                double[] weights = [.. Enumerable.Range(0, lengths[kvHead]).Select(t => Math.Exp(Enumerable.Range(0, 32).Sum(i =>
                    (double)batch.Query[head * 32 + i] * keys[(kvHead * 1100 + t) * 32 + i]) / Math.Sqrt(32)))];
                for (var t = 0; t < weights.Length; t++)
                    expected[t] += weights[t] / weights.Sum();
            }

            for (var t = 0; t < 1200; t++)
                Assert.Equal(10 + expected[t], sums[kvHead * 1200 + t], t < lengths[kvHead] ? 5e-6 : 0);
        }

        var again = new float[18 * 32];
        runner.Run(backend => KvDecodeAttention.Run(
            pinned.View(batch.Query, 1, 18, 32), cache, pinned.View(lengths, 1, 2), pinned.View(again, 1, 18, 32), backend: backend));
        Assert.Equal(EmaUpdateTests.Bits(again), EmaUpdateTests.Bits(output));
    }

    [Fact]
    public void Position_sums_repeat_on_any_number_of_threads()
    {
        using var pinned = new PinnedArrays();
        var shape = new KvAttentionShape(2, 12, 3, 64, 3000);
        var batch = new AttentionBatch(shape, [3000, 1234], KvFormat.Q8_0, KvFormat.BF16);
        var cache = Contiguous(pinned, batch, shape, KvFormat.Q8_0, KvFormat.BF16);
        var expected = Sums(1);
        foreach (var threads in (int[])[1, 2, 3, 7])
            Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(Sums(threads)));

        float[] Sums(int threads)
        {
            var (sums, output) = (new float[2 * 3 * 3000], new float[batch.Query.Length]);
            new Runner(AuxBackend.Cpu, 8, threads).Run(backend => KvDecodeAttention.Run(
                pinned.View(batch.Query, 2, 12, 64), cache, pinned.View(batch.Lengths, 2), pinned.View(output, 2, 12, 64),
                pinned.View(sums, 2, 3, 3000), backend: backend));
            return sums;
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void FP8_is_read_by_the_scale_of_its_head(Runner runner)
    {
        using var pinned = new PinnedArrays();
        var shape = new KvAttentionShape(1, 4, 2, 40, 77);
        var batch = new AttentionBatch(shape, [77], KvFormat.Fp8E4M3, KvFormat.Fp8E4M3); // of scale 1
        float[] keyScales = [0.5f, 3], valueScales = [0.25f];
        var (expected, output) = (new float[4 * 40], new float[4 * 40]);
        var cache = Contiguous(pinned, batch, shape, KvFormat.Fp8E4M3) with
        {
            KeyScales = pinned.View(keyScales, 2),
            ValueScales = pinned.View(valueScales, 1),
        };
        runner.Run(backend => KvDecodeAttention.Run(
            pinned.View(batch.Query, 1, 4, 40), cache, pinned.View(batch.Lengths, 1), pinned.View(output, 1, 4, 40), backend: backend));

        float[] keys = new float[2 * 77 * 40], values = new float[2 * 77 * 40];
        for (var head = 0; head < 2; head++)
        {
            var rows = (head * 77 * 40)..((head + 1) * 77 * 40);
            KvQuantise.Dequantise(batch.Keys.AsSpan(rows), KvFormat.Fp8E4M3, keys.AsSpan(rows), keyScales[head]);
            KvQuantise.Dequantise(batch.Values.AsSpan(rows), KvFormat.Fp8E4M3, values.AsSpan(rows), valueScales[0]);
        }

        runner.Run(backend => KvDecodeAttention.Run(
            batch.Query, MemoryMarshal.AsBytes(keys.AsSpan()), KvFormat.F32, MemoryMarshal.AsBytes(values.AsSpan()), KvFormat.F32, [77],
            shape, expected, backend: backend));
        Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(output));
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void KIVI_attends_to_blocks_and_to_its_residual(Runner runner)
    {
        foreach (var (length, queryHeads, kvHeads) in ((int, int, int)[])
            [(1, 1, 1), (5, 2, 2), (36, 4, 1), (37, 4, 1), (69, 1, 1), (600, 10, 2), (1061, 3, 1)])
        {
            using var pinned = new PinnedArrays();
            using var tokens = new AppendedTokens(1, length, queryHeads, kvHeads, 64, 1088, KvFormat.Kivi4);
            tokens.Append(null, withNorm: false, AuxBackend.Cpu);
            var (output, expected) = (new float[queryHeads * 64], new float[queryHeads * 64]);
            var query = pinned.View(tokens.Query, DType.Float32, 0, [1, queryHeads, 64]);
            runner.Run(backend => KvDecodeAttention.Run(
                query, tokens.Cache, pinned.View([length], 1), pinned.View(output, 1, queryHeads, 64), backend: backend));

            // What the bytes stand for, by the test's own account of blocks and rings, in a cache of float32.
            var (keys, values) = (new float[kvHeads * length * 64], new float[kvHeads * length * 64]);
            var (storedKeys, storedValues) = (Math.Max(0, length - 5) / 32 * 32, Math.Max(0, length - 5));
            var group = new float[32];
            for (var head = 0; head < kvHeads; head++)
            {
                for (var t = 0; t < length; t++)
                {
                    for (var i = 0; i < 64; i++)
                    {
                        var at = (head * length + t) * 64 + i;
                        var ring = (head * 37 + t % 37) * 64 + i;
                        if (t >= storedKeys)
                            keys[at] = tokens.KeyRing[ring];
                        else
                            keys[at] = Element(tokens.KeyBytes, (head * 1088 + t / 32 * 32) * 40 + i * 20, t % 32);
                        values[at] = t >= storedValues
                            ? tokens.ValueRing[ring]
                            : Element(tokens.ValueBytes, (head * 1088 + t) * 40 + i / 32 * 20, i % 32);
                    }
                }
            }

            // The latest is exact.
            Assert.Equal(tokens.Values.AsSpan((length - 1) * kvHeads * 64, 64), values.AsSpan((length - 1) * 64, 64));
            KvDecodeAttention.Run(
                tokens.Query.AsSpan(0, queryHeads * 64), MemoryMarshal.AsBytes(keys.AsSpan()), KvFormat.F32,
                MemoryMarshal.AsBytes(values.AsSpan()), KvFormat.F32, [length], new(1, queryHeads, kvHeads, 64, length), expected,
                backend: AuxBackend.Reference);
            var greatest = expected.Max(Math.Abs);
            for (var i = 0; i < expected.Length; i++)
                Assert.Equal(expected[i], output[i], Tolerances.KvDecodeAttentionRelative * greatest);

            float Element(byte[] bytes, int at, int i)
            {
                KvQuantise.Dequantise(bytes.AsSpan(at, 20), KvFormat.Kivi4, group, backend: AuxBackend.Reference);
                return group[i];
            }
        }
    }

    [Fact]
    public void KIVI_pages_give_the_bits_of_a_contiguous_cache()
    {
        using var pinned = new PinnedArrays();
        using var tokens = new AppendedTokens(1, 600, 4, 2, 64, 640, KvFormat.Kivi4);
        tokens.Append(null, withNorm: false, AuxBackend.Cpu);
        var (expected, output) = (new float[4 * 64], new float[4 * 64]);
        var query = pinned.View(tokens.Query, DType.Float32, 0, [1, 4, 64]);
        KvDecodeAttention.Run(query, tokens.Cache, pinned.View([600], 1), pinned.View(expected, 1, 4, 64));

        var (keys, values) = (new byte[2 * 640 * 40], new byte[2 * 640 * 40]);
        var pages = tokens.Cache with
        {
            Keys = pinned.View(keys, 10, 2, 64, 40),
            Values = pinned.View(values, 10, 2, 64, 40),
            PageOffsets = pinned.View([0, 10], 2),
            Pages = pinned.View([9, 1, 2, 3, 4, 5, 6, 7, 8, 0], 10),
            KeyResidual = pinned.View(new float[2 * 37 * 64], 1, 2, 37, 64),
            ValueResidual = pinned.View(new float[2 * 37 * 64], 1, 2, 37, 64),
        };
        KvAppend.Run(tokens.Views(0, 600, withNorm: false), pages);
        KvDecodeAttention.Run(query, pages, pinned.View([600], 1), pinned.View(output, 1, 4, 64));

        Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(output));
    }

    private static KvCacheViews Contiguous(
        PinnedArrays pinned, AttentionBatch batch, KvAttentionShape shape, KvFormat keys, KvFormat? values = null) => new()
        {
            Keys = pinned.View(batch.Keys, shape.Batch, shape.KvHeads, shape.Capacity, keys.ByteCount(shape.HeadDim)),
            Values = pinned.View(batch.Values, shape.Batch, shape.KvHeads, shape.Capacity, (values ?? keys).ByteCount(shape.HeadDim)),
            KeyFormat = keys,
            ValueFormat = values ?? keys,
        };

    /// <summary>The rows of a contiguous cache in pages, in an order of their own, with pages of NaN between them.</summary>
    private static KvCacheViews Paged(
        PinnedArrays pinned, AttentionBatch batch, KvAttentionShape shape, KvFormat format, int page, bool ofHeads)
    {
        var row = (int)format.ByteCount(shape.HeadDim);
        var (heads, tables) = (ofHeads ? 1 : shape.KvHeads, shape.Batch * (ofHeads ? shape.KvHeads : 1));
        var each = (shape.Capacity + page - 1) / page;
        var count = tables * each + 3;
        int[] order = [.. Enumerable.Range(0, count)];
        new Random(7).Shuffle(order);
        var (keys, values) = (new byte[count * heads * page * row], new byte[count * heads * page * row]);
        keys.AsSpan().Fill(0xFF);
        values.AsSpan().Fill(0xFF);
        for (var segment = 0; segment < shape.Batch * shape.KvHeads; segment++)
        {
            var (table, head) = ofHeads ? (segment, 0) : (segment / shape.KvHeads, segment % shape.KvHeads);
            for (var t = 0; t < shape.Capacity; t++)
            {
                var from = (segment * shape.Capacity + t) * row;
                var to = ((order[table * each + t / page] * heads + head) * page + t % page) * row;
                batch.Keys.AsSpan(from, row).CopyTo(keys.AsSpan(to));
                batch.Values.AsSpan(from, row).CopyTo(values.AsSpan(to));
            }
        }

        int[] offsets = [.. Enumerable.Range(0, tables + 1).Select(table => table * each)];
        return new()
        {
            Keys = pinned.View(keys, count, heads, page, row),
            Values = pinned.View(values, count, heads, page, row),
            KeyFormat = format,
            ValueFormat = format,
            PageOffsets = pinned.View(offsets, offsets.Length),
            Pages = pinned.View(order[..(tables * each)], tables * each),
        };
    }
}
