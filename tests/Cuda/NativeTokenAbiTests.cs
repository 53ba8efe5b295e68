using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.Cuda;

/// <summary>The structures and numbers of token pruning's C functions.</summary>
public unsafe class NativeTokenAbiTests
{
    [Fact]
    public void Structures_lie_as_in_C()
    {
        Assert.Equal(120, sizeof(Native.TokenSelectBatch));
        Assert.Equal(32, Offset<Native.TokenSelectBatch>(nameof(Native.TokenSelectBatch.Value)));
        Assert.Equal(48, Offset<Native.TokenSelectBatch>(nameof(Native.TokenSelectBatch.Scores)));
        Assert.Equal(112, Offset<Native.TokenSelectBatch>(nameof(Native.TokenSelectBatch.WorkspaceBytes)));
        Assert.Equal(40, sizeof(Native.TokenSelection));
        Assert.Equal(32, Offset<Native.TokenSelection>(nameof(Native.TokenSelection.MapLength)));
        Assert.Equal(136, sizeof(Native.TokenRows));
        Assert.Equal(56, Offset<Native.TokenRows>(nameof(Native.TokenRows.Sizes)));
        Assert.Equal(128, Offset<Native.TokenRows>(nameof(Native.TokenRows.SegmentDimension)));
        Assert.Equal(56, sizeof(Native.TokenPoolBatch));
        Assert.Equal(40, Offset<Native.TokenPoolBatch>(nameof(Native.TokenPoolBatch.Source)));
        Assert.Equal(144, sizeof(Native.TokenScoresBatch));
        Assert.Equal(40, Offset<Native.TokenScoresBatch>(nameof(Native.TokenScoresBatch.QuerySteps)));
        Assert.Equal(88, Offset<Native.TokenScoresBatch>(nameof(Native.TokenScoresBatch.Queries)));
        Assert.Equal(48, sizeof(Native.KeyLayer));
        Assert.Equal(24, Offset<Native.KeyLayer>(nameof(Native.KeyLayer.BatchStep)));
        Assert.Equal(64, sizeof(Native.KeyRerotateBatch));
        Assert.Equal(24, Offset<Native.KeyRerotateBatch>(nameof(Native.KeyRerotateBatch.Differences)));
    }

    [Fact]
    public void Rules_have_the_headers_numbers() => Assert.Equal(
        [1, 2, 3, 4, 5],
        [
            (int)BudgetRule.Count, (int)BudgetRule.Ratio, (int)BudgetRule.Threshold, (int)BudgetRule.TopP, (int)BudgetRule.Outliers,
        ]);

    private static int Offset<T>(string field) => (int)Marshal.OffsetOf<T>(field);
}
