using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.KvApproximation;

/// <summary>What KvDecodeAttention refuses, by name, before it writes anything.</summary>
public unsafe class KvDecodeAttentionArgumentTests : IDisposable
{
    private const float Canary = 7;

    private static readonly KvAttentionShape Shape = new(2, 4, 2, 32, 3);

    private readonly float[] _query = new float[2 * 4 * 32], _output = new float[2 * 4 * 32];
    private readonly byte[] _keys = new byte[2 * 2 * 3 * 34], _values = new byte[2 * 2 * 3 * 64];
    private readonly nint _memory = (nint)NativeMemory.AllocZeroed(1 << 16);

    public KvDecodeAttentionArgumentTests() => _output.AsSpan().Fill(Canary);

    private void Refused<TException>(string text, Action call) where TException : ArgumentException
    {
        var error = Assert.Throws<TException>(call);
        Assert.Contains(text, error.Message, StringComparison.Ordinal);
        Assert.All(_output, value => Assert.Equal(Canary, value));
        Assert.True(new ReadOnlySpan<byte>((void*)_memory, 1 << 16).IndexOfAnyExcept((byte)0) < 0);
    }

    private void Run(
        KvAttentionShape? shape = null, KvFormat keys = KvFormat.Q8_0, KvFormat values = KvFormat.BF16, int[]? lengths = null,
        double? scale = null, AuxBackend backend = AuxBackend.Auto) =>
        KvDecodeAttention.Run(_query, _keys, keys, _values, values, lengths ?? [3, 2], shape ?? Shape, _output, scale, backend);

    [Fact]
    public void Sizes_and_heads_that_do_not_divide()
    {
        Refused<ArgumentOutOfRangeException>("shape.Batch must be at least 1", () => Run(Shape with { Batch = 0 }));
        Refused<ArgumentOutOfRangeException>("shape.QueryHeads must be at least 1", () => Run(Shape with { QueryHeads = -4 }));
        Refused<ArgumentOutOfRangeException>("shape.KvHeads must be at least 1", () => Run(Shape with { KvHeads = 0 }));
        Refused<ArgumentOutOfRangeException>("shape.HeadDim must be at least 1", () => Run(Shape with { HeadDim = 0 }));
        Refused<ArgumentOutOfRangeException>("shape.Capacity must be at least 1", () => Run(Shape with { Capacity = 0 }));
        Refused<ArgumentException>(
            "4 query heads are not a multiple of 3 heads of keys and values", () => Run(Shape with { KvHeads = 3 }));
        Refused<ArgumentException>(
            "keyFormat: heads of 16 are not a multiple of 32, the groups of Q8_0", () => Run(Shape with { HeadDim = 16 }));
        Refused<ArgumentException>(
            "valueFormat: heads of 16 are not a multiple of 32, the groups of Q4_0",
            () => Run(Shape with { HeadDim = 16 }, KvFormat.F32, KvFormat.Q4_0));
    }

    [Fact]
    public void Formats_that_are_not_supported()
    {
        Refused<ArgumentException>(
            "keyFormat: Fp8E4M3 takes more than keys and values; pass KvCacheViews", () => Run(keys: KvFormat.Fp8E4M3));
        Refused<ArgumentException>("valueFormat: Kivi4 takes more than keys", () => Run(values: KvFormat.Kivi4));
        Refused<ArgumentOutOfRangeException>("Not a KvFormat", () => Run(keys: (KvFormat)77));
    }

    [Fact]
    public void Lengths_beyond_the_capacity_and_scales_that_are_not_finite()
    {
        Refused<ArgumentOutOfRangeException>("lengths[1] is not within 0 and the capacity, 3", () => Run(lengths: [3, 4]));
        Refused<ArgumentOutOfRangeException>("lengths[0] is not within 0 and the capacity, 3", () => Run(lengths: [-1, 1]));
        Refused<ArgumentException>("lengths: 3 elements do not match shape [2]", () => Run(lengths: [1, 1, 1]));
        foreach (var scale in (double[])[double.NaN, double.PositiveInfinity, double.NegativeInfinity])
            Refused<ArgumentOutOfRangeException>("A scale is finite", () => Run(scale: scale));
    }

