using System.Text.Json.Nodes;
using AuxCore.Bench.Output;

namespace AuxCore.Tests.Bench;

public sealed class ModelResultsFileTests : IDisposable
{
    private static readonly ModelRow Control = new("plain", IsControl: true, "accuracy %", [10, 10, 10, 10, 10]);
    private static readonly ModelRow Arm = new("averaged", IsControl: false, "accuracy %", [11, 12, 13, 14, 15]);

    private readonly string _path = Path.Combine(Directory.CreateTempSubdirectory("auxcore").FullName, "s01.json");

    public void Dispose() => Directory.Delete(Path.GetDirectoryName(_path)!, recursive: true);

    [Fact]
    public void The_names_are_those_of_the_schema()
    {
        ModelResultsFile.Write(_path, new("ema", "Averaging helps.", [Arm, Control], ModelDifference.Between(Arm, Control)));
        JsonNode root = JsonNode.Parse(File.ReadAllText(_path))!;
        Assert.Equal(["system", "claim", "rows", "difference"], Names(root));
        Assert.Equal(["arm", "is_control", "metric", "values"], Names(root["rows"]![0]));
        Assert.Equal(["arm", "control", "mean", "low", "high"], Names(root["difference"]));
        Assert.Equal(5, root["rows"]![1]!["values"]!.AsArray().Count);
        Assert.Equal(("averaged", "plain"), ((string?)root["difference"]!["arm"], (string?)root["difference"]!["control"]));
    }

    [Fact]
    public void The_difference_is_the_paired_one()
    {
        ModelDifference difference = ModelDifference.Between(Arm, Control);
        Assert.Equal(3, difference.Mean, 1e-12);
        Assert.Equal(3 - 1.96324, difference.Low!.Value, 1e-5);
        Assert.Equal(3 + 1.96324, difference.High!.Value, 1e-5);
    }

    [Fact]
    public void One_seed_has_no_interval_and_can_be_written_and_read()
    {
        ModelDifference difference = ModelDifference.Between(Arm with { Values = [2] }, Control with { Values = [1] });
        ModelResultsFile.Write(_path, new("ema", "Averaging helps.", [], difference));
        Assert.Equal(new ModelDifference("averaged", "plain", 1, null, null), ModelResultsFile.Read(_path).Difference);
    }

    [Fact]
    public void Curves_are_written_and_read_and_pictures_are_not()
    {
        ModelCurve curve = new("averaged", "accuracy % while training", [100, 200], [[1, 2], [3, 4]]);
        ModelResultsFile.Write(_path, new("ema", "Averaging helps.", [Arm], ModelDifference.Between(Arm, Control))
        {
            Curves = [curve],
            Pictures = [("a picture", "<svg/>")],
        });
        JsonNode root = JsonNode.Parse(File.ReadAllText(_path))!;
        Assert.Equal(["system", "claim", "rows", "difference", "curves"], Names(root));
        Assert.Equal(["arm", "metric", "frames", "values"], Names(root["curves"]![0]));
        Assert.Equal(curve.Values, ModelResultsFile.Read(_path).Curves!.Single().Values);
    }

    [Fact]
    public void Different_metrics_are_not_compared() =>
        Assert.Throws<ArgumentException>(() => ModelDifference.Between(Arm, Control with { Metric = "loss" }));

    private static IEnumerable<string> Names(JsonNode? node) => node!.AsObject().Select(member => member.Key);
}
