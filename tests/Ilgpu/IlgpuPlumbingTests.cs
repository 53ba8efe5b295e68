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
    public void Bytes_that_are_no_whole_element_are_left_out() => WithDevice(device =>
    {
        using var memory = new ForeignMemory(device.Accelerator, 4096, 11);

        Assert.Equal((11, 2, 1), (memory.View<byte>().Length, memory.View<float>().Length, memory.View<double>().Length));
        Assert.Throws<OverflowException>(() => device.View<double>(4096, long.MaxValue));
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
            var scan = device.Accelerator.CreateScan<int, Stride1D.Dense, Stride1D.Dense, AddInt32>(ScanKind.Inclusive);
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
    public void A_kernel_is_compiled_once() => WithDevice(device =>
    {
        var first = device.Kernel<Action<AcceleratorStream, KernelConfig, ArrayView<EmaStep>, int, EmaSteps>>(EmaKernel.SetSteps, 4);
        var second = device.Kernel<Action<AcceleratorStream, KernelConfig, ArrayView<EmaStep>, int, EmaSteps>>(EmaKernel.SetSteps, 4);

        Assert.Same(first, second);
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
        }
        finally
        {
            AppContext.SetSwitch("AuxCore.Ilgpu.IsSupported", true);
        }
    }
}
