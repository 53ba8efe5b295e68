using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>KvDecodeAttention on device memory against the formula in double, contiguous and in pages.</summary>
public unsafe class KvDecodeAttentionCudaTests
{
    private static readonly KvFormat[] Formats = [KvFormat.F32, KvFormat.F16, KvFormat.BF16, KvFormat.Q8_0, KvFormat.Q4_0];

    public KvDecodeAttentionCudaTests() => CudaDriver.Require();

    public static TheoryData<KvFormat, KvFormat> Pairs => new MatrixTheoryData<KvFormat, KvFormat>(Formats, Formats);

    public static TheoryData<KvFormat> EachFormat => [.. Formats];

    [Theory]
    [MemberData(nameof(Pairs))]
    public void Agrees_with_the_formula_in_double(KvFormat keys, KvFormat values)
    {
        var isGrouped = Math.Max(keys.GroupSize(), values.GroupSize()) > 1;
        foreach (var (group, d, lengths) in ((int, int, int[])[])
            [(1, 64, [70, 33]), (4, isGrouped ? 96 : 80, [45, 0]), (7, 128, [31, 1]), (8, 256, [9, 20]), (9, 32, [65, 70])])
        {
            var shape = new KvAttentionShape(2, group * 2, 2, d, 70);
            var batch = new AttentionBatch(shape, lengths, keys, values);
            batch.RequireClose(Run(batch, shape, keys, values), Tolerances.KvDecodeAttentionRelative);
        }
    }

    [Theory]
    [MemberData(nameof(EachFormat))]
    public void Splits_merge_and_repeated_runs_give_the_same_bits(KvFormat format)
    {
        var shape = new KvAttentionShape(1, 4, 1, 64, 1500);
        var batch = new AttentionBatch(shape, [1499], format, format);
        var (first, second) = (Run(batch, shape, format, format, fill: 0), Run(batch, shape, format, format, fill: 0xff));
        batch.RequireClose(first, Tolerances.KvDecodeAttentionRelative);
        Assert.Equal(Devices.Bits(first), Devices.Bits(second));
    }

    [Theory]
    [MemberData(nameof(EachFormat))]
    public void Positions_beyond_the_length_are_not_read_and_one_gives_its_value_exactly(KvFormat format)
    {
        var shape = new KvAttentionShape(1, 4, 1, 64, 80);
        foreach (var length in (int[])[0, 1, 2, 63, 66])
        {
            var batch = new AttentionBatch(shape, [length], format, format);
            var clean = Run(batch, shape, format, format);
            batch.Keys.AsSpan((int)format.ByteCount(length * 64)).Fill(0xFF); // NaN in every format, or their scales
            batch.Values.AsSpan((int)format.ByteCount(length * 64)).Fill(0xFF);
            Assert.Equal(Devices.Bits(clean), Devices.Bits(Run(batch, shape, format, format)));
            Assert.DoesNotContain(float.NaN, clean);
            var value = new float[64];
            if (length > 0)
                KvQuantise.Dequantise(batch.Values.AsSpan(0, (int)format.ByteCount(64)), format, value);
            if (length <= 1)
                Assert.Equal(value, clean[..64]);
        }
    }

    [Fact]
    public void A_NaN_shows_in_the_heads_that_read_it_and_in_no_other()
    {
        var shape = new KvAttentionShape(1, 8, 2, 32, 600);
        foreach (var at in (int[])[0, 31, 255, 256, 599])
        {
            var batch = new AttentionBatch(shape, [600], KvFormat.F32, KvFormat.F32);
            BitConverter.GetBytes(float.NaN).CopyTo(batch.Keys, ((600 + at) * 32 + 5) * 4);
            var output = Run(batch, shape, KvFormat.F32, KvFormat.F32);
            for (var i = 0; i < output.Length; i++)
                Assert.Equal(i / 32 >= 4, float.IsNaN(output[i]));
        }
    }

