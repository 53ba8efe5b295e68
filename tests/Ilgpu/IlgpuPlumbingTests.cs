using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using ILGPU;
using ILGPU.Algorithms;
using ILGPU.Algorithms.ScanReduceOperations;
using ILGPU.Runtime;

namespace AuxCore.Tests.Ilgpu;

/// <summary>What every op on ILGPU stands on, as far as it shows without a driver.</summary>
public unsafe class IlgpuPlumbingTests
{
    [Fact]
    public void Foreign_memory_is_viewed_copied_and_filled_and_stays_its_owners() => WithDevice(device =>
    {
        var memory = (float*)NativeMemory.AlignedAlloc(64, 64);
        new Span<float>(memory, 16).Fill(7);
        using (device.Enter())
        {
            var stream = device.Stream(0);
            var view = device.View<float>((nint)(memory + 2), 4);
            var other = device.View<float>((nint)(memory + 8), 4);

            view.CopyFromCPU(stream, [1, 2, 3, 4]);
            other.CopyFrom(stream, view);
            other.SubView(1, 2).MemSet(stream, 0);
            var back = new float[4];
            other.CopyToCPU(stream, back);

            Assert.Equal([1, 0, 0, 4], back);
            Assert.Equal((4, 16), (view.Length, view.LengthInBytes));
        }

        Assert.Equal([7, 7, 1, 2, 3, 4, 7, 7, 1, 0, 0, 4, 7, 7, 7, 7], new Span<float>(memory, 16));
        NativeMemory.AlignedFree(memory);
    });

    [Fact]
    public void A_view_begins_at_a_multiple_of_its_element() => WithDevice(device =>
    {
        var error = Assert.Throws<ArgumentException>(() => device.View<double>(4100, 1));
        Assert.Contains("0x1004 is no multiple of Double's 8 bytes", error.Message, StringComparison.Ordinal);
        Assert.Equal(3, device.View<float>(4100, 3).Length);
    });

