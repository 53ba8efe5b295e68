using TorchSharp;

namespace AuxCore.Tests;

/// <summary>Counts TorchSharp tensors that a piece of code on this thread makes and does not dispose.</summary>
internal static class TensorLeaks
{
    public static long Live => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

    public static void None(Action action)
    {
        var before = Live;
        action();
        Assert.Equal(before, Live);
    }
}