    [Theory]
    [InlineData(KvFormat.Q8_0, KvFormat.Q4_0, false)]
    [InlineData(KvFormat.BF16, KvFormat.Fp8E4M3, true)]
    [InlineData(KvFormat.Fp8E4M3, KvFormat.F32, false)]
    public void Pages_ragged_heads_scales_and_sums_agree_with_the_Cpu(KvFormat keys, KvFormat values, bool pagesAreOfHeads)
    {
        const int B = 2, Hkv = 2, Hq = 8, D = 64, Page = 16, Each = 5, Most = Page * Each;
        var (random, held, tables) = (new Random(3), pagesAreOfHeads ? 1 : Hkv, pagesAreOfHeads ? B * Hkv : B);
        var pages = Enumerable.Range(0, tables * Each + 2).ToArray();
        random.Shuffle(pages);
        int[] lengths = [80, 3, 0, 49], offsets = [.. Enumerable.Range(0, tables + 1).Select(table => table * Each)];
        float[] Normal(int count) => [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() * 4 - 2))];
        byte[] Stored(KvFormat format)
        {
            var bytes = new byte[format.ByteCount(pages.Length * held * Page * D)];
            KvQuantise.Run(Normal(pages.Length * held * Page * D), format, bytes, format == KvFormat.Fp8E4M3 ? 0.01f : 1);
            return bytes;
        }

        var (query, keyBytes, valueBytes, sums) = (Normal(B * Hq * D), Stored(keys), Stored(values), Normal(B * Hkv * Most));
        float[] scales = [0.01f, 0.02f];
        using var devices = new Devices();
        using var arrays = new PinnedArrays();
        var (expected, expectedSums) = (new float[query.Length], (float[])sums.Clone());
        var host = new Maker(arrays, null);
        var device = new Maker(null, devices);
        var (on, output, position) = (Cache(device), device.Of(new float[query.Length], B, Hq, D), device.Of(sums, B, Hkv, Most));
        KvDecodeAttention.Run(
            host.Of(query, B, Hq, D), Cache(host), host.Of(lengths, B, Hkv), host.Of(expected, B, Hq, D),
            host.Of(expectedSums, B, Hkv, Most));
        var (q, filled) = (device.Of(query, B, Hq, D), device.Of(lengths, B, Hkv));
        var bytes = KvDecodeAttention.WorkspaceBytes(q, on, filled, output, position);
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(bytes));
        KvDecodeAttention.Run(q, on, filled, output, position, workspace: workspace.View(bytes));

        Close(expected, Devices.Read<float>(output), 3e-6);
        Close(expectedSums, Devices.Read<float>(position), 3e-6);
        devices.CheckMargins();

        KvCacheViews Cache(Maker make) => new()
        {
            Keys = make.OfBytes(keyBytes, pages.Length, held, Page, keys.ByteCount(D)),
            KeyFormat = keys,
            Values = make.OfBytes(valueBytes, pages.Length, held, Page, values.ByteCount(D)),
            ValueFormat = values,
            KeyScales = keys == KvFormat.Fp8E4M3 ? make.Of(scales, Hkv) : default,
            ValueScales = values == KvFormat.Fp8E4M3 ? make.Of(scales[1..], 1) : default,
            PageOffsets = make.Of(offsets, tables + 1),
            Pages = make.Of(pages[..(tables * Each)], tables * Each),
        };
    }

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        var shape = new KvAttentionShape(1, 2, 1, 64, 20);
        var batch = new AttentionBatch(shape, [20], KvFormat.Q8_0, KvFormat.Q8_0);
        using var stream = CudaStream.Create();
        Assert.Equal(
            Devices.Bits(Run(batch, shape, KvFormat.Q8_0, KvFormat.Q8_0)),
            Devices.Bits(Run(batch, shape, KvFormat.Q8_0, KvFormat.Q8_0, stream: stream)));
    }

    [Fact]
    public void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var (query, output) = (devices.Add(new float[4 * 64], 1, 4, 64), devices.Add<float>([.. Enumerable.Repeat(-7f, 4 * 64)], 1, 4, 64));
        var cache = devices.Add(new float[2 * 8 * 64], 1, 2, 8, 64);
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(1 << 16)).View(1 << 16);
        void Refused<TException>(string text, Action call) where TException : Exception
        {
            Assert.Contains(text, Assert.Throws<TException>(call).Message, StringComparison.Ordinal);
            Assert.All(Devices.Read<float>(output), value => Assert.Equal(-7, value));
        }

        void Attend(TensorView space, int length = 8, TensorView? to = null, AuxBackend backend = AuxBackend.Auto) => KvDecodeAttention.Run(
            query, cache, KvFormat.F32, cache, KvFormat.F32, [length], to ?? output, backend: backend, workspace: space);

        Refused<ArgumentException>("workspace: missing; uint8[", () => Attend(default));
        Refused<ArgumentException>("or more is needed on cuda:0", () => Attend(devices.Keep(DeviceBuffer.Allocate<byte>(64)).View(64)));
        Refused<ArgumentOutOfRangeException>("lengths[0] is not within 0 and the capacity, 8", () => Attend(workspace, length: 9));
        Refused<ArgumentException>("output overlaps query", () => Attend(workspace, to: query));
        Refused<BackendUnavailableException>("are on cuda:0", () => Attend(workspace, backend: AuxBackend.Reference));
        var (narrow, small) = (devices.Add(new float[4 * 12], 1, 4, 12), devices.Add(new float[2 * 8 * 12], 1, 2, 8, 12));
        Refused<ArgumentException>("head_dim is 12; it may be a multiple of 8 up to 256", () => KvDecodeAttention.Run(
            narrow, small, KvFormat.F32, small, KvFormat.F32, [8], devices.Add(new float[4 * 12], 1, 4, 12), workspace: workspace));
        devices.CheckMargins();
    }

    private static float[] Run(
        AttentionBatch batch, KvAttentionShape shape, KvFormat keys, KvFormat values, byte fill = 0x7f, CudaStream? stream = null)
    {
        using var devices = new Devices();
        var make = new Maker(null, devices);
        var bytes = KvDecodeAttention.WorkspaceBytes(shape);
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(bytes));
        workspace.FillBytes(fill);
        var output = make.Of(new float[batch.Query.Length], shape.Batch, shape.QueryHeads, shape.HeadDim);
        KvDecodeAttention.Run(
            make.Of(batch.Query, shape.Batch, shape.QueryHeads, shape.HeadDim),
            make.OfBytes(batch.Keys, shape.Batch, shape.KvHeads, shape.Capacity, keys.ByteCount(shape.HeadDim)), keys,
            make.OfBytes(batch.Values, shape.Batch, shape.KvHeads, shape.Capacity, values.ByteCount(shape.HeadDim)), values, batch.Lengths,
            output, workspace: workspace.View(bytes), stream: stream);
        var result = Devices.Read<float>(output, stream);
        devices.CheckMargins();
        return result;
    }

    private static void Close(float[] expected, float[] actual, double allowed)
    {
        for (var i = 0; i < expected.Length; i++)
            Assert.True(Math.Abs(expected[i] - actual[i]) <= allowed, $"{i}: {actual[i]:R}, not {expected[i]:R}");
    }

    /// <summary>Views of arrays where they are, or of their copies in device memory.</summary>
    private sealed class Maker(PinnedArrays? arrays, Devices? devices)
    {
        public TensorView Of<T>(T[] values, params ReadOnlySpan<long> shape) where T : unmanaged =>
            devices?.Add(values, shape) ?? arrays!.View(values, shape);

        /// <summary>Rows of a cache begin on even addresses.</summary>
        public TensorView OfBytes(byte[] values, params ReadOnlySpan<long> shape) =>
            devices?.Keep(DeviceBuffer.CopyOf<byte>(values)).View(shape) ?? arrays!.View(values, shape);
    }
}
