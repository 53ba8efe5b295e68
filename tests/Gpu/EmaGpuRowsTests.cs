using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using AuxCore.Bench.Cases;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;

namespace AuxCore.Tests.Gpu;

/// <summary>
/// Rows for the results of a GPU run (bench/gpu): <see cref="EmaGroup"/> on device buffers, by CUDA and by ILGPU in the same rounds. Runs
/// only where the run asks for rows. The stand-in driver gets small tensors, and only CUDA: it records ILGPU's kernels and does not run them.
/// </summary>
[Collection(ProcessWide.Name)]
public class EmaGpuRowsTests
{
    private const string FolderVariable = "AUXCORE_GPU_ROWS";
    private const double Decay = 0.999;
    private const int Calls = 20; // between two synchronisations

    [Theory]
    [InlineData("many-small-2000x256", 2000, 256)]
    [InlineData("one-100m", 1, 100_000_000)]
    public void EmaGroup_is_right_on_a_device_and_gives_its_times(string name, int tensors, int elements)
    {
        var folder = Environment.GetEnvironmentVariable(FolderVariable);
        Assert.SkipUnless(folder is { Length: > 0 }, $"{FolderVariable} names no folder; a GPU run sets it");
        CudaDriver.Require();
        if (IsStandin())
            (tensors, elements) = (Math.Min(tensors, 20), Math.Min(elements, 1000));

        var backends = Backends();
        using var data = new DeviceTensors(tensors, elements);
        var errors = backends.ToDictionary(backend => backend, data.Update);
        Assert.All(errors, error => Assert.InRange(error.Value, 0, Tolerances.EmaUpdateUlps));

        var timing = PairedTimer.Run(
            [.. backends.Select(backend => new TimedArm($"AuxCore on {backend}", () => data.Repeat(backend, Calls)))],
            new() { Rounds = 30, MinRounds = 5, MaxSeconds = 2, WarmUp = TimeSpan.FromMilliseconds(100) },
            cancellation: TestContext.Current.CancellationToken);

        var rows = backends.Select(backend => Row(name, backend, backends, timing, errors[backend], 12L * tensors * elements)).ToArray();
        File.WriteAllText(Path.Combine(folder, $"dotnet-{name}.json"), new JsonArray(rows).ToJsonString(ResultsFile.Json));
    }

    private static AuxBackend[] Backends()
    {
        if (IsStandin())
            return [AuxBackend.Cuda];
        Assert.True(AuxRuntime.IsAvailable(AuxBackend.Ilgpu, out var reason), $"no ILGPU on this GPU: {reason}");
        return [AuxBackend.Cuda, AuxBackend.Ilgpu];
    }

    // Also where the stand-in is found as the machine's own driver, as in a dry run.
    private static bool IsStandin() =>
        NativeLibrary.TryLoad("libcuda.so.1", out var driver) && NativeLibrary.TryGetExport(driver, "auxcore_standin", out _);

    private static JsonNode? Row(string name, AuxBackend backend, AuxBackend[] all, PairedResult timing, double error, long bytes)
    {
        var ours = $"AuxCore on {backend}";
        var time = timing.Time(ours).Scale(1e-3 / Calls);
        var result = new CaseResult
        {
            Path = "ema",
            Case = $"{name}-dotnet",
            Backend = backend.ToString().ToLowerInvariant(),
            DType = "f32",
            Threads = 1,
            OursUs = time,
            Baselines =
            [
                .. all.Where(other => other != backend).Select(other => $"AuxCore on {other}").Select(other => new BaselineResult(
                    other, BaselineKind.Other, timing.Time(other).Scale(1e-3 / Calls), timing.Ratio(other, ours))),
            ],
            Bytes = bytes,
            GbPerS = bytes / time.Median / 1e3,
            MaxError = error,
            Verified = true,
        };
        var row = JsonSerializer.SerializeToNode(result, ResultsFile.Json);
        row!["clock"] = "wall";
        return row;
    }

    /// <summary>Sources and averages in device memory, and the group of them.</summary>
    private sealed class DeviceTensors : IDisposable
    {
        private readonly float[] _before, _source;
        private readonly DeviceBuffer<float> _averages, _sources;
        private readonly EmaGroup _group;
        private readonly CudaStream _stream = CudaStream.Default();

        public DeviceTensors(int tensors, int elements)
        {
            var random = new Random(1);
            (_before, _source) = (new float[tensors * elements], new float[tensors * elements]);
            foreach (ref var value in _before.AsSpan())
                value = random.NextSingle() - 0.5f;
            foreach (ref var value in _source.AsSpan())
                value = random.NextSingle() - 0.5f;
            (_averages, _sources) = (DeviceBuffer.CopyOf<float>(_before), DeviceBuffer.CopyOf<float>(_source));
            _group = EmaGroup.FromViews(Views(_sources, tensors, elements), Views(_averages, tensors, elements));
        }

        /// <summary>One update of fresh averages; the largest error in ulps.</summary>
        public double Update(AuxBackend backend)
        {
            _averages.CopyFrom(_before);
            Repeat(backend, 1);
            var after = _averages.ToArray();
            var (weight, worst) = ((float)(1 - Decay), 0.0);
            for (var i = 0; i < after.Length; i++)
            {
                var expected = _before[i] + (double)weight * ((double)_source[i] - _before[i]);
                var scale = MathF.Max(MathF.Abs(_before[i]), MathF.Abs(_source[i]));
                worst = Math.Max(worst, Math.Abs(after[i] - expected) / (MathF.BitIncrement(scale) - (double)scale));
            }

            return worst;
        }

        public void Repeat(AuxBackend backend, int calls)
        {
            for (var call = 0; call < calls; call++)
                _group.Update(Decay, backend, _stream);
            _stream.Synchronize();
        }

        public void Dispose()
        {
            _group.Dispose();
            _averages.Dispose();
            _sources.Dispose();
            _stream.Dispose();
        }

        private static TensorView[] Views(DeviceBuffer<float> buffer, int tensors, int elements) =>
            [.. Enumerable.Range(0, tensors).Select(i => buffer.ViewAt((long)i * elements, elements))];
    }
}