    [Fact]
    public void A_buffer_takes_no_more_than_it_holds() => WithDevice(device =>
    {
        using var buffer = new IlgpuBuffer<int>(device, 3, "test");
        using var none = new IlgpuBuffer<int>(device, 0, "test");

        buffer.CopyFrom([1, 2, 3], 0, "test");
        none.CopyFrom([], 0, "test");
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.CopyFrom([4, 4, 4, 4], 0, "test"));

        using var scope = device.Enter();
        var back = new int[3];
        buffer.View.CopyToCPU(device.Stream(0), back);
        Assert.Equal([1, 2, 3], back);
    });

    [Fact]
    public void Algorithms_work_on_foreign_memory() => WithDevice(device =>
    {
        int[] values = [.. Enumerable.Range(1, 100)];
        var sums = new int[100];
        fixed (int* input = values)
        fixed (int* output = sums)
        {
            using var scope = device.Enter();
            var stream = device.Stream(0);
            var scan = device.Keep(
                static accelerator => accelerator.CreateScan<int, Stride1D.Dense, Stride1D.Dense, AddInt32>(ScanKind.Inclusive));
            var size = device.Accelerator.ComputeScanTempStorageSize<int>(100);
            using var temporary = device.Accelerator.Allocate1D<int>(size);
            scan(stream, Dense(device, input), Dense(device, output), temporary.View);
            stream.Synchronize();

            Assert.Equal(5050, device.Accelerator.Reduce<int, AddInt32>(stream, device.View<int>((nint)input, 100)));
        }

        Assert.Equal(Enumerable.Range(1, 100).Select(i => i * (i + 1) / 2), sums);

        static ArrayView1D<int, Stride1D.Dense> Dense(IlgpuDevice device, int* address) =>
            new(device.View<int>((nint)address, 100), 100, default);
    });

    [Fact]
    public void A_kernel_is_compiled_once_and_kept() => WithDevice(device =>
    {
        var first = device.Kernel<Action<AcceleratorStream, KernelConfig, ArrayView<EmaStep>, int, EmaSteps>>(EmaKernel.SetSteps, 4);
        var second = device.Kernel<Action<AcceleratorStream, KernelConfig, ArrayView<EmaStep>, int, EmaSteps>>(EmaKernel.SetSteps, 4);

        Assert.Same(first, second);
        Assert.Same(Made(), Made());

        object Made() => device.Keep(static _ => new object());
    });

    [Fact]
    public void What_could_not_be_made_is_tried_again() => WithDevice(device =>
    {
        var fails = true;
        Assert.Throws<InvalidOperationException>(() => Make());
        fails = false;
        Assert.Equal("made", Make());

        string Make() => device.Keep(_ => fails ? throw new InvalidOperationException() : "made");
    });

    [Fact]
    public void The_cpu_accelerator_is_reached_within_the_switch_only()
    {
        var reason = Assert.Throws<BackendUnavailableException>(() => IlgpuDevice.Of(AuxDevice.Host, "test")).Reason;
        Assert.Contains("the memory is on the host", reason, StringComparison.Ordinal);

        Assert.Throws<InvalidOperationException>(() => IlgpuBackend.WithCpu(() =>
        {
            Assert.True(IlgpuBackend.IsOnCpu);
            Assert.True(EmaUpdate.IsSupported(AuxBackend.Ilgpu, out var none), none);
            var elsewhere = true;
            var thread = new Thread(() => elsewhere = IlgpuBackend.IsOnCpu);
            thread.Start();
            thread.Join();
            Assert.False(elsewhere);
            throw new InvalidOperationException();
        }));

        Assert.False(IlgpuBackend.IsOnCpu);
    }

    [Fact]
    public void An_application_that_has_a_resolver_on_ILGPU_is_told_so()
    {
        var assembly = typeof(CsCheck.Gen).Assembly; // stands for ILGPU's, which has AuxCore's in this process
        Assert.True(IlgpuDriver.TrySetResolver(assembly, 0, out var none));
        Assert.Empty(none);

        Assert.False(IlgpuDriver.TrySetResolver(assembly, 0, out var reason));

        Assert.Contains("has set a DllImport resolver for CsCheck", reason, StringComparison.Ordinal);
        Assert.Contains("Remove that resolver", reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_context_of_ILGPUs_own_is_refused()
    {
        IlgpuDevice.RequirePrimary(0x22, 0x22, "test");

        var error = Assert.Throws<BackendUnavailableException>(() => IlgpuDevice.RequirePrimary(0x11, 0x22, "test"));

        Assert.Contains("a CUDA context of its own", error.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void Errors_of_ILGPU_become_ours()
    {
        // Those of the driver are in IlgpuCudaTests: ILGPU asks the driver for their text.
        var compiler = IlgpuContext.Translate("Op", new InternalCompilerException("too hard"));
        Assert.Contains("Op: ILGPU failed: too hard", Assert.IsType<AuxException>(compiler).Message, StringComparison.Ordinal);
        Assert.Null(IlgpuContext.Translate("Op", new ArgumentException("mine")));
        Assert.Null(IlgpuContext.Translate("Op", new AuxException("Op", "mine")));
    }

    private static void WithDevice(Action<IlgpuDevice> action) =>
        IlgpuBackend.WithCpu(() => action(IlgpuDevice.Of(AuxDevice.Host, "test")));
}

/// <summary>The switch that trimmed applications set; it is the whole process's.</summary>
[Collection(ProcessWide.Name)]
public class IlgpuSwitchTests
{
    [Fact]
    public void Where_the_switch_is_off_the_backend_says_why()
    {
        AppContext.SetSwitch("AuxCore.Ilgpu.IsSupported", false);
        try
        {
            Assert.False(EmaUpdate.IsSupported(AuxBackend.Ilgpu, out var reason));
            Assert.Contains("trimmed or compiled ahead of time", reason, StringComparison.Ordinal);
            var error = Assert.Throws<BackendUnavailableException>(() => EmaUpdate.Run(new float[1], new float[1], 0.5, AuxBackend.Ilgpu));
            Assert.Equal(reason, error.Reason);
            Assert.False(AuxRuntime.IsAvailable(AuxBackend.Ilgpu, out var same));
            Assert.Equal(reason, same);
        }
        finally
        {
            AppContext.SetSwitch("AuxCore.Ilgpu.IsSupported", true);
        }
    }
}
