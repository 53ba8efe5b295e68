using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using ILGPU;
using ILGPU.Algorithms;
using ILGPU.Algorithms.ScanReduceOperations;
using CudaStream = AuxCore.Interop.CudaStream;

namespace AuxCore.Tests.Ilgpu;

/// <summary>
/// ILGPU through the stand-in driver, in the primary context. The stand-in records launches of kernels that it does not have; their PTX is
/// run by the interpreter, on the stand-in's memory and with the parameters that were recorded.
/// </summary>
[Collection(ProcessWide.Name)]
public class IlgpuCudaTests
{
    private static readonly AuxDevice Cuda = new(AuxDeviceKind.Cuda);

    private static readonly Lazy<string> Update = new(() => IlgpuPtx.Compile(EmaKernel.EmaUpdate, EmaKernel.Threads, 8));

    private static readonly Lazy<string> SetSteps = new(() => IlgpuPtx.Compile(EmaKernel.SetSteps, EmaSteps.Count, 8));

    public IlgpuCudaTests()
    {
        CudaDriver.RequireStandin();
        Assert.SkipUnless(AuxRuntime.IsAvailable(AuxBackend.Ilgpu, out var reason), $"no ILGPU here: {reason}");
    }

    [Fact]
    public void ILGPU_works_in_the_primary_context_and_gives_it_back()
    {
        using var buffer = DeviceBuffer.Allocate<float>(1); // the primary context exists
        var (before, created) = (CudaDriver.State, StandinLaunch.CreatedContexts);

        using (var device = IlgpuDevice.Open(0, "test"))
        {
            Assert.Equal(before.RetainedContexts + 1, CudaDriver.State.RetainedContexts);
            var primary = IlgpuDriver.RetainPrimaryContext(0);
            IlgpuDriver.ReleasePrimaryContext(0);
            Assert.Equal(primary, device.Accelerator.NativePtr);
            using (device.Enter())
                Assert.Equal(primary, IlgpuDriver.CurrentContext());
        }

        Assert.Equal((before, created), (CudaDriver.State, StandinLaunch.CreatedContexts));
    }

    [Fact]
    public void A_device_is_opened_once_by_however_many_threads()
    {
        _ = IlgpuDevice.Of(Cuda, "test");
        var before = CudaDriver.State.RetainedContexts;
        var devices = new IlgpuDevice[8];

        Parallel.For(0, devices.Length, i => devices[i] = IlgpuDevice.Of(Cuda, "test"));

        Assert.All(devices, device => Assert.Same(devices[0], device));
        Assert.Equal(before, CudaDriver.State.RetainedContexts);
    }

    [Fact]
    public void A_device_that_is_not_there_is_refused()
    {
        var before = CudaDriver.State;

        var error = Assert.Throws<BackendUnavailableException>(() => IlgpuDevice.Of(new(AuxDeviceKind.Cuda, 99), "EmaUpdate"));

        Assert.Equal(AuxBackend.Ilgpu, error.Backend);
        Assert.Contains("cuda:99", error.Reason, StringComparison.Ordinal);
        Assert.Equal(before, CudaDriver.State);
    }

    [Fact]
    public void An_update_is_one_launch_over_a_table_on_the_device()
    {
        // Nine pieces of 4,096 elements, and one of another tensor: ten warps, of which a block has eight.
        using var source = DeviceBuffer.CopyOf<float>(new float[40_000]);
        using var average = DeviceBuffer.CopyOf<float>(new float[40_000]);
        using var stream = CudaStream.Create();
        using var group = EmaGroup.FromViews(
            [source.ViewAt(0, 9 * 4096), source.ViewAt(39_000, 5)], [[average.ViewAt(0, 9 * 4096), average.ViewAt(39_001, 5)]]);

        group.Update(0.75, AuxBackend.Ilgpu, stream);

        stream.Synchronize();
        var launch = StandinLaunch.Last();
        Assert.Equal(("Kernel_EmaUpdate", 2u, 256u, stream.Handle), (launch.Kernel, launch.Grid, launch.Block, launch.Stream));
        var parameters = MemoryMarshal.Cast<byte, long>(launch.Parameters);
        Assert.Equal([0, 0, 0, 0], (long[])[parameters[0], parameters[2], parameters[4], parameters[6]]); // all memory, from address 0
        Assert.Equal((10, 10, 1), (parameters[9], parameters[11], parameters[13]));
        var pieces = StandinLaunch.Peek<EmaPiece>((nint)parameters[8], 10);
        var averages = StandinLaunch.Peek<long>((nint)parameters[10], 10);
        Assert.Equal(new EmaPiece(source.Address + 4096 * 4, 4096, 0, (ushort)DType.Float32), pieces[1]);
        Assert.Equal(average.Address + 4096 * 4, averages[1]);
        Assert.Equal(new EmaPiece(source.Address + 39_000 * 4, 5, EmaKernel.NoVectors, (ushort)DType.Float32), pieces[9]);
        Assert.Equal(average.Address + 39_001 * 4, averages[9]);
    }

