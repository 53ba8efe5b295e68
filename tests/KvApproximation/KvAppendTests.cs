using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Ema;

namespace AuxCore.Tests.KvApproximation;

public class KvAppendTests
{
    private static readonly KvFormat[] Formats = Enum.GetValues<KvFormat>();

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    public static TheoryData<Runner, KvFormat> Matrix => new MatrixTheoryData<Runner, KvFormat>(BackendMatrix.All, Formats);

    public static TheoryData<KvFormat> AllFormats => [.. Formats];

    private static IEnumerable<(RotaryOptions? Rotary, bool WithNorm)> Ways =>
    [
        (null, false), (null, true), (new(), false), (new() { Layout = RotaryLayout.Pairs, Base = 500 }, true),
        (new() { RotatedDepth = 6 }, true),
    ];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Norm_and_rotation_are_those_of_the_formula(Runner runner)
    {
        foreach (var (rotary, withNorm) in Ways)
        {
            foreach (var (queryHeads, kvHeads, d) in ((int, int, int)[])[(6, 2, 64), (3, 3, 40), (2, 1, 6), (4, 1, 33)])
            {
                if (rotary is not null && d % 2 != 0 && rotary.RotatedDepth == 0)
                    continue;
                using var tokens = new AppendedTokens(2, 14, queryHeads, kvHeads, d, 9, KvFormat.F32);
                runner.Run(backend => tokens.Append(rotary, withNorm, backend));

                for (var token = 0; token < 14; token++)
                {
                    var slot = tokens.Slots[token];
                    for (var head = 0; head < queryHeads; head++)
                    {
                        var at = (token * queryHeads + head) * d;
                        RequireClose(
                            AppendedTokens.Expect(tokens.Query.AsSpan(at, d), withNorm ? tokens.QueryNorm : null, 1e-5, slot, rotary),
                            tokens.Rotated.AsSpan(at, d));
                    }

                    for (var head = 0; head < kvHeads; head++)
                    {
                        var at = (token * kvHeads + head) * d;
                        RequireClose(
                            AppendedTokens.Expect(tokens.Keys.AsSpan(at, d), withNorm ? tokens.KeyNorm : null, 1e-5, slot, rotary),
                            MemoryMarshal.Cast<byte, float>(tokens.Row(tokens.KeyBytes, token / 7, head, slot)));
                        Assert.Equal(
                            tokens.Values.AsSpan(at, d),
                            MemoryMarshal.Cast<byte, float>(tokens.Row(tokens.ValueBytes, token / 7, head, slot)));
                    }
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Every_format_stores_what_it_makes_of_the_float32_row(Runner runner, KvFormat format)
    {
        using var exact = new AppendedTokens(2, 92, 4, 2, 64, 64, KvFormat.F32);
        using var stored = new AppendedTokens(2, 92, 4, 2, 64, 64, format);
        runner.Run(backend =>
        {
            exact.Append(new(), withNorm: true, backend);
            stored.Append(new(), withNorm: true, backend);
        });
        Assert.Equal(EmaUpdateTests.Bits(exact.Rotated), EmaUpdateTests.Bits(stored.Rotated));
        for (var (sequence, head) = (0, 0); sequence < 2; (sequence, head) = head == 1 ? (sequence + 1, 0) : (sequence, 1))
        {
            // Of 46 positions KIVI's window of 5 keeps the last 5 values and, as keys go by 32, the last 14 keys.
            var (keys, values) = format == KvFormat.Kivi4 ? (32, 41) : (46, 46);
            for (var slot = 0; slot < values; slot++)
            {
                var expected = Quantised(exact.Row(exact.ValueBytes, sequence, head, slot), format);
                Assert.Equal(expected, stored.Row(stored.ValueBytes, sequence, head, slot).ToArray());
            }

            for (var slot = 0; slot < keys && format != KvFormat.Kivi4; slot++)
            {
                var expected = Quantised(exact.Row(exact.KeyBytes, sequence, head, slot), format);
                Assert.Equal(expected, stored.Row(stored.KeyBytes, sequence, head, slot).ToArray());
            }

            for (var channel = 0; channel < 64 && format == KvFormat.Kivi4; channel++)
            {
                var group = new float[32];
                for (var slot = 0; slot < 32; slot++)
                    group[slot] = MemoryMarshal.Cast<byte, float>(exact.Row(exact.KeyBytes, sequence, head, slot))[channel];
                var expected = Quantised(MemoryMarshal.AsBytes(group.AsSpan()), format);
                Assert.Equal(expected, stored.KeyBytes.AsSpan((sequence * 2 + head) * 64 * 40 + channel * 20, 20).ToArray());
            }
        }
    }

    [Theory]
    [MemberData(nameof(AllFormats))]
    public void Ten_thousand_appends_give_the_bytes_of_one(KvFormat format)
    {
        using var tokens = new AppendedTokens(2, 10_000, 2, 1, 32, 5_024, format);
        tokens.Append(new(), withNorm: true, AuxBackend.Cpu);
        var (keys, values, rotated) = (tokens.KeyBytes, tokens.ValueBytes, (float[])tokens.Rotated.Clone());
        var (keyRing, valueRing) = (tokens.KeyRing, tokens.ValueRing);
        tokens.Forget();

        tokens.AppendOneByOne(new(), withNorm: true, AuxBackend.Cpu);

        Assert.True(keys.AsSpan().SequenceEqual(tokens.KeyBytes));
        Assert.True(values.AsSpan().SequenceEqual(tokens.ValueBytes));
        Assert.Equal(EmaUpdateTests.Bits(rotated), EmaUpdateTests.Bits(tokens.Rotated));
        Assert.Equal(EmaUpdateTests.Bits(keyRing), EmaUpdateTests.Bits(tokens.KeyRing));
        Assert.Equal(EmaUpdateTests.Bits(valueRing), EmaUpdateTests.Bits(tokens.ValueRing));
        Assert.Contains(keys, value => value != 0);
    }

    [Theory]
    [MemberData(nameof(AllFormats))]
    public void Every_vector_width_and_thread_count_gives_the_same_bytes(KvFormat format)
    {
        using var tokens = new AppendedTokens(1, 1_500, 6, 3, 64, 1_504, format);
        tokens.Append(new(), withNorm: true, AuxBackend.Cpu);
        var (keys, values, rotated) = (tokens.KeyBytes, tokens.ValueBytes, (float[])tokens.Rotated.Clone());
        foreach (var width in (int[])[1, 4, 8, 16])
        {
            foreach (var threads in (int[])[1, 2, 5])
            {
                tokens.Forget();
                new Runner(AuxBackend.Cpu, width, threads).Run(backend => tokens.Append(new(), withNorm: true, backend));
                Assert.True(keys.AsSpan().SequenceEqual(tokens.KeyBytes), $"{width} {threads}");
                Assert.True(values.AsSpan().SequenceEqual(tokens.ValueBytes), $"{width} {threads}");
                Assert.Equal(EmaUpdateTests.Bits(rotated), EmaUpdateTests.Bits(tokens.Rotated));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Narrow_sources_strides_and_a_query_in_place(Runner runner)
    {
        // One projection [T, (Hq + 2 Hkv) · d] in bfloat16, and in float32 with the query rotated where it is.
        using var pinned = new PinnedArrays();
        const int Tokens = 3, QueryHeads = 4, KvHeads = 2, Dim = 8, Row = (QueryHeads + 2 * KvHeads) * Dim;
        var random = new Random(3);
        BFloat16[] narrow = [.. Enumerable.Range(0, Tokens * Row).Select(_ => (BFloat16)(random.NextSingle() - 0.5f))];
        float[] wide = [.. narrow.Select(x => (float)x)];
        var original = (float[])wide.Clone();
        var (keys, values, rotated) = (new float[KvHeads * 5 * Dim], new float[KvHeads * 5 * Dim], new float[Tokens * QueryHeads * Dim]);
        var cache = Cache();
        runner.Run(backend => KvAppend.Run(
            Views(narrow, DType.BFloat16) with { RotatedQuery = pinned.View(rotated, Tokens, QueryHeads, Dim) }, cache, new(),
            backend: backend));
        var (narrowKeys, narrowValues) = (keys, values);
        (keys, values) = (new float[KvHeads * 5 * Dim], new float[KvHeads * 5 * Dim]);
        cache = Cache();
        var views = Views(wide, DType.Float32);
        runner.Run(backend => KvAppend.Run(views with { RotatedQuery = views.Query }, cache, new(), backend: backend));

        Assert.Equal(narrowKeys, keys);
        Assert.Equal(narrowValues, values);
        for (var token = 0; token < Tokens; token++)
        {
            Assert.Equal(rotated.AsSpan(token * QueryHeads * Dim, QueryHeads * Dim), wide.AsSpan(token * Row, QueryHeads * Dim));
            var rest = token * Row + QueryHeads * Dim;
            Assert.Equal(original.AsSpan(rest, 2 * KvHeads * Dim), wide.AsSpan(rest, 2 * KvHeads * Dim));
        }

        KvCacheViews Cache() => new()
        {
            Keys = pinned.View(keys, 1, KvHeads, 5, Dim), Values = pinned.View(values, 1, KvHeads, 5, Dim),
        };

        KvAppendTensors Views<T>(T[] projection, DType dtype) where T : unmanaged => new()
        {
            Query = pinned.Strided(projection, dtype, 0, [Tokens, QueryHeads, Dim], [Row, Dim, 1]),
            Keys = pinned.Strided(projection, dtype, QueryHeads * Dim, [Tokens, KvHeads, Dim], [Row, Dim, 1]),
            Values = pinned.Strided(projection, dtype, (QueryHeads + KvHeads) * Dim, [Tokens, KvHeads, Dim], [Row, Dim, 1]),
            Slots = pinned.View([1, 2, 4], 3),
            Positions = pinned.View([7, 7, 100_000], 3),
        };
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Pages_and_ragged_heads_hold_what_a_contiguous_cache_holds(Runner runner)
    {
        // Two sequences and two heads; each head of each has slots of its own, in pages of its own or of its sequence.
        using var pinned = new PinnedArrays();
        const int Dim = 8, Page = 4;
        var random = new Random(5);
        float[] source = [.. Enumerable.Range(0, 4 * 2 * Dim).Select(_ => random.NextSingle() - 0.5f)];
        int[] slots = [0, 3, 5, 6, 1, 2, 9, 4]; // [T, Hkv]
        foreach (var ofHeads in (bool[])[false, true])
        {
            // [pages, 2, heads, page, d]: keys and values in one pool.
            var (pages, heads) = (ofHeads ? 12 : 6, ofHeads ? 1 : 2);
            var pool = new float[pages * 2 * heads * Page * Dim];
            long[] shape = [pages, heads, Page, Dim], strides = [2 * heads * Page * Dim, Page * Dim, Dim, 1];
            int[] order = [.. Enumerable.Range(0, pages).Reverse()];
            int[] offsets = ofHeads ? [0, 3, 6, 9, 12] : [0, 3, 6];
            var tokens = new KvAppendTensors
            {
                Keys = pinned.View(source, 4, 2, Dim), Values = pinned.View(source, 4, 2, Dim), Sequences = pinned.View([1, 1, 0, 0], 4),
                Slots = pinned.View([0, 3, 5, 6, 1, 2, 9, 4], 4, 2), Positions = pinned.View([1, 1, 2, 3], 4),
            };
            var cache = new KvCacheViews
            {
                Keys = pinned.Strided(pool, DType.Float32, 0, shape, strides),
                Values = pinned.Strided(pool, DType.Float32, heads * Page * Dim, shape, strides),
                PageOffsets = pinned.View(offsets, offsets.Length), Pages = pinned.View(order, order.Length),
            };
            runner.Run(backend => KvAppend.Run(tokens, cache, backend: backend));

            var written = 0;
            for (var token = 0; token < 4; token++)
            {
                for (var head = 0; head < 2; head++)
                {
                    var (b, slot) = (token < 2 ? 1 : 0, slots[token * 2 + head]);
                    var page = order[offsets[ofHeads ? b * 2 + head : b] + slot / Page];
                    var at = page * 2 * heads * Page * Dim + (ofHeads ? 0 : head) * Page * Dim + slot % Page * Dim;
                    var row = source.AsSpan((token * 2 + head) * Dim, Dim);
                    Assert.Equal(row, pool.AsSpan(at, Dim));
                    Assert.Equal(row, pool.AsSpan(at + heads * Page * Dim, Dim));
                    written += 2;
                }
            }

            Assert.Equal(written * Dim, pool.Count(x => x != 0)); // and nothing else was
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_NaN_stays_in_its_row_and_no_tokens_are_nothing(Runner runner)
    {
        using var tokens = new AppendedTokens(1, 6, 2, 2, 32, 8, KvFormat.F32);
        tokens.Keys[2 * 64 + 5] = float.NaN; // of token 2, head 0
        runner.Run(backend =>
        {
            tokens.Append(new(), withNorm: true, backend);
            KvAppend.Run(tokens.Views(0, 0, withNorm: true), tokens.Cache, new(), 1e-5, backend);
        });
        var stored = MemoryMarshal.Cast<byte, float>(tokens.KeyBytes);
        for (var head = 0; head < 2; head++)
        {
            for (var slot = 0; slot < 8; slot++)
                Assert.Equal(head == 0 && slot == 2, float.IsNaN(stored[(head * 8 + slot) * 32 + 9]));
        }
    }

    private static byte[] Quantised(ReadOnlySpan<byte> floats, KvFormat format)
    {
        var row = MemoryMarshal.Cast<byte, float>(floats);
        var bytes = new byte[format.ByteCount(row.Length)];
        KvQuantise.Run(row, format, bytes, format == KvFormat.Fp8E4M3 ? 0.05f : 1);
        return bytes;
    }

    private static void RequireClose(double[] expected, ReadOnlySpan<float> actual)
    {
        var greatest = expected.Max(Math.Abs);
        for (var i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], actual[i], Tolerances.KvAppendRelative * greatest);
    }
}
