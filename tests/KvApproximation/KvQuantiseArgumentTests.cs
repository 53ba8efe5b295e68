using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.KvApproximation;

/// <summary>What KvQuantise refuses, by name, before it writes anything.</summary>
public unsafe class KvQuantiseArgumentTests : IDisposable
{
    private readonly float[] _x = new float[64];
    private readonly byte[] _bytes = new byte[68];
    private readonly nint _memory = (nint)NativeMemory.AllocZeroed(1024);

    private void Refused<TException>(string text, Action call) where TException : ArgumentException
    {
        var error = Assert.Throws<TException>(call);
        Assert.Contains(text, error.Message, StringComparison.Ordinal);
        Assert.Equal(new byte[68], _bytes);
        Assert.Equal(new float[64], _x);
        Assert.True(new ReadOnlySpan<byte>((void*)_memory, 1024).IndexOfAnyExcept((byte)0) < 0);
    }

    [Fact]
    public void Elements_that_are_no_whole_groups()
    {
        Refused<ArgumentException>(
            "source: 33 elements are not a multiple of 32, the groups of Q8_0",
            () => KvQuantise.Run(_x.AsSpan(0, 33), KvFormat.Q8_0, _bytes));
        Refused<ArgumentException>(
            "destination: 16 elements are not a multiple of 32, the groups of Q4_0",
            () => KvQuantise.Dequantise(_bytes, KvFormat.Q4_0, _x.AsSpan(0, 16)));
        Refused<ArgumentException>("elements: 31 is not a multiple of 32", () => KvFormat.Q8_0.ByteCount(31));
        Refused<ArgumentOutOfRangeException>("elements", () => KvFormat.Q8_0.ByteCount(-32));
    }

    [Fact]
    public void Bytes_that_do_not_fit()
    {
        Refused<ArgumentException>(
            "destination: 67 bytes, but 64 elements of Q8_0 take 68", () => KvQuantise.Run(_x, KvFormat.Q8_0, _bytes.AsSpan(1)));
        Refused<ArgumentException>(
            "source: 68 bytes, but 64 elements of BF16 take 128", () => KvQuantise.Dequantise(_bytes, KvFormat.BF16, _x));
        Refused<ArgumentException>(
            "destination: 68 bytes, but 0 elements of F32 take 0", () => KvQuantise.Run(default, KvFormat.F32, _bytes));
    }

    [Fact]
    public void What_is_no_format()
    {
        Refused<ArgumentOutOfRangeException>("Not a KvFormat", () => KvQuantise.Run(_x, (KvFormat)99, _bytes));
        Refused<ArgumentOutOfRangeException>("Not a KvFormat", () => KvQuantise.Dequantise(_bytes, (KvFormat)(-1), _x));
        Refused<ArgumentOutOfRangeException>("Not a KvFormat", () => ((KvFormat)7).GroupSize());
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(float.PositiveInfinity)]
    public void What_is_no_scale(float scale)
    {
        Refused<ArgumentOutOfRangeException>(
            "A scale is finite and above 0", () => KvQuantise.Run(_x, KvFormat.Fp8E4M3, _bytes.AsSpan(0, 64), scale));
        Refused<ArgumentOutOfRangeException>("Q8_0 takes no scale", () => KvQuantise.Run(_x, KvFormat.Q8_0, _bytes, scale));
        Refused<ArgumentOutOfRangeException>(
            "F32 takes no scale", () => KvQuantise.Dequantise(_bytes, KvFormat.F32, _x.AsSpan(0, 17), scale));
    }

    [Fact]
    public void Memory_that_overlaps()
    {
        var own = MemoryMarshal.AsBytes(_x.AsSpan());
        var error = Assert.Throws<ArgumentException>(() => KvQuantise.Run(_x, KvFormat.Q8_0, MemoryMarshal.AsBytes(_x.AsSpan())[..68]));
        Assert.Contains("destination overlaps source", error.Message, StringComparison.Ordinal);
        error = Assert.Throws<ArgumentException>(
            () => KvQuantise.Dequantise(MemoryMarshal.AsBytes(_x.AsSpan())[^68..], KvFormat.Q8_0, _x));
        Assert.Contains("overlaps", error.Message, StringComparison.Ordinal);
        Assert.True(own.IndexOfAnyExcept((byte)0) < 0);
    }

    [Fact]
    public void Views_that_do_not_fit()
    {
        var x = View(DType.Float32, 0, [2, 32]);
        Refused<ArgumentException>("has no dimension", () => KvQuantise.Run(View(DType.Float32, 0, []), KvFormat.F32, x));
        Refused<ArgumentException>("float32 is needed", () => KvQuantise.Run(View(DType.Float64, 0, [2, 32]), KvFormat.Q8_0, x));
        Refused<ArgumentException>(
            "whose rows are not a multiple of 32", () => KvQuantise.Run(View(DType.Float32, 0, [4, 16]), KvFormat.Q8_0, x));
        Refused<ArgumentException>("uint8 is needed", () => KvQuantise.Run(x, KvFormat.Q8_0, View(DType.Int8, 512, [2, 34])));
        Refused<ArgumentException>(
            "does not match shape [2, 34]", () => KvQuantise.Run(x, KvFormat.Q8_0, View(DType.UInt8, 512, [68])));
        Refused<ArgumentException>(
            "does not match shape [2, 18]", () => KvQuantise.Dequantise(View(DType.UInt8, 512, [2, 34]), KvFormat.Q4_0, x));
        Refused<ArgumentException>("is not contiguous", () => KvQuantise.Run(
            TensorView.FromPointer((void*)_memory, DType.Float32, [2, 32], [64, 1]), KvFormat.Q8_0, View(DType.UInt8, 512, [2, 34])));
        Refused<ArgumentException>(
            "destination overlaps source", () => KvQuantise.Run(x, KvFormat.Q8_0, View(DType.UInt8, 0, [2, 34])));
    }

    private TensorView View(DType dtype, int offset, ReadOnlySpan<long> shape) =>
        TensorView.FromPointer((void*)(_memory + offset), dtype, shape);

    public void Dispose()
    {
        NativeMemory.Free((void*)_memory);
        GC.SuppressFinalize(this);
    }
}
