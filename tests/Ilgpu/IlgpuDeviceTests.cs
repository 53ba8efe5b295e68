using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using ILGPU;
using ILGPU.Algorithms;
using ILGPU.Algorithms.ScanReduceOperations;
using ILGPU.Runtime;
using CudaStream = AuxCore.Interop.CudaStream;

namespace AuxCore.Tests.Ilgpu;

/// <summary>ILGPU in the primary context, on a device or on the stand-in.</summary>
public class IlgpuDeviceTests
{
    private static readonly AuxDevice Cuda = new(AuxDeviceKind.Cuda);

    public IlgpuDeviceTests()
    {
        CudaDriver.Require();
        Assert.SkipUnless(AuxRuntime.IsAvailable(AuxBackend.Ilgpu, out var reason), $"no ILGPU here: {reason}");
    }

    [Fact]
    public void The_thread_keeps_the_contexts_that_it_had()
    {
        var device = IlgpuDevice.Of(Cuda, "test");
        using var other = IlgpuDevice.Open(0, "test"); // stands for an application's own accelerator
        var primary = device.Accelerator.NativePtr;
        foreach (var pushed in (int[])[0, 1, 2])
        {
            foreach (var otherIsCurrent in (bool[])[false, true])
                OnNewThread(() => Check(pushed, otherIsCurrent));
        }

        static nint[] Stack()
        {
            var taken = ThreadContexts.Take();
            ThreadContexts.PutBack(taken);
            return taken ?? [];
        }

        void Check(int pushed, bool otherIsCurrent)
        {
            if (otherIsCurrent)
                other.Accelerator.Bind(); // ILGPU leaves its context current
            for (var i = 0; i < pushed; i++)
                IlgpuDriver.PushContext(primary);
            var (stack, accelerator) = (Stack(), Accelerator.Current);

            for (var round = 0; round < 2; round++)
            {
                using (device.Enter())
                {
                    Assert.Equal(primary, IlgpuDriver.CurrentContext());
                    Assert.Same(device.Accelerator, Accelerator.Current);
                    using var scratch = device.Accelerator.Allocate1D<int>(4);
                    scratch.View.CopyFromCPU(device.Stream(0), [1, 2, 3, 4]); // in which ILGPU changes contexts
                }

                Assert.Equal(stack, Stack());
                Assert.Same(otherIsCurrent ? accelerator : device.Accelerator, Accelerator.Current);
            }
        }
    }

    [Fact]
    public void Device_buffers_are_ILGPUs_memory_too()
    {
        using var buffer = DeviceBuffer.CopyOf<int>([1, 2, 3, 4, 5, 6]);
        using var stream = CudaStream.Create();
        var device = IlgpuDevice.Of(Cuda, "test");
        using (device.Enter())
        {
            var on = device.Stream(stream.Handle);
            Assert.Same(on, device.Stream(stream.Handle));
            Assert.Equal(stream.Handle, ((global::ILGPU.Runtime.Cuda.CudaStream)on).StreamPtr);
            var view = device.View<int>(buffer.Address, 6);

            view.SubView(4, 2).CopyFrom(on, view.SubView(0, 2));
            view.SubView(1, 1).MemSet(on, 0);
            var back = new int[6];
            view.CopyToCPU(on, back);

            Assert.Equal([1, 0, 3, 4, 1, 2], back);
        }

        Assert.Equal([1, 0, 3, 4, 1, 2], buffer.ToArray());
        stream.Synchronize(); // it was not ILGPU's to destroy
    }

    [Fact]
    public void Algorithms_compute_on_device_buffers()
    {
        Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled");
        using var buffer = DeviceBuffer.CopyOf<int>([.. Enumerable.Range(1, 10_000)]);
        using var stream = CudaStream.Create();
        using var sum = DeviceBuffer.CopyOf<int>([0]);
        var device = IlgpuDevice.Of(Cuda, "test");
        using (device.Enter())
        {
            var reduce = device.Keep(static accelerator => accelerator.CreateReduction<int, Stride1D.Dense, AddInt32>());
            var values = device.View<int>(buffer.Address, 10_000);
            reduce(device.Stream(stream.Handle), new(values, 10_000, default), device.View<int>(sum.Address, 1));
        }

        Assert.Equal([50_005_000], sum.ToArray(stream));
    }

    private static void OnNewThread(Action action)
    {
        Exception? failure = null;
        var thread = new Thread(() => failure = Record.Exception(action));
        thread.Start();
        thread.Join();
        Assert.Null(failure);
    }
}
