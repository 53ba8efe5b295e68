using System.Runtime.InteropServices;
using AuxCore.Interop;

namespace AuxCore.Tests.Cuda;

/// <summary>The structures of the successor measure's C functions.</summary>
public unsafe class NativeSuccessorAbiTests
{
    [Fact]
    public void Structures_lie_as_in_C()
    {
        Assert.Equal(112, sizeof(Native.IndicatorTdBatch));
        Assert.Equal(16, Offset<Native.IndicatorTdBatch>(nameof(Native.IndicatorTdBatch.Discount)));
        Assert.Equal(32, Offset<Native.IndicatorTdBatch>(nameof(Native.IndicatorTdBatch.Prediction)));
        Assert.Equal(104, Offset<Native.IndicatorTdBatch>(nameof(Native.IndicatorTdBatch.MeanAbsoluteErrors)));
        Assert.Equal(40, sizeof(Native.IndicatorStates));
        Assert.Equal(16, Offset<Native.IndicatorStates>(nameof(Native.IndicatorStates.Features)));
        Assert.Equal(56, sizeof(Native.Pinball));
        Assert.Equal(24, Offset<Native.Pinball>(nameof(Native.Pinball.Bits)));
        Assert.Equal(80, sizeof(Native.TabularTdBatch));
        Assert.Equal(24, Offset<Native.TabularTdBatch>(nameof(Native.TabularTdBatch.StepSize)));
        Assert.Equal(72, Offset<Native.TabularTdBatch>(nameof(Native.TabularTdBatch.Done)));
        Assert.Equal(88, sizeof(Native.Sweep));
        Assert.Equal(32, Offset<Native.Sweep>(nameof(Native.Sweep.Discount)));
        Assert.Equal(80, Offset<Native.Sweep>(nameof(Native.Sweep.Changes)));
        Assert.Equal(88, sizeof(Native.Pvn));
        Assert.Equal(16, Offset<Native.Pvn>(nameof(Native.Pvn.Current)));
        Assert.Equal(80, Offset<Native.Pvn>(nameof(Native.Pvn.WorkspaceBytes)));
        Assert.Equal(4, (int)DType.UInt8); // AUXCORE_UINT8
    }

    private static int Offset<T>(string field) => (int)Marshal.OffsetOf<T>(field);
}