    [Fact]
    public void Spans_that_do_not_fit()
    {
        Refused<ArgumentException>("keys: 408 bytes, but F32 of shape [2, 2, 3, 32] takes 1536", () => Run(keys: KvFormat.F32));
        Refused<ArgumentException>("values: 768 bytes, but Q4_0 of shape [2, 2, 3, 32] takes 216", () => Run(values: KvFormat.Q4_0));
        Refused<ArgumentException>("query: 255 elements do not match shape [2, 4, 32]", () => KvDecodeAttention.Run(
            _query.AsSpan(1), _keys, KvFormat.Q8_0, _values, KvFormat.BF16, [1, 1], Shape, _output));
        Refused<ArgumentException>("output: 255 elements do not match shape [2, 4, 32]", () => KvDecodeAttention.Run(
            _query, _keys, KvFormat.Q8_0, _values, KvFormat.BF16, [1, 1], Shape, _output.AsSpan(1)));
    }

    [Fact]
    public void An_output_that_overlaps()
    {
        var error = Assert.Throws<ArgumentException>(
            () => KvDecodeAttention.Run(_query, _keys, KvFormat.Q8_0, _values, KvFormat.BF16, [1, 1], Shape, _query));
        Assert.Contains("output overlaps query", error.Message, StringComparison.Ordinal);
        error = Assert.Throws<ArgumentException>(() => KvDecodeAttention.Run(
            _query, _keys, KvFormat.Q8_0, MemoryMarshal.AsBytes(_output.AsSpan())[..768], KvFormat.BF16, [1, 1], Shape, _output));
        Assert.Contains("output overlaps values", error.Message, StringComparison.Ordinal);
        Assert.All(_output, value => Assert.Equal(Canary, value));
    }

    [Fact]
    public void Views_that_do_not_fit()
    {
        var (query, output) = (View(DType.Float32, 0, [2, 4, 32]), View(DType.Float32, 4096, [2, 4, 32]));
        var (keys, values) = (View(DType.UInt8, 8192, [2, 2, 3, 34]), View(DType.BFloat16, 16384, [2, 2, 3, 32]));
        Refuse("query: float32[8, 32] on cpu is not of rank 3", View(DType.Float32, 0, [8, 32]), keys, values, output);
        Refuse("is not of rank 4", query, View(DType.UInt8, 8192, [4, 3, 34]), values, output);
        Refuse("float32 is needed", View(DType.Float64, 0, [2, 4, 32]), keys, values, output);
        Refuse(
            "output: float32[2, 2, 32] on cpu does not match shape [2, 4, 32]", query, keys, values,
            View(DType.Float32, 4096, [2, 2, 32]));
        Refuse("keys: bfloat16[2, 2, 3, 32] on cpu, but uint8 is needed", query, values, values, output);
        Refuse(
            "values: float16[2, 2, 3, 32] on cpu, but bfloat16 or uint8", query, keys, View(DType.Float16, 16384, [2, 2, 3, 32]), output);
        Refuse("does not match shape [2, 2, 3, 32]", query, keys, View(DType.BFloat16, 16384, [2, 2, 4, 32]), output);
        Refuse(
            "is not contiguous", query, keys,
            TensorView.FromPointer((void*)(_memory + 16384), DType.BFloat16, [2, 2, 3, 32], [192, 32, 64, 1]), output);
        Refuse("output overlaps query", query, keys, values, query);

        void Refuse(string text, TensorView q, TensorView k, TensorView v, TensorView o) => Refused<ArgumentException>(
            text, () => KvDecodeAttention.Run(q, k, KvFormat.Q8_0, v, KvFormat.BF16, [1, 1], o));
    }

    private TensorView View(DType dtype, int offset, ReadOnlySpan<long> shape) =>
        TensorView.FromPointer((void*)(_memory + offset), dtype, shape);

    public void Dispose()
    {
        NativeMemory.Free((void*)_memory);
        GC.SuppressFinalize(this);
    }
}
