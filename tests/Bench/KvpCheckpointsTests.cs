using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Models;
using AuxCore.Tests.Data;
using TorchSharp;

namespace AuxCore.Tests.Bench;

[RequiresLibtorch]
public sealed class KvpCheckpointsTests : IDisposable
{
    private static readonly KvpPlan Plan = KvpPlan.Quick;

    private readonly TempFolder _folder = new();
    private readonly KvpCheckpoints _checkpoints;

    public KvpCheckpointsTests() => _checkpoints = new(_folder["kvp"]);

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void What_was_written_is_read_in_bfloat16()
    {
        using var model = Write("auxiliary", Plan.AuxiliaryOptions);

        using var read = _checkpoints.Load("auxiliary", Plan.AuxiliaryOptions);

        foreach (var ((name, written), (again, loaded)) in model.named_parameters().Zip(read.named_parameters()))
        {
            using var scope = torch.NewDisposeScope();
            Assert.Equal(name, again);
            Assert.Equal(written.to(torch.bfloat16).to(torch.float32).data<float>().ToArray(), loaded.data<float>().ToArray());
        }

        using var file = SafetensorsFile.Open(_checkpoints.PathOf("auxiliary"));
        Assert.Equal("a recipe", file.Metadata["recipe"]);
        Assert.All(file.Names, name => Assert.Equal(torch.ScalarType.BFloat16, file.DType(name)));
    }

