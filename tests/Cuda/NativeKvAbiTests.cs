using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.Cuda;

/// <summary>The structures of the KV cache's C functions.</summary>
public unsafe class NativeKvAbiTests
{
    [Fact]
    public void Structures_lie_as_in_C()
    {
        Assert.Equal(40, sizeof(Native.KvElements));
        Assert.Equal(24, Offset<Native.KvElements>(nameof(Native.KvElements.Elements)));
        Assert.Equal(64, sizeof(Native.KvPlane));
        Assert.Equal(40, Offset<Native.KvPlane>(nameof(Native.KvPlane.Scales)));
        Assert.Equal(176, sizeof(Native.KvCache));
        Assert.Equal(24, Offset<Native.KvCache>(nameof(Native.KvCache.PageOffsets)));
        Assert.Equal(48, Offset<Native.KvCache>(nameof(Native.KvCache.Keys)));
        Assert.Equal(80, sizeof(Native.KvAttention));
        Assert.Equal(16, Offset<Native.KvAttention>(nameof(Native.KvAttention.Scale)));
        Assert.Equal(72, Offset<Native.KvAttention>(nameof(Native.KvAttention.WorkspaceBytes)));
        Assert.Equal(40, sizeof(Native.KvRows));
        Assert.Equal(16, Offset<Native.KvRows>(nameof(Native.KvRows.Bias)));
        Assert.Equal(200, sizeof(Native.KvAppend));
        Assert.Equal(136, Offset<Native.KvAppend>(nameof(Native.KvAppend.RotatedQuery)));
        Assert.Equal(176, Offset<Native.KvAppend>(nameof(Native.KvAppend.NormEpsilon)));
        Assert.Equal(192, Offset<Native.KvAppend>(nameof(Native.KvAppend.Frequencies)));
        Assert.Equal(256, sizeof(Native.KvPredictLayer));
        Assert.Equal(72, sizeof(Native.KvPredict));
        Assert.Equal(16, Offset<Native.KvPredict>(nameof(Native.KvPredict.Layers)));
        Assert.Equal(64, Offset<Native.KvPredict>(nameof(Native.KvPredict.Frequencies)));
        Assert.Equal(64, sizeof(Native.KvWindow));
        Assert.Equal(24, Offset<Native.KvWindow>(nameof(Native.KvWindow.Scale)));
        Assert.Equal(56, Offset<Native.KvWindow>(nameof(Native.KvWindow.WorkspaceBytes)));
        Assert.Equal(96, sizeof(Native.KvWindowProduct));
        Assert.Equal(32, Offset<Native.KvWindowProduct>(nameof(Native.KvWindowProduct.Scale)));
        Assert.Equal(56, Offset<Native.KvWindowProduct>(nameof(Native.KvWindowProduct.KeyStep)));
        Assert.Equal(88, Offset<Native.KvWindowProduct>(nameof(Native.KvWindowProduct.WorkspaceBytes)));
        Assert.Equal(112, sizeof(Native.KvEviction));
        Assert.Equal(24, Offset<Native.KvEviction>(nameof(Native.KvEviction.Value)));
        Assert.Equal(40, Offset<Native.KvEviction>(nameof(Native.KvEviction.HeadFloor)));
        Assert.Equal(64, Offset<Native.KvEviction>(nameof(Native.KvEviction.Scores)));
        Assert.Equal(88, Offset<Native.KvEviction>(nameof(Native.KvEviction.Counts)));
        Assert.Equal(104, Offset<Native.KvEviction>(nameof(Native.KvEviction.WorkspaceBytes)));
    }

    [Fact]
    public void Formats_have_the_numbers_of_the_C_header() => Assert.Equal(
        [0, 1, 2, 3, 4, 5],
        ((KvFormat[])[KvFormat.F32, KvFormat.F16, KvFormat.BF16, KvFormat.Fp8E4M3, KvFormat.Q8_0, KvFormat.Q4_0]).Select(f => (int)f));

    private static int Offset<T>(string field) => (int)Marshal.OffsetOf<T>(field);
}
