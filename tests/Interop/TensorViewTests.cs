using AuxCore.Interop;

namespace AuxCore.Tests.Interop;

public unsafe class TensorViewTests
{
    private static readonly float Anything;

    [Theory]
    [InlineData(new long[] { 2, 3 }, new long[] { }, true)]
    [InlineData(new long[] { 2, 3 }, new long[] { 3, 1 }, true)]
    [InlineData(new long[] { 2, 3 }, new long[] { 1, 2 }, false)]
    [InlineData(new long[] { 2, 3 }, new long[] { 4, 1 }, false)]
    [InlineData(new long[] { 1, 3 }, new long[] { 99, 1 }, true)]  // nothing steps over a dimension of size 1
    [InlineData(new long[] { 0, 3 }, new long[] { 7, 7 }, true)]
    [InlineData(new long[] { }, new long[] { }, true)]
    public void Contiguity_follows_from_shape_and_strides(long[] shape, long[] strides, bool contiguous)
    {
        fixed (float* address = &Anything)
            Assert.Equal(contiguous, TensorView.FromPointer(address, DType.Float32, shape, strides).IsContiguous);
    }

    [Fact]
    public void Describes_itself()
    {
        fixed (float* address = &Anything)
        {
            var view = TensorView.FromPointer(address, DType.BFloat16, [2, 3], [1, 2], new AuxDevice(AuxDeviceKind.Cuda, 1), owner: this);

            Assert.Equal("bfloat16[2, 3] on cuda:1 with strides [1, 2]", view.ToString());
            Assert.Equal((6, 12, (nint)address, (object)this), (view.ElementCount, view.ByteCount, view.Address, view.Owner));
            Assert.Equal([1, 2], view.Strides());
            Assert.Equal([12, 4, 1], TensorView.FromPointer(address, DType.Float32, [2, 3, 4]).Strides());
        }
    }

    [Fact]
    public void Guards_name_what_is_wrong()
    {
        Assert.Equal("shape", Assert.Throws<ArgumentException>(() => TensorView.FromPointer(null, DType.Float32, [2, -1])).ParamName);
        Assert.Equal("strides", Assert.Throws<ArgumentException>(() => TensorView.FromPointer(null, DType.Float32, [0], [1, 1])).ParamName);
        Assert.Equal("address", Assert.Throws<ArgumentException>(() => TensorView.FromPointer(null, DType.Float32, [1])).ParamName);
        Assert.Throws<OverflowException>(() => TensorView.FromPointer(null, DType.Float32, [1L << 40, 1L << 40]));
        Assert.Throws<OverflowException>(() => TensorView.FromPointer(null, DType.Float64, [1L << 61]));
        Assert.Throws<ArgumentOutOfRangeException>(() => ((DType)99).Size());
        Assert.Throws<NotSupportedException>(() => DTypes.Of<decimal>());
    }

    [Fact]
    public void Every_dtype_has_a_name_and_a_size()
    {
        Assert.Equal([4, 8, 2, 2, 1, 1, 2, 4, 8, 1], Enum.GetValues<DType>().Select(dtype => dtype.Size()));
        Assert.Equal("bfloat16", DType.BFloat16.Name());
        Assert.Equal(
            [DType.Float32, DType.Float64, DType.Float16, DType.BFloat16,
             DType.UInt8, DType.Int8, DType.Int16, DType.Int32, DType.Int64, DType.Bool],
            [DTypes.Of<float>(), DTypes.Of<double>(), DTypes.Of<Half>(), DTypes.Of<BFloat16>(),
             DTypes.Of<byte>(), DTypes.Of<sbyte>(), DTypes.Of<short>(), DTypes.Of<int>(), DTypes.Of<long>(), DTypes.Of<bool>()]);
    }
}
