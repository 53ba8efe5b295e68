using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using CudaException = AuxCore.Interop.CudaException;
using CudaStream = AuxCore.Interop.CudaStream;

namespace AuxCore.Tests.Ilgpu;

/// <summary>Every driver call of the ILGPU path made to fail once; these run while no other test does.</summary>
[Collection(ProcessWide.Name)]
public class IlgpuFaultTests
{
    public IlgpuFaultTests()
    {
        CudaDriver.RequireStandin();
        Assert.SkipUnless(AuxRuntime.IsAvailable(AuxBackend.Ilgpu, out var reason), $"no ILGPU here: {reason}");
    }

    [Fact]
    public void Whatever_driver_call_of_an_update_fails_the_caller_gets_a_typed_exception_and_nothing_leaks()
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[64]);
        using var stream = CudaStream.Create();
        Scenario(); // opens the device, compiles the kernels
        var start = CudaDriver.Calls;
        Scenario();
        var calls = CudaDriver.Calls - start;
        Assert.InRange(calls, 15, 100);
        var before = CudaDriver.State;

        var silent = 0;
        for (var nth = 1L; nth <= calls; nth++)
        {
            Exception? error;
            using (CudaDriver.Fail(nth))
                error = Record.Exception(Scenario);
            var failed = CudaDriver.Failed;

            if (error is null)
            {
                // Freeing has nobody to tell, and libauxcore leaves its context without a word.
                Assert.True(failed is "cuCtxPushCurrent_v2" or "cuCtxPopCurrent_v2" or "cuMemFree_v2", $"call {nth}, {failed}: silence");
                silent++;
            }
            else
            {
                var failure = Assert.IsType<CudaException>(error);
                Assert.True((failure.Operation, failure.Status) == ("EmaUpdate", 719), $"call {nth}, {failed}: {failure}");
            }

            stream.Synchronize();
            var now = CudaDriver.State with { Launches = before.Launches };
            // Memory whose freeing could not begin is the context's.
            if (failed == "cuCtxPushCurrent_v2")
                before = before with { Allocations = now.Allocations, AllocatedBytes = now.AllocatedBytes };
            Assert.True(before == now, $"call {nth}, {failed}: {now}, not {before}");
        }

        Assert.InRange(silent, 1, calls / 2);
        Scenario();

        void Scenario()
        {
            using var group = EmaGroup.FromViews([memory.ViewAt(0, 9)], [[memory.ViewAt(20, 9)]]);
            group.Update(0.5, AuxBackend.Ilgpu, stream);
            group.Update(0.5, AuxBackend.Ilgpu, stream);
        }
    }

    [Fact]
    public void Whatever_driver_call_of_opening_fails_the_reason_is_given()
    {
        IlgpuDevice.Open(0, "test").Dispose();
        var start = CudaDriver.Calls;
        var opened = IlgpuDevice.Open(0, "test");
        var calls = CudaDriver.Calls - start;
        opened.Dispose();
        Assert.InRange(calls, 20, 200);
        var (before, created) = (CudaDriver.State, StandinLaunch.CreatedContexts);

        for (var nth = 1L; nth <= calls; nth++)
        {
            using (CudaDriver.Fail(nth))
            {
                IlgpuDevice? device = null;
                var error = Record.Exception(() => device = IlgpuDevice.Open(0, "test"));
                device?.Dispose(); // ILGPU looks at other devices too, and leaves out those that it cannot describe
                var typed = error is null or BackendUnavailableException { Backend: AuxBackend.Ilgpu };
                Assert.True(typed, $"call {nth}, {CudaDriver.Failed}: {error}");
            }

            // Where ILGPU's constructor fails after it made the context, ILGPU never gives that back: a count on the primary context.
            Assert.Equal((before.PushedContexts, created), (CudaDriver.State.PushedContexts, StandinLaunch.CreatedContexts));
            Assert.InRange(CudaDriver.State.RetainedContexts, before.RetainedContexts, before.RetainedContexts + 6);
        }

        IlgpuDevice.Open(0, "test").Dispose();
    }
}
