using System.Diagnostics.Metrics;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;

namespace AuxCore.Tests.Interop;

[Collection(ProcessWide.Name)]
public class AuxRuntimeTests
{
    [Fact]
    public void Host_backends_are_available_and_the_others_say_why_not()
    {
        foreach (var backend in (AuxBackend[])[AuxBackend.Auto, AuxBackend.Cpu, AuxBackend.Reference])
        {
            Assert.True(AuxRuntime.IsAvailable(backend, out var none));
            Assert.Empty(none);
        }

        foreach (var backend in (AuxBackend[])[AuxBackend.Cuda, AuxBackend.Ilgpu])
            Assert.Equal(AuxRuntime.IsAvailable(backend, out var reason), reason.Length == 0);
        Assert.Throws<ArgumentOutOfRangeException>(() => AuxRuntime.IsAvailable((AuxBackend)42, out _));
    }

    [Fact]
    public void Describe_names_backends_settings_and_what_ran()
    {
        EmaUpdate.Run(new float[1], new float[1], 0.5, AuxBackend.Reference);
        using var setting = new EnvironmentVariable("AUXCORE_BACKEND", "cpu");

        var text = AuxRuntime.Describe();

        Assert.Contains("Cpu             available", text, StringComparison.Ordinal);
        Assert.Matches("Cuda            (available|not available: .+)\n", text);
        Assert.Contains("AUXCORE_BACKEND cpu", text, StringComparison.Ordinal);
        Assert.Matches(@"EmaUpdate\s+\d+ calls on Reference", text);
    }

    [Fact]
    public void The_environment_overrides_Auto_and_nothing_else()
    {
        var calls = Calls(AuxBackend.Reference);
        using (new EnvironmentVariable("AUXCORE_BACKEND", "reference"))
        {
            EmaUpdate.Run(new float[1], new float[1], 0.5);
            EmaUpdate.Run(new float[1], new float[1], 0.5, AuxBackend.Cpu);
        }

        Assert.Equal(calls + 1, Calls(AuxBackend.Reference));
    }

    [Theory]
    [InlineData("gpu")]
    [InlineData("1")]
    public void An_override_that_names_no_backend_is_refused(string value)
    {
        using var setting = new EnvironmentVariable("AUXCORE_BACKEND", value);

        var error = Assert.Throws<AuxException>(() => EmaUpdate.Run(new float[1], new float[1], 0.5));

        Assert.Contains($"'{value}'", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_override_that_cannot_run_is_refused()
    {
        using var setting = new EnvironmentVariable("AUXCORE_BACKEND", "cuda");

        Assert.Throws<BackendUnavailableException>(() => EmaUpdate.Run(new float[1], new float[1], 0.5));
    }

    [Fact]
    [RequiresLibtorch]
    public void An_override_that_cannot_run_does_not_touch_a_named_backend()
    {
        using var setting = new EnvironmentVariable("AUXCORE_BACKEND", "cuda");
        using var source = TorchSharp.torch.ones(1);
        using var mixer = EmaMixer.WithOwnAverages([source]);

        mixer.Backend = AuxBackend.Cpu;
        mixer.Update(0.5);
        mixer.Backend = AuxBackend.Auto;

        Assert.Throws<BackendUnavailableException>(() => mixer.Update(0.5));
    }

    [Theory]
    [InlineData(null, 1)]
    [InlineData("", 1)]
    [InlineData("0", 1)]
    [InlineData("-3", 1)]
    [InlineData("many", 1)]
    [InlineData("6", 6)]
    public void The_environment_may_set_the_number_of_threads(string? text, int threads) =>
        Assert.Equal(threads, AuxRuntime.ParseThreads(text));

    [Fact]
    public void Thread_counts_below_one_are_refused() =>
        Assert.Throws<ArgumentOutOfRangeException>(() => AuxRuntime.CpuThreads = 0);

    [Fact]
    public void The_meter_counts_calls_by_op_and_backend()
    {
        EmaUpdate.Run(new float[1], new float[1], 0.5);
        var seen = new List<(long Value, string Tags)>();
        using var listener = new MeterListener();
        listener.InstrumentPublished = (instrument, self) =>
        {
            if (instrument.Meter.Name == "AuxCore")
                self.EnableMeasurementEvents(instrument);
        };
        listener.SetMeasurementEventCallback<long>((_, value, tags, _) =>
            seen.Add((value, string.Join(' ', tags.ToArray().Select(tag => tag.Value)))));
        listener.Start();

        listener.RecordObservableInstruments();

        Assert.Contains(seen, row => row.Tags == "EmaUpdate Cpu" && row.Value == Calls(AuxBackend.Cpu));
    }

    [Theory]
    [InlineData("1", 1)]
    [InlineData("128", 4)]
    [InlineData("256", 8)]
    [InlineData("512", 16)]
    public void The_vector_width_can_be_asked_for(string text, int lanes) => Assert.Equal(lanes, (int)CpuSimd.Parse(text));

    [Fact]
    public void A_vector_width_that_is_none_is_refused() => Assert.Throws<AuxException>(() => CpuSimd.Parse("64"));

    private static long Calls(AuxBackend backend) =>
        OpCounter.Snapshot().Where(row => row.Op == "EmaUpdate" && row.Backend == backend).Sum(row => row.Calls);

    private sealed class EnvironmentVariable : IDisposable
    {
        private readonly string _name;

        public EnvironmentVariable(string name, string value) => Environment.SetEnvironmentVariable(_name = name, value);

        public void Dispose() => Environment.SetEnvironmentVariable(_name, null);
    }
}
