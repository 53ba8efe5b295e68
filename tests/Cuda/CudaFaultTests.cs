using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.Cuda;

/// <summary>Every driver call of the managed path made to fail once; these run while no other test does.</summary>
[Collection(ProcessWide.Name)]
public class CudaFaultTests
{
    public CudaFaultTests() => CudaDriver.RequireStandin();

    [Fact]
    public void Whatever_driver_call_fails_the_caller_gets_a_typed_exception_and_nothing_leaks()
    {
        Scenario(); // opens the context, loads the kernels
        var start = CudaDriver.Calls;
        Scenario();
        var calls = CudaDriver.Calls - start;
        var before = CudaDriver.State;
        Assert.InRange(calls, 40, 500);

        var silent = 0;
        for (var nth = 1L; nth <= calls; nth++)
        {
            Exception? error;
            using (CudaDriver.Fail(nth))
                error = Record.Exception(Scenario);
            if (error is null)
            {
                // Leaving a context at the end of a call, and freeing, have nobody to tell.
                Assert.True(CudaDriver.Failed is "cuCtxPopCurrent_v2" or "cuMemFree_v2" or "cuStreamDestroy_v2" or "cuCtxPushCurrent_v2",
                    $"call {nth}, {CudaDriver.Failed}: no exception");
                silent++;
            }
            else
            {
                var failure = Assert.IsType<CudaException>(error);
                Assert.Equal(719, failure.Status);
                Assert.True(
                    failure.Message.Contains(CudaDriver.Failed, StringComparison.Ordinal)
                    || failure.Message.Contains("EmaUpdate: ", StringComparison.Ordinal),
                    $"call {nth}, {CudaDriver.Failed}: {failure.Message}");
            }

            // Memory whose freeing could not even begin stays the context's.
            var now = CudaDriver.State;
            Assert.Equal(before.PushedContexts, now.PushedContexts);
            if (CudaDriver.Failed != "cuCtxPushCurrent_v2" && CudaDriver.Failed != "cuStreamGetCtx")
                Assert.True(now.Allocations == before.Allocations && now.Streams == before.Streams,
                    $"call {nth}, {CudaDriver.Failed}: {now.Allocations - before.Allocations} allocations left");
            before = now;
        }

        Assert.True(silent < calls / 2, $"{silent} of {calls} without a word");
        Scenario();
    }

    private static void Scenario()
    {
        using var stream = CudaStream.Create();
        using var other = CudaStream.Create();
        using var source = DeviceBuffer.CopyOf<float>([8, 8]);
        using var average = DeviceBuffer.CopyOf<float>([4, 4]);
        using var group = EmaGroup.FromViews([source.View(2)], [[average.View(2)]]);
        try
        {
            group.Update(0.5, stream: stream);
        }
        catch (CudaException) when (CudaDriver.Failed is not "cuStreamSynchronize")
        {
            using (CudaDriver.Fail(0))
                Assert.Equal([4, 4], average.ToArray(stream)); // a launch that was not made changed nothing
            throw;
        }

        other.WaitFor(stream);
        group.Update(0.5, stream: other);
        Assert.Equal([7, 7], average.ToArray(other));
        average.FillBytes(0, other);
        other.Synchronize();
    }

    [Fact]
    public void A_fault_of_a_kernel_is_reported_with_its_op_where_launches_are_waited_for()
    {
        // What AUXCORE_SYNC=1 asks for, in a context of its own.
        NativeStatus.Check(Native.Open(Native.AbiVersion, 0, Native.OpenFlags.Synchronous, out var context), "test");
        using (context)
        {
            NativeStatus.Check(Native.EmaCreate(context, 1, out var table), "test");
            using (table)
            {
                SetDecay(table, 0.5);
                var before = CudaDriver.Calls;
                SetDecay(table, 0.25);
                var calls = CudaDriver.Calls - before;

                using (CudaDriver.Fail(calls - 1)) // the last but one is the wait; the last leaves the context
                    Assert.Equal(719, TrySetDecay(table, 0.125));

                Assert.Equal("cuStreamSynchronize", CudaDriver.Failed);
                Assert.Contains("EmaUpdate: auxcore_ema_set_steps faulted, or work before it", NativeStatus.LastMessage(),
                    StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void Updates_of_the_same_tensors_are_one_launch_each()
    {
        using var source = DeviceBuffer.CopyOf<float>(new float[6000]);
        using var average = DeviceBuffer.CopyOf<float>(new float[6000]);
        using var group = EmaGroup.FromViews(
            [.. Enumerable.Range(0, 3000).Select(i => source.ViewAt(2 * i, 2))],
            [[.. Enumerable.Range(0, 3000).Select(i => average.ViewAt(2 * i, 2))]]);
        group.Update(0.5);
        var before = CudaDriver.Launches;

        group.Update(0.5);
        Assert.Equal(before + 1, CudaDriver.Launches);
        group.Update(0.25); // and one that writes the new decay
        Assert.Equal(before + 3, CudaDriver.Launches);
    }

    private static void SetDecay(EmaTableHandle table, double decay) => NativeStatus.Check(TrySetDecay(table, decay), "test");

    private static unsafe int TrySetDecay(EmaTableHandle table, double decay) => Native.EmaSetDecays(table, 0, &decay, 1);

    [Fact]
    public void Buffers_streams_and_groups_that_nobody_disposed_are_freed_by_the_collector()
    {
        var before = CudaDriver.State;
        Lose();

        for (var i = 0; i < 10 && CudaDriver.State != before with { Launches = CudaDriver.State.Launches }; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }

        var now = CudaDriver.State;
        Assert.Equal((before.Allocations, before.Streams), (now.Allocations, now.Streams));

        static void Lose()
        {
            var stream = CudaStream.Create();
            var source = DeviceBuffer.CopyOf<float>([1]);
            var average = DeviceBuffer.CopyOf<float>([1]);
            var group = EmaGroup.FromViews([source.View(1)], [[average.View(1)]]);
            group.Update(0.5, stream: stream);
            stream.Synchronize();
        }
    }
}