    [Theory]
    [InlineData(7, 1)]
    [InlineData(8, 1)]
    [InlineData(9, 2)]
    public void A_block_takes_eight_pieces(int tensors, uint blocks)
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[32]);
        using var group = EmaGroup.FromViews(
            [.. Enumerable.Range(0, tensors).Select(i => memory.ViewAt(i, 1))],
            [[.. Enumerable.Range(0, tensors).Select(i => memory.ViewAt(16 + i, 1))]]);

        group.Update(0.5, AuxBackend.Ilgpu);

        CudaStream.Default().Synchronize();
        Assert.Equal(("Kernel_EmaUpdate", blocks), (StandinLaunch.Last().Kernel, StandinLaunch.Last().Grid));
    }

    [Fact]
    public void The_default_stream_is_the_legacy_one()
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[2]);
        using var group = EmaGroup.FromViews([memory.ViewAt(0, 1)], [[memory.ViewAt(1, 1)]]);

        group.Update(0.5, AuxBackend.Ilgpu);

        CudaStream.Default().Synchronize();
        Assert.Equal(("Kernel_EmaUpdate", 0), (StandinLaunch.Last().Kernel, StandinLaunch.Last().Stream));
    }

    [Fact]
    public void What_is_launched_updates_device_memory_as_the_Cpu_backend_does()
    {
        var random = new Random(9);
        var values = Enumerable.Range(0, 5000).Select(_ => (float)(random.NextDouble() - 0.5)).ToArray();
        var (expected, slow) = (values.Reverse().ToArray(), (float[])values.Clone());
        using var source = DeviceBuffer.CopyOf<BFloat16>([.. values.Select(value => (BFloat16)value)]);
        using var first = DeviceBuffer.CopyOf<float>(expected);
        using var second = DeviceBuffer.CopyOf<float>(slow);
        using var group = EmaGroup.FromViews([source.View(5000)], [first.View(5000)], [second.View(5000)]);

        foreach (var decays in (double[][])[[0.5, 0.999], [0.25, 0.999]])
        {
            group.Update(decays, AuxBackend.Ilgpu);
            CudaStream.Default().Synchronize();
            var update = StandinLaunch.Last();
            Steps(update, decays).Run(SetSteps.Value);
            update.Run(Update.Value);

            EmaUpdate.Run(expected, [.. values.Select(value => (BFloat16)value)], decays[0], AuxBackend.Cpu);
            EmaUpdate.Run(slow, [.. values.Select(value => (BFloat16)value)], decays[1], AuxBackend.Cpu);
        }

        Assert.Equal(Ema.EmaUpdateTests.Bits(expected), Ema.EmaUpdateTests.Bits(first.ToArray()));
        Assert.Equal(Ema.EmaUpdateTests.Bits(slow), Ema.EmaUpdateTests.Bits(second.ToArray()));

        // The launch before the last is not recorded any more: the same with what the kernel takes.
        static StandinLaunch Steps(StandinLaunch update, double[] decays)
        {
            var parameters = new byte[56];
            update.Parameters.AsSpan(96, 16).CopyTo(parameters); // the steps' view
            for (var k = 0; k < decays.Length; k++)
            {
                var step = EmaStep.Of(decays[k]);
                MemoryMarshal.Write(parameters.AsSpan(20 + 8 * k), step);
            }

            return update with { Kernel = "Kernel_SetSteps", Grid = 1, Block = (uint)EmaSteps.Count, Parameters = parameters[..52] };
        }
    }

    [Fact]
    public void A_launch_that_writes_decays_carries_them()
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[64]);
        using var group = EmaGroup.FromViews([memory.ViewAt(0, 0)], [memory.ViewAt(1, 0)], [memory.ViewAt(2, 0)]);

        group.Update([0.25, 0.999], AuxBackend.Ilgpu); // no elements: the launch of the decays is the last

        CudaStream.Default().Synchronize();
        var launch = StandinLaunch.Last();
        Assert.Equal(("Kernel_SetSteps", 1u, (uint)EmaSteps.Count), (launch.Kernel, launch.Grid, launch.Block));
        Assert.Equal(2, MemoryMarshal.Read<long>(launch.Parameters.AsSpan(8)));
        Assert.Equal(0, MemoryMarshal.Read<int>(launch.Parameters.AsSpan(16)));
        Assert.Equal([EmaStep.Of(0.25), EmaStep.Of(0.999)], MemoryMarshal.Cast<byte, EmaStep>(launch.Parameters.AsSpan(20, 16)));
    }

    [Fact]
    public void A_repeated_update_waits_for_nothing_and_copies_nothing()
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[64]);
        using var stream = CudaStream.Create();
        using var group = EmaGroup.FromViews([memory.ViewAt(0, 9)], [[memory.ViewAt(20, 9)]]);
        group.Update(0.5, AuxBackend.Ilgpu, stream);
        stream.Synchronize();
        var (calls, pending) = (CudaDriver.Calls, CudaDriver.State.Pending);

        group.Update(0.5, AuxBackend.Ilgpu, stream);

        // A launch; two calls before it and three after it take care of the thread's contexts.
        Assert.Equal((calls + 6, pending + 1), (CudaDriver.Calls, CudaDriver.State.Pending));
        group.Update(0.25, AuxBackend.Ilgpu, stream); // and one launch more, for the decay
        Assert.Equal((calls + 13, pending + 3), (CudaDriver.Calls, CudaDriver.State.Pending));
    }

    [Fact]
    public void Repeated_updates_allocate_next_to_nothing_on_the_host()
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[64]);
        using var group = EmaGroup.FromViews([memory.ViewAt(0, 9)], [[memory.ViewAt(20, 9)]]);
        group.Update(0.5, AuxBackend.Ilgpu);
        var before = GC.GetAllocatedBytesForCurrentThread();

        for (var i = 0; i < 100; i++)
            group.Update(0.5, AuxBackend.Ilgpu);

        Assert.InRange((GC.GetAllocatedBytesForCurrentThread() - before) / 100, 0, 256);
    }

    [Fact]
    public void What_a_group_keeps_on_the_device_goes_with_it()
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[64]);
        var before = CudaDriver.State;
        for (var i = 0; i < 3; i++)
        {
            using var group = EmaGroup.FromViews([memory.ViewAt(0, 9)], [[memory.ViewAt(20, 9)]]);
            group.Update(0.5, AuxBackend.Ilgpu);
            Assert.Equal(before.Allocations + 3, CudaDriver.State.Allocations);
            group.Update(0.5, AuxBackend.Cuda); // another backend keeps another table, and this one goes
            group.Update(0.5, AuxBackend.Ilgpu);
            Assert.Equal(before.Allocations + 3, CudaDriver.State.Allocations);
        }

        Assert.Equal(
            (before.Allocations, before.AllocatedBytes, before.PushedContexts),
            (CudaDriver.State.Allocations, CudaDriver.State.AllocatedBytes, CudaDriver.State.PushedContexts));
    }

    [Fact]
    public void A_group_that_nobody_disposed_is_freed_by_the_collector()
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[64]);
        OnNewThread(Lose); // this thread holds nothing of it
        var before = CudaDriver.State;
        OnNewThread(Lose);

        for (var i = 0; i < 20 && CudaDriver.State.Allocations > before.Allocations; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }

        Assert.InRange(CudaDriver.State.Allocations, 0, before.Allocations);

        void Lose()
        {
            var group = EmaGroup.FromViews([memory.ViewAt(0, 9)], [[memory.ViewAt(20, 9)]]);
            group.Update(0.5, AuxBackend.Ilgpu);
        }
    }

    [Fact]
    public unsafe void Addresses_that_are_not_the_devices_are_refused()
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[8]);
        var host = stackalloc float[] { 1, 2 };
        var onHost = TensorView.FromPointer(host, DType.Float32, [2], device: Cuda);
        var tooLong = TensorView.FromPointer((float*)memory.Address + 7, DType.Float32, [2], device: Cuda, owner: memory);
        var odd = TensorView.FromPointer((byte*)memory.Address + 2, DType.Float32, [1], device: Cuda, owner: memory);
        using var other = DeviceBuffer.Allocate<float>(2);
        using var elsewhere = DeviceBuffer.Allocate<float>(2, Math.Min(1, CudaDevice.Count - 1));
        var onOther = TensorView.FromPointer((void*)elsewhere.Address, DType.Float32, [2], device: Cuda, owner: elsewhere);
        var before = CudaDriver.State;

        Refused("averages[0][0]: ", "is not device memory", () => EmaUpdate.Run(onHost, memory.ViewAt(0, 2), 0.5, AuxBackend.Ilgpu));
        Refused("sources[0]: ", "is not device memory", () => EmaUpdate.Run(memory.ViewAt(0, 2), onHost, 0.5, AuxBackend.Ilgpu));
        Refused("sources[0]: ", "where it ends", () => EmaUpdate.Run(other.View(2), tooLong, 0.5, AuxBackend.Ilgpu));
        if (elsewhere.Device.Index == 1)
            Refused("sources[0]: ", "is memory of cuda:1", () => EmaUpdate.Run(memory.ViewAt(0, 2), onOther, 0.5, AuxBackend.Ilgpu));
        Refused("sources[0]: ", "is not aligned", () => EmaUpdate.Run(memory.ViewAt(2, 1), odd, 0.5, AuxBackend.Ilgpu));
        Assert.Contains("the tensors are on cpu",
            Assert.Throws<BackendUnavailableException>(() => EmaUpdate.Run(new float[1], new float[1], 0.5, AuxBackend.Ilgpu)).Message,
            StringComparison.Ordinal);

        Assert.Equal((1, 2), (host[0], host[1]));
        Assert.Equal(before, CudaDriver.State);

        static void Refused(string name, string reason, Action action)
        {
            var error = Assert.Throws<ArgumentException>(action);
            Assert.StartsWith(name, error.Message, StringComparison.Ordinal);
            Assert.Contains(reason, error.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Algorithms_are_launched_in_the_primary_context()
    {
        using var buffer = DeviceBuffer.CopyOf<int>(new int[1000]);
        using var stream = CudaStream.Create();
        var device = IlgpuDevice.Of(Cuda, "test");
        using (device.Enter())
        {
            var on = device.Stream(stream.Handle);
            using var sum = device.Accelerator.Allocate1D<int>(1);
            var reduce = device.Keep(static accelerator => accelerator.CreateReduction<int, Stride1D.Dense, AddInt32>());
            reduce(on, new(device.View<int>(buffer.Address, 1000), 1000, default), sum.View);
            on.Synchronize();

            var launch = StandinLaunch.Last();
            Assert.Equal(stream.Handle, launch.Stream);
            var words = MemoryMarshal.Cast<byte, nint>(launch.Parameters.AsSpan(0, launch.Parameters.Length / 8 * 8));
            Assert.Contains(buffer.Address, words.ToArray());
        }
    }

    [Fact]
    public void Groups_of_several_threads_do_not_disturb_each_other()
    {
        using var memory = DeviceBuffer.CopyOf<float>(new float[64]);
        var before = CudaDriver.State;

        Parallel.For(0, 8, i =>
        {
            var depth = CudaDriver.State.PushedContexts;
            using var stream = CudaStream.Create();
            using var average = DeviceBuffer.CopyOf<float>(new float[64]);
            using var group = EmaGroup.FromViews([memory.View(64)], [[average.View(64)]]);
            for (var round = 0; round < 10; round++)
                group.Update(1.0 / (1 + i + round), AuxBackend.Ilgpu, stream);
            stream.Synchronize();
            Assert.Equal(depth, CudaDriver.State.PushedContexts);
        });

        Assert.Equal(before.Allocations, CudaDriver.State.Allocations);
    }

    [Theory]
    [InlineData("1", true)]
    [InlineData(null, false)]
    public void Launches_are_waited_for_where_asked(string? variable, bool waits)
    {
        Environment.SetEnvironmentVariable(CudaContext.SynchronousVariable, variable);
        using var device = IlgpuDevice.Open(0, "test");
        Environment.SetEnvironmentVariable(CudaContext.SynchronousVariable, null);
        using var stream = CudaStream.Create();
        using var buffer = DeviceBuffer.Allocate<byte>(64);
        buffer.FillBytes(1, stream); // stands for a launch
        var pending = CudaDriver.State.Pending;

        using (device.Enter())
            device.AfterLaunch(device.Stream(stream.Handle));

        Assert.Equal(waits ? pending - 1 : pending, CudaDriver.State.Pending);
        stream.Synchronize();
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
