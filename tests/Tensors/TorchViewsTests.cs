using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests.Tensors;

[RequiresLibtorch]
public class TorchViewsTests
{
    [Fact]
    public unsafe void A_view_of_a_slice_begins_at_the_slice()
    {
        using var whole = torch.arange(24, dtype: torch.float32).view(4, 6);
        using var row = whole[2];
        using var block = whole.narrow(0, 1, 2);

        Assert.Equal(12f, *(float*)row.ToTensorView().Address);
        Assert.Equal(6f, *(float*)block.ToTensorView().Address);
        Assert.Equal("float32[2, 6] on cpu", block.ToTensorView().ToString());
        Assert.True(block.ToTensorView().IsContiguous);
    }

    [Fact]
    public unsafe void The_view_is_the_memory_itself_for_every_dtype()
    {
        foreach (var (type, dtype) in ((torch.ScalarType, DType)[])
            [
                (torch.float32, DType.Float32), (torch.float64, DType.Float64),
                (torch.float16, DType.Float16), (torch.bfloat16, DType.BFloat16),
                (torch.uint8, DType.UInt8), (torch.int8, DType.Int8), (torch.int16, DType.Int16), (torch.int32, DType.Int32),
                (torch.int64, DType.Int64), (torch.@bool, DType.Bool),
            ])
        {
            using var tensor = torch.zeros(3, dtype: type);
            var view = tensor.ToTensorView();
            Assert.Equal((dtype, 3L, 3L * dtype.Size()), (view.DType, view.ElementCount, view.ByteCount));

            new Span<byte>((void*)view.Address, (int)view.ByteCount).Fill(1);

            using var sum = tensor.to(torch.float64).sum();
            Assert.NotEqual(0.0, sum.item<double>());
            Assert.Same(tensor, view.Owner);
        }
    }

    [Fact]
    public void Strides_are_taken_over()
    {
        using var tensor = torch.zeros(3, 5);
        using var transposed = tensor.t();

        var view = transposed.ToTensorView("weight");

        Assert.False(view.IsContiguous);
        Assert.Equal([1, 5], view.Strides());
        using var scalar = torch.tensor(1f);
        Assert.Empty(scalar.ToTensorView().Shape.ToArray());
    }

    [Theory]
    [InlineData("0.106.9")]
    [InlineData("0.108.0")]
    [InlineData("1.107.0")]
    public void Other_versions_of_TorchSharp_are_refused(string version) =>
        Assert.Contains(
            version, Assert.Throws<AuxException>(() => TorchVersion.Require(Version.Parse(version))).Message, StringComparison.Ordinal);

    [Fact]
    public void What_cannot_be_viewed_is_named()
    {
        var disposed = torch.zeros(1);
        disposed.Dispose();
        using var sparse = torch.eye(3).to_sparse();
        using var complex = torch.zeros(2, dtype: torch.complex64);
        using var meta = torch.zeros(2, device: torch.META);

        Assert.Equal("weight", Assert.Throws<ArgumentNullException>(() => ((torch.Tensor)null!).ToTensorView("weight")).ParamName);
        Assert.Contains(
            "weight was disposed",
            Assert.Throws<ObjectDisposedException>(() => disposed.ToTensorView("weight")).Message, StringComparison.Ordinal);
        Assert.Contains(
            "weight is sparse", Assert.Throws<ArgumentException>(() => sparse.ToTensorView("weight")).Message, StringComparison.Ordinal);
        using var imaginary = complex.conj().imag; // conjugation is lazy, so its imaginary part is lazily negated
        Assert.Contains(
            "weight is lazily negated",
            Assert.Throws<ArgumentException>(() => imaginary.ToTensorView("weight")).Message, StringComparison.Ordinal);
        Assert.Contains(
            "weight is of ComplexFloat32",
            Assert.Throws<ArgumentException>(() => complex.ToTensorView("weight")).Message, StringComparison.Ordinal);
        Assert.Contains(
            "weight is on META", Assert.Throws<ArgumentException>(() => meta.ToTensorView("weight")).Message, StringComparison.Ordinal);
    }
}
