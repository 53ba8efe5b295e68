using System.Runtime.InteropServices;
using System.Text.Json;
using AuxCore.Bench.Measurement;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;

namespace AuxCore.Tests.Ilgpu;

/// <summary>
/// EmaUpdate on Ilgpu against Cuda, timed on a device: the rows that <c>bench/gpu/run</c> takes into its table. Nothing depends on how fast
/// either is, but that both give the same bits. Alone in the process, as every timing.
/// </summary>
[Collection(ProcessWide.Name)]
public class IlgpuTimingTests
{
    private const string Variable = "AUXCORE_GPU_ROWS";
    private const int Calls = 20; // in a row, between two waits for the device

    [Fact]
    public void EmaUpdate_is_timed_against_the_Cuda_backend()
    {
        var folder = Environment.GetEnvironmentVariable(Variable);
        Assert.SkipWhen(string.IsNullOrEmpty(folder), $"{Variable} does not name a folder for figures");
        CudaDriver.Require();
        Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled, and has no speed");

        object[] rows =
        [
            Row<float>("many-small-2000x256", "f32", 256, 2000),
            Row<float>("one-100m", "f32", 100_000_000, 1),
            Row<BFloat16>("bf16-source-100m", "bf16 to f32", 100_000_000, 1),
        ];

        File.WriteAllText(Path.Combine(folder, "ilgpu-ema.json"), JsonSerializer.Serialize(rows, AuxCore.Bench.Output.ResultsFile.Json));
    }

    private static unsafe object Row<T>(string name, string dtype, int length, int tensors) where T : unmanaged
    {
        var elements = (long)length * tensors;
        using var sources = DeviceBuffer.Allocate<T>(elements);
        using var onCuda = DeviceBuffer.Allocate<float>(elements);
        using var onIlgpu = DeviceBuffer.Allocate<float>(elements);
        using var stream = CudaStream.Create();
        sources.FillBytes(0x3E, stream); // 0.186 as float32, 0.186 as bfloat16
        onCuda.FillBytes(0, stream);
        onIlgpu.FillBytes(0, stream);
        using var cuda = Group(onCuda);
        using var ilgpu = Group(onIlgpu);

        var timing = PairedTimer.Run(
            [new("AuxCore on Cuda", () => Update(cuda, AuxBackend.Cuda)), new("AuxCore on Ilgpu", () => Update(ilgpu, AuxBackend.Ilgpu))],
            new TimingOptions { Rounds = 60, MaxSeconds = 3, WarmUp = TimeSpan.FromMilliseconds(50) });

        onCuda.FillBytes(0, stream);
        onIlgpu.FillBytes(0, stream);
        Update(cuda, AuxBackend.Cuda);
        Update(ilgpu, AuxBackend.Ilgpu);
        Assert.True(
            MemoryMarshal.AsBytes(onCuda.ToArray(stream).AsSpan()).SequenceEqual(MemoryMarshal.AsBytes(onIlgpu.ToArray(stream).AsSpan())),
            $"{name}: other bits than those of Cuda");

        const double Microseconds = 1e-3 / Calls;
        var (ours, baseline) = (timing.Time("AuxCore on Ilgpu").Scale(Microseconds), timing.Time("AuxCore on Cuda").Scale(Microseconds));
        var speedup = timing.Ratio("AuxCore on Cuda", "AuxCore on Ilgpu");
        var bytes = elements * (sizeof(T) + 8);
        return new
        {
            Path = "ema",
            Case = name,
            Backend = "ilgpu",
            Dtype = dtype,
            Threads = 1,
            OursUs = ours,
            Baselines = new[]
            {
                new { Name = "AuxCore on Cuda", Kind = "best", Us = baseline, Speedup = speedup },
            },
            Bytes = bytes,
            GbPerS = bytes / ours.Median / 1e3,
            MaxError = 0.0,
            Verified = true,
            Clock = "wall",
            Note = $"wall time of {Calls} calls and one wait, from .NET; the bits of Cuda",
        };

        EmaGroup Group(DeviceBuffer<float> averages) => EmaGroup.FromViews(
            [.. Enumerable.Range(0, tensors).Select(i => sources.ViewAt((long)i * length, length))],
            [[.. Enumerable.Range(0, tensors).Select(i => averages.ViewAt((long)i * length, length))]]);

        void Update(EmaGroup group, AuxBackend backend)
        {
            for (var i = 0; i < Calls; i++)
                group.Update(0.999, backend, stream);
            stream.Synchronize();
        }
    }
}
