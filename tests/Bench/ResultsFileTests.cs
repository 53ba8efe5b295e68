using System.Text.Json;
using System.Text.Json.Nodes;
using AuxCore.Bench.Cases;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Models;

namespace AuxCore.Tests.Bench;

public sealed class ResultsFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("auxcore").FullName;

    private static readonly BenchResults Sample = new(
        new("Linux", "A <processor>", 2, 25.3, "10.0.1", 512, "2.10.0"),
        "abc1234",
        new(2026, 1, 2, 3, 4, 5, TimeSpan.Zero),
        [
            new()
            {
                Path = "ema", Case = "many-small-2000x256", Backend = "cpu", DType = "f32", Threads = 1, OursUs = new(155, 150, 160),
                Baselines = [new("lerp_ per tensor", BaselineKind.Best, new(1348, 1300, 1400), new(8.8, 8.5, 9.1))],
                Bytes = 6_144_000, GbPerS = 39.6, BandwidthFraction = 1.07, MaxError = 1.2e-7, Verified = true,
            },
            new() { Path = "ema", Case = "wrong", Backend = "cpu", DType = "f32", Threads = 2, Bytes = 12, Failure = "element 3 is off" },
        ]);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void The_names_are_those_of_the_schema()
    {
        JsonNode root = Write();
        Assert.Equal(["machine", "commit", "date", "results"], Names(root));
        Assert.Equal(["os", "cpu", "cores", "ram_gb", "dotnet", "vector_bits", "libtorch"], Names(root["machine"]));

        JsonNode result = root["results"]![0]!;
        string[] expected =
        [
            "path", "case", "backend", "dtype", "threads", "ours_us", "baselines", "bytes", "gb_per_s", "bandwidth_fraction", "max_error",
            "verified",
        ];
        Assert.Equal(expected, Names(result));
        Assert.Equal(expected, Names(root["results"]![1]));
        Assert.Equal(["median", "q1", "q3"], Names(result["ours_us"]));
        Assert.Equal(["name", "kind", "us", "speedup"], Names(result["baselines"]![0]));
        Assert.Equal(["median", "q1", "q3"], Names(result["baselines"]![0]!["us"]));
        Assert.Equal(["median", "q1", "q3"], Names(result["baselines"]![0]!["speedup"]));
    }

    [Fact]
    public void The_values_are_written_as_they_are()
    {
        JsonNode result = Write()["results"]![0]!;
        Assert.Equal("best", (string?)result["baselines"]![0]!["kind"]);
        Assert.Equal(155, (double)result["ours_us"]!["median"]!);
        Assert.Equal(8.5, (double)result["baselines"]![0]!["speedup"]!["q1"]!);
        Assert.Equal(6_144_000, (long)result["bytes"]!);
        Assert.True((bool)result["verified"]!);
    }

    [Fact]
    public void What_was_not_measured_is_null()
    {
        JsonObject result = Write()["results"]![1]!.AsObject();
        Assert.All(["ours_us", "gb_per_s", "bandwidth_fraction", "max_error"], name => Assert.Null(result[name]));
        Assert.Empty(result["baselines"]!.AsArray());
        Assert.False((bool)result["verified"]!);
    }

    [Fact]
    public void Reading_gives_back_what_was_written()
    {
        string path = Path.Combine(_folder, "results.json");
        ResultsFile.Write(path, Sample);
        BenchResults read = ResultsFile.Read(path);
        Assert.Equal(Sample.Machine, read.Machine);
        Assert.Equal((Sample.Commit, Sample.Date), (read.Commit, read.Date));
        Assert.Equal(Sample.Results[0].Baselines, read.Results[0].Baselines);
        Assert.Equal(Sample.Results[0] with { Baselines = [] }, read.Results[0] with { Baselines = [] });
    }

    /// <summary>bench/gpu/tests/test_results.py asserts that bench/gpu/results.py writes exactly this file.</summary>
    [Fact]
    public void What_a_GPU_run_writes_is_read_too()
    {
        string? root = HouseTests.Root();
        Assert.SkipWhen(root is null, "the sources are not beside the tests (they run from an archive)");

        BenchResults read = ResultsFile.Read(Path.Combine(root, "bench", "gpu", "tests", "results-example.json"));

        Assert.Equal(("A processor", 2, 0), (read.Machine.Cpu, read.Machine.Cores, read.Machine.VectorBits));
        Assert.Equal(2, read.Results.Count);
        Assert.Equal(new Quartiles(2, 1.5, 3), read.Results[0].OursUs);
        Assert.Equal(("fast", 0.75), (read.Results[0].Baseline(BaselineKind.Best)!.Name, read.Results[0].Baselines[0].Speedup.Q1));
        Assert.Equal((3000, 1.5, true), (read.Results[0].Bytes, read.Results[0].GbPerS, read.Results[0].Verified));
        Assert.Null(read.Results[1].OursUs);
    }

    [Fact]
    public void Something_else_is_refused()
    {
        string path = Path.Combine(_folder, "other.json");
        File.WriteAllText(path, """{"results":[{"path":"ema"}]}""");
        Assert.Throws<JsonException>(() => ResultsFile.Read(path));
        File.WriteAllText(path, "null");
        Assert.Throws<JsonException>(() => ResultsFile.Read(path));
    }

    [Fact]
    public void A_file_is_replaced_whole_and_leaves_nothing_beside_it()
    {
        string path = Path.Combine(_folder, "new", "folder", "file.txt");
        AtomicFile.WriteAllText(path, "first, and longer than the second");
        AtomicFile.WriteAllText(path, "second");
        Assert.Equal("second", File.ReadAllText(path));
        Assert.Equal([path], Directory.GetFiles(Path.GetDirectoryName(path)!));
    }

    [Fact]
    public void A_write_that_fails_leaves_nothing_beside_its_target()
    {
        string path = Path.Combine(_folder, "taken");
        Directory.CreateDirectory(path); // no file can be moved here
        Assert.ThrowsAny<Exception>(() => AtomicFile.WriteAllText(path, "text"));
        Assert.Empty(Directory.GetFiles(_folder));
    }

    private JsonNode Write()
    {
        string path = Path.Combine(_folder, "results.json");
        ResultsFile.Write(path, Sample);
        return JsonNode.Parse(File.ReadAllText(path))!;
    }

    private static IEnumerable<string> Names(JsonNode? node) => node!.AsObject().Select(member => member.Key);
}