    [Fact]
    public void What_is_not_there_says_how_to_make_it()
    {
        var error = Assert.Throws<StateFileException>(() => _checkpoints.Load("base", Plan.BaseOptions));

        Assert.Equal(_checkpoints.PathOf("base"), error.Path);
        Assert.Contains("models kvp --train", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_damaged_file_is_refused()
    {
        Write("auxiliary", Plan.AuxiliaryOptions).Dispose();
        var bytes = File.ReadAllBytes(_checkpoints.PathOf("auxiliary"));
        bytes[^5] ^= 1;
        File.WriteAllBytes(_checkpoints.PathOf("auxiliary"), bytes);

        var error = Assert.Throws<StateFileException>(() => _checkpoints.Load("auxiliary", Plan.AuxiliaryOptions));

        Assert.Contains("damaged", error.Message, StringComparison.Ordinal);
        File.WriteAllBytes(_checkpoints.PathOf("auxiliary"), bytes[..^7]);
        Assert.Throws<StateFileException>(() => _checkpoints.Load("auxiliary", Plan.AuxiliaryOptions));
    }

    [Fact]
    public void A_file_of_other_sizes_or_modules_is_refused_and_nothing_is_read()
    {
        // The first parameter fits: it must not have been read when a later one turns out not to.
        var wide = Plan.AuxiliaryOptions.Layers.Select(layer => layer with { FeedForward = 80 });
        Write("auxiliary", Plan.AuxiliaryOptions with { Layers = [.. wide] }).Dispose();
        using var model = new CausalDecoder(Plan.AuxiliaryOptions);
        using var before = model.parameters().First().detach().clone();

        var error = Assert.Throws<StateFileException>(() => _checkpoints.Read("auxiliary", new() { ["model"] = model }));
        var other = Assert.Throws<StateFileException>(() => _checkpoints.Read("auxiliary", new() { ["predictor"] = model }));

        Assert.StartsWith("model.layers.0.", error.Key, StringComparison.Ordinal);
        Assert.Contains("[80,32]", error.Message, StringComparison.Ordinal);
        Assert.Contains("[48,32]", error.Message, StringComparison.Ordinal);
        Assert.StartsWith("predictor.", other.Key, StringComparison.Ordinal);
        Assert.Equal(before.data<float>().ToArray(), model.parameters().First().data<float>().ToArray());
    }

    [Fact]
    public void Arms_are_those_whose_trainings_are_there_and_the_rest_is_named()
    {
        Refuses("base");
        Write("base", Plan.BaseOptions).Dispose();
        Refuses("auxiliary");
        Write("auxiliary", Plan.AuxiliaryOptions).Dispose();
        Refuses("split-1");
        using (var reader = new CausalDecoder(Plan.AuxiliaryOptions))
        using (var predictor = new KvPredictor(Plan.BaseOptions, Plan.AuxiliaryOptions))
        {
            _checkpoints.Write(
                "split-2", new Dictionary<string, torch.nn.Module> { ["auxiliary"] = reader, ["predictor"] = predictor }, Recipe);
        }

        using var arms = new KvpArms(_checkpoints, Plan, [1, 2]);

        Assert.Equal(
            [
                KvpArms.Base, KvpArms.LastByte, KvpArms.Truncated, KvpArms.Auxiliary, KvpArms.Split, KvpArms.Untrained, KvpArms.Q8,
                KvpArms.Q4, KvpArms.SnapKv, KvpArms.KeyDiff, KvpArms.StreamingLlm,
            ],
            arms.All.Select(arm => arm.Name));
        Assert.Equal(
            [
                "continued-1", "continued-2", "pruned", "split-1", "published-1", "published-2", "no-cache-loss-1", "no-cache-loss-2",
                "pruned-split-1", "pruned-split-2",
            ],
            arms.Missing);
        Assert.Equal(2, Assert.Single(arms.All.Single(arm => arm.Name == KvpArms.Split).Variants).Seed);
        Assert.Equal(2, arms.Hash(arms.All.Single(arm => arm.Name == KvpArms.Split).Variants[0]).Split(' ').Length);
        using var scope = torch.NewDisposeScope();
        var prompts = TinyDecoder.Tokens(2, 128);
        foreach (var arm in arms.All)
        {
            using var system = arm.Variants[0].Create();
            using var cache = system.CreateCache(128, 1, 2);
            Assert.Equal([2, TextBatches.Vocabulary], system.Prefill(prompts, cache).shape);
        }

        void Refuses(string missing)
        {
            var error = Assert.Throws<StateFileException>(() => new KvpArms(_checkpoints, Plan, [1, 2]));
            Assert.Equal(_checkpoints.PathOf(missing), error.Path);
            Assert.Contains("models kvp --train", error.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Rows_are_written_as_kvpress_does()
    {
        KvPressRow[] rows =
        [
            new("Tab Mno \n said \"she\", ", "?T", "ab", "ab", 2, "recall-128"), new("Tcd ", "?T", "cd", "ce", 2, "recall-128"),
            new("Tef ", "?T", "ef", "ef", 2, "recall-256"),
        ];

        var folder = KvPressRows.Write(_folder.Path, "recall", "austen", "auxcore-kvp", "base, SnapKV keeps 1/4", 0.75, rows);

        Assert.Equal("recall__austen__auxcore-kvp__base-snapkv-keeps-1-4__0.75", Path.GetFileName(folder));
        Assert.Equal(
            "context,question,answer_prefix,answer,max_new_tokens,task,predicted_answer,compression_ratio\n"
            + "\"Tab Mno \n said \"\"she\"\", \",?T,,ab,2,recall-128,ab,0.75\nTcd ,?T,,cd,2,recall-128,ce,0.75\n"
            + "Tef ,?T,,ef,2,recall-256,ef,0.75\n",
            File.ReadAllText(Path.Combine(folder, "predictions.csv")));
        var metrics = System.Text.Json.JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "metrics.json"))).RootElement;
        Assert.Equal(50, metrics.GetProperty("recall-128").GetProperty("string_match").GetDouble());
        Assert.Equal(100, metrics.GetProperty("recall-256").GetProperty("string_match").GetDouble());
        Assert.Contains("press_name: base, SnapKV keeps 1/4\n", File.ReadAllText(Path.Combine(folder, "config.yaml")));
    }

    private static Dictionary<string, string> Recipe => new() { ["recipe"] = "a recipe" };

    private CausalDecoder Write(string name, DecoderOptions options)
    {
        torch.manual_seed(1);
        var model = new CausalDecoder(options);
        _checkpoints.Write(name, new Dictionary<string, torch.nn.Module> { ["model"] = model }, Recipe);
        return model;
    }
}
