using AuxCore.Bench.Data;
using AuxCore.Bench.Workloads;
using AuxCore.Models;
using AuxCore.Tests.Data;
using TorchSharp;

namespace AuxCore.Tests.Bench;

[RequiresLibtorch]
public sealed class KvpRecipeTests : IDisposable
{
    // What is trained for no steps is what it began as.
    private static readonly KvpPlan Still = KvpPlan.Quick with { LanguageSteps = 2, RecallSteps = 2, PrunedSteps = 0, PredictorSteps = 0 };

    private readonly TempFolder _folder = new();
    private readonly AustenNovels _novels;

    public KvpRecipeTests() => _novels = AustenNovels.LoadBest(new(DataStore.Default.Manifest, _folder["empty"])); // the excerpt

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Every_training_is_made_once_and_says_from_what()
    {
        var checkpoints = Train(Still, [1, 2], "all");

        string[] names = ["split", "continued", "published", "no-cache-loss", "pruned-split"];
        string[] all =
            ["base-text", "auxiliary-text", "base", "auxiliary", "pruned", .. names.SelectMany(name => new[] { name + "-1", name + "-2" })];
        Assert.Equal(all.Order(), Directory.GetFiles(_folder["all"], "*.safetensors").Select(Path.GetFileNameWithoutExtension).Order());
        Assert.Empty(Directory.GetFileSystemEntries(_folder["work"])); // what was only kept in case of a stop
        using (var file = SafetensorsFile.Open(checkpoints.PathOf("published-2")))
        {
            Assert.StartsWith("seed 2, ", file.Metadata["settings"], StringComparison.Ordinal);
            Assert.Contains("as published", file.Metadata["settings"], StringComparison.Ordinal);
            Assert.Contains(TextBatches.Hash(_novels), file.Metadata["text"], StringComparison.Ordinal);
            Assert.Equal("0 of 0 steps", file.Metadata["done"]);
        }

        File.WriteAllText(checkpoints.PathOf("auxiliary-text"), "not to be touched again");
        Train(Still, [1, 2], "all");
        Assert.Equal("not to be touched again", File.ReadAllText(checkpoints.PathOf("auxiliary-text")));
    }

    [Fact]
    public void Each_begins_as_what_it_is_made_from()
    {
        var checkpoints = Train(Still, [1], "still");

        using var scope = torch.NewDisposeScope();
        using var whole = checkpoints.Load("base", Still.BaseOptions);
        using var pruned = checkpoints.Load("pruned", Still.PrunedOptions);
        using var auxiliary = checkpoints.Load("auxiliary", Still.AuxiliaryOptions);
        using var continued = checkpoints.Load("continued-1", Still.AuxiliaryOptions);
        using var text = checkpoints.Load("auxiliary-text", Still.AuxiliaryOptions);
        Assert.Equal([0, 2], Still.Kept);
        Assert.Equal(Values(whole, "layers.2.k_proj.weight"), Values(pruned, "layers.1.k_proj.weight"));
        Assert.Equal(Values(whole, "embed_tokens.weight"), Values(pruned, "embed_tokens.weight"));
        Assert.Equal(Values(auxiliary, "embed_tokens.weight"), Values(continued, "embed_tokens.weight"));
        Assert.NotEqual(Values(text, "embed_tokens.weight"), Values(auxiliary, "embed_tokens.weight"));
        using var reader = new CausalDecoder(Still.AuxiliaryOptions);
        using var predictor = new KvPredictor(Still.BaseOptions, Still.AuxiliaryOptions);
        checkpoints.Read("split-1", new() { ["auxiliary"] = reader, ["predictor"] = predictor });
        Assert.Equal(Values(auxiliary, "embed_tokens.weight"), Values(reader, "embed_tokens.weight"));
    }

    [Fact]
    public void Predictors_differ_by_seed_and_by_how_they_are_trained()
    {
        var checkpoints = Train(Still with { PredictorSteps = 2 }, [1, 2], "moved");

        float[][] weights = [.. new[] { "split-1", "split-2", "published-1", "no-cache-loss-1" }.Select(name =>
        {
            using var reader = new CausalDecoder(Still.AuxiliaryOptions);
            using var predictor = new KvPredictor(Still.BaseOptions, Still.AuxiliaryOptions);
            checkpoints.Read(name, new() { ["auxiliary"] = reader, ["predictor"] = predictor });
            return Values(predictor, predictor.named_parameters().First().name);
        })];

        for (var i = 0; i < weights.Length; i++)
        {
            for (var j = 0; j < i; j++)
                Assert.NotEqual(weights[i], weights[j]);
        }
    }

    private KvpCheckpoints Train(KvpPlan plan, int[] seeds, string name)
    {
        var checkpoints = new KvpCheckpoints(_folder[name]);
        new KvpRecipe(_novels, checkpoints, plan, _folder["work"])
            .Train(seeds, new Progress<double>(), TestContext.Current.CancellationToken);
        return checkpoints;
    }

    private static float[] Values(torch.nn.Module module, string name) =>
        module.named_parameters().Single(entry => entry.name == name).parameter.data<float>().ToArray();
}
