using AuxCore.Models;
using AuxCore.Tests.Averaging;
using CsCheck;
using TorchSharp;
using TorchSharp.Modules;
using static AuxCore.Tests.Optimization.Networks;
using AdamW = AuxCore.Models.AdamW;

namespace AuxCore.Tests.Optimization;

[RequiresLibtorch]
public sealed class AdamWStateTests : IDisposable
{
    private readonly string _path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());

    public void Dispose() => File.Delete(_path);

    [Theory]
    [InlineData("float32")]
    [InlineData("bfloat16")]
    [InlineData("float16")]
    public void Training_that_resumes_equals_training_that_never_stopped(string type)
    {
        using var scope = torch.NewDisposeScope();
        var dtype = Enum.Parse<torch.ScalarType>(type, ignoreCase: true);
        var (whole, resumed) = (new Training(dtype), new Training(dtype)); // of other weights, until it resumes
        for (var step = 0; step < 12; step++)
        {
            whole.Step(step);
            if (step == 5)
            {
                whole.Optimizer.Save(_path);
                resumed.Model.load_state_dict(whole.Model.state_dict());
                resumed.Optimizer.Load(_path);
            }
            else if (step > 5)
            {
                resumed.Step(step);
            }
        }

        Assert.Equal(EmaModelTests.State(whole.Model), EmaModelTests.State(resumed.Model));
        for (var k = 0; k < 2; k++)
        {
            foreach (var (name, value) in whole.Ema.StateDict(k))
                Assert.Equal(EmaModelTests.Bytes(value), EmaModelTests.Bytes(resumed.Ema.StateDict(k)[name]));
        }

        Assert.Equal(whole.Text(), resumed.Text());
        whole.Optimizer.Save(_path);
        var bytes = File.ReadAllBytes(_path);
        resumed.Optimizer.Save(_path);
        Assert.Equal(bytes, File.ReadAllBytes(_path)); // down to the last bit of the state
        whole.Dispose();
        resumed.Dispose();
    }

    [Fact]
    public void The_file_says_what_it_is()
    {
        using var scope = torch.NewDisposeScope();
        using var training = new Training(torch.ScalarType.BFloat16);
        training.Step(0);
        training.Optimizer.Save(_path);

        using var file = SafetensorsFile.Open(_path);

        Assert.Equal("adamw/1", file.Metadata["auxcore.format"]);
        Assert.Equal("1 0 0", file.Metadata["auxcore.counters"]);
        Assert.Equal("2", file.Metadata["auxcore.groups"]);
        Assert.StartsWith("parameters=2 lr=0.005 initial_lr=0.01 beta1=0.9", file.Metadata["auxcore.group.0"], StringComparison.Ordinal);
        Assert.Equal(("2", "1"), (file.Metadata["auxcore.ema.averages"], file.Metadata["auxcore.ema.step"]));
        foreach (var name in (string[])["exp_avg.0.weight", "exp_avg_sq.3.bias", "master.1.weight", "steps", "ema.averages.1.0.weight",
            "ema.buffers.1.running_mean"])
            Assert.Contains(name, file.Names);
    }

    [Fact]
    public void A_file_of_something_else_is_refused_by_key_and_nothing_changes()
    {
        using var scope = torch.NewDisposeScope();
        using var training = new Training(torch.ScalarType.Float32);
        training.Step(0);
        training.Optimizer.Save(_path);
        var (good, before) = (File.ReadAllBytes(_path), training.Bytes());

        training.Ema.Save(_path);
        Refused("auxcore.format", "is 'ema-model/1'");

        using var other = Regression();
        using var otherOptimizer = new AdamW(other.named_parameters());
        otherOptimizer.Save(_path);
        Refused("auxcore.groups", "is '1', but this optimiser has '2'");

        using var penalised = new Training(torch.ScalarType.Float32, decoupled: false);
        penalised.Optimizer.Save(_path);
        Refused("auxcore.decoupled", "is 'False'");

        using var narrow = new Training(torch.ScalarType.BFloat16);
        narrow.Optimizer.Save(_path);
        Refused("ema.buffers.1.running_mean", "has dtype BFloat16, not Float32");

        using var wide = new Training(torch.ScalarType.Float32, width: 41);
        wide.Optimizer.Save(_path);
        Refused("exp_avg.0.weight", "has shape [41, 5], not [40, 5]");

        training.Optimizer.Averages = null;
        training.Optimizer.Save(_path);
        training.Optimizer.Averages = training.Ema;
        Refused("auxcore.ema.averages", "is missing");

        training.Optimizer.Scaler = null;
        training.Optimizer.Save(_path);
        training.Optimizer.Scaler = training.Scaler;
        Refused("auxcore.scaler", "is missing");

        File.WriteAllBytes(_path, good);
        training.Optimizer.Scaler = null;
        Refused("auxcore.scaler", "has no Scaler");
        training.Optimizer.Scaler = training.Scaler;
        training.Optimizer.Averages = null;
        Refused("auxcore.ema.averages", "has no Averages");
        training.Optimizer.Averages = training.Ema;

        good[good.Length / 2] ^= 1;
        File.WriteAllBytes(_path, good);
        Assert.Throws<StateFileException>(() => training.Optimizer.Load(_path));
        Assert.Throws<FileNotFoundException>(() => training.Optimizer.Load(_path + ".none"));
        Assert.Equal(before, training.Bytes());

        void Refused(string key, string problem)
        {
            var error = Assert.Throws<StateFileException>(() => training.Optimizer.Load(_path));
            Assert.Contains(key, error.Key, StringComparison.Ordinal);
            Assert.Contains(problem, error.Message, StringComparison.Ordinal);
            Assert.Equal(before, training.Bytes());
        }
    }

    [Fact]
    public void The_state_of_another_type_of_parameter_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var wide = new AdamW([new Parameter(torch.ones(2))]);
        using var narrow = new AdamW([new Parameter(torch.ones(2).to(torch.bfloat16))]);

        narrow.Save(_path);
        var superfluous = Assert.Throws<StateFileException>(() => wide.Load(_path));
        wide.Save(_path);
        var missing = Assert.Throws<StateFileException>(() => narrow.Load(_path));

        Assert.Equal(("master.0.0", "master.0.0"), (superfluous.Key, missing.Key));
        Assert.Contains("is not part of this optimiser", superfluous.Message, StringComparison.Ordinal);
        Assert.Contains("is missing", missing.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("auxcore.group.0", "parameters=2 lr=0.01")]
    [InlineData("auxcore.group.0", "parameters=2 lr=x initial_lr=1 beta1=0.9 beta2=0.999 eps=1E-08 weight_decay=0 maximize=False")]
    [InlineData("auxcore.group.0", "parameters=2 lr=1 initial_lr=1 beta1=2 beta2=0.999 eps=1E-08 weight_decay=0 maximize=False")]
    [InlineData("auxcore.group.0", "parameters=2 lr=1 lr=1 initial_lr=1 beta1=0 beta2=0 eps=0 weight_decay=0 maximize=False")]
    [InlineData("auxcore.group.0", "parameters=2 lr=NaN initial_lr=1 beta1=0 beta2=0 eps=0 weight_decay=0 maximize=False")]
    [InlineData("auxcore.group.0", "parameters=3 lr=1 initial_lr=1 beta1=0 beta2=0 eps=0 weight_decay=0 maximize=False")]
    [InlineData("auxcore.group.0", "parameters=2 lr=1 initial_lr=1 beta1=0 beta2=0 eps=0 weight_decay=0 maximize=False more=1")]
    [InlineData("auxcore.counters", "1 2")]
    [InlineData("auxcore.counters", "1 -2 3")]
    [InlineData("auxcore.ema.step", "many")]
    [InlineData("auxcore.scaler", "1 2")]
    [InlineData("auxcore.scaler", "0 2 3")]
    [InlineData("auxcore.scaler", "NaN 2 3")]
    public void Damaged_metadata_is_refused(string key, string value)
    {
        using var scope = torch.NewDisposeScope();
        using var training = new Training(torch.ScalarType.Float32);
        training.Optimizer.Save(_path);
        var before = training.Bytes();
        Dictionary<string, string> metadata;
        KeyValuePair<string, torch.Tensor>[] tensors;
        using (var file = SafetensorsFile.Open(_path))
        {
            metadata = file.Metadata.Where(entry => entry.Key != "auxcore.sha256").ToDictionary(entry => entry.Key, entry => entry.Value);
            tensors = [.. file.Names.Select(name => KeyValuePair.Create(name, file.Read(name)))];
        }

        metadata[key] = value;
        SafetensorsFile.Write(_path, tensors, metadata);

        Assert.Equal(key, Assert.Throws<StateFileException>(() => training.Optimizer.Load(_path)).Key);
        Assert.Equal(before, training.Bytes());
    }

    [Fact]
    public void Hyper_parameters_come_back_exactly() => Gen
        .Select(Gen.Double[0, 1e3], Gen.Double[0, 0.9999], Gen.Double[0, 0.9999], Gen.Double[0, 1e-3], Gen.Double[0, 1])
        .Sample((lr, beta1, beta2, eps, decay) =>
        {
            using var saved = new AdamW([new Parameter(torch.ones(2))], lr, beta1, beta2, eps, decay, maximize: true);
            using var loaded = new AdamW([new Parameter(torch.ones(2))]);
            saved.Save(_path);
            loaded.Load(_path);
            var (was, now) = (Group(saved).Options, Group(loaded).Options);
            return (was.LearningRate, was.InitialLearningRate, was.Beta1, was.Beta2, was.Epsilon, was.WeightDecay, was.Maximize)
                == (now.LearningRate, now.InitialLearningRate, now.Beta1, now.Beta2, now.Epsilon, now.WeightDecay, now.Maximize);
        }, threads: 1, iter: 50);

    [Fact]
    public void The_state_dict_of_TorchSharp_works_too()
    {
        using var scope = torch.NewDisposeScope();
        using var training = new Training(torch.ScalarType.BFloat16);
        for (var step = 0; step < 3; step++)
            training.Step(step);
        using var copied = new Training(torch.ScalarType.BFloat16);
        using var read = new Training(torch.ScalarType.BFloat16);

        copied.Optimizer.load_state_dict(training.Optimizer.state_dict());
        training.Optimizer.save_state_dict(_path);
        read.Optimizer.load_state_dict(_path);

        foreach (var other in (Training[])[copied, read])
        {
            other.Model.load_state_dict(training.Model.state_dict());
            Assert.Equal(0.005 / 3, Group(other.Optimizer).Options.LearningRate);
            Assert.All(
                other.Optimizer.state_dict().State.Zip(training.Optimizer.state_dict().State),
                pair => Assert.True(pair.First.ApproximatelyEquals(pair.Second)));
        }

        training.Step(4);
        copied.Step(4);
        read.Step(4);
        Assert.Equal(EmaModelTests.State(training.Model), EmaModelTests.State(copied.Model));
        Assert.Equal(EmaModelTests.State(training.Model), EmaModelTests.State(read.Model));
        training.Optimizer.to(torch.CPU);
        Assert.Throws<NotSupportedException>(() => training.Optimizer.to(torch.device("meta")));
    }

    [Fact]
    public void The_state_of_another_optimiser_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var parameter = new Parameter(torch.ones(2));
        using var ours = new AdamW([parameter]);
        using var theirs = torch.optim.AdamW([new Parameter(torch.ones(2))]);
        using var larger = new AdamW([new Parameter(torch.ones(3))]);

        Assert.Throws<ArgumentException>(() => ours.load_state_dict(theirs.state_dict()));
        Assert.Contains("shape [3], not [2]", Assert.Throws<ArgumentException>(
            () => ours.load_state_dict(larger.state_dict())).Message, StringComparison.Ordinal);
    }

    private static AdamW.ParamGroup Group(AdamW optimizer) => (AdamW.ParamGroup)optimizer.ParamGroups.First();

    /// <summary>A model, its averages and its optimiser with all that has a state.</summary>
    private sealed class Training : IDisposable
    {
        private readonly torch.optim.lr_scheduler.LRScheduler _scheduler;

        public Training(torch.ScalarType dtype, bool decoupled = true, int width = 40)
        {
            Model = NetworkWithBuffers(width);
            if (dtype != torch.ScalarType.Float32)
                Model.to(dtype);
            Ema = new EmaModel(Model, [EmaSchedule.Constant(0.9), EmaSchedule.WarmUp()]);
            Optimizer = new AdamW(
                [
                    new AdamW.ParamGroup(Model.named_parameters().Take(2)),
                    new AdamW.ParamGroup(Model.named_parameters().Skip(2), new() { WeightDecay = 0.1 }),
                ],
                0.01)
            { Averages = Ema, Scaler = Scaler, MaxGradientNorm = 1, Decoupled = decoupled };
            _scheduler = torch.optim.lr_scheduler.MultiplicativeLR(Optimizer, _ => 1);
        }

        public Sequential Model { get; }

        public EmaModel Ema { get; }

        public AdamW Optimizer { get; }

        public GradientScaler Scaler { get; } = new(256, interval: 4);

        public void Step(int step)
        {
            foreach (var group in Optimizer.ParamGroups)
                group.LearningRate = 0.005 / (1 + step);
            if (step == 2)
                Model.parameters().First().requires_grad = false; // another count of steps than its neighbours
            TrainStep(Model, Optimizer, step);
            if (step == 3) // an overflow
            {
                Model.parameters().Last().grad!.fill_(float.NaN);
                Optimizer.step();
            }

            Model.parameters().First().requires_grad = true;
            _scheduler.step();
        }

        public string Text() =>
            $"{Optimizer.Steps} {Optimizer.SkippedSteps} {Optimizer.NonFiniteSteps} {Scaler.State} {Ema.Step} "
            + string.Join(' ', Optimizer.ParamGroups.Select(group => $"{group.LearningRate:R} {group.InitialLearningRate:R}"));

        public byte[] Bytes()
        {
            using var stream = new MemoryStream();
            using var writer = new BinaryWriter(stream);
            Optimizer.save_state_dict(writer);
            writer.Write(Text());
            foreach (var bytes in EmaModelTests.State(Model).Values.Concat(Ema.StateDict().Values.Select(EmaModelTests.Bytes)))
                writer.Write(bytes);
            return stream.ToArray();
        }

        public void Dispose()
        {
            Optimizer.Dispose();
            Ema.Dispose();
            Model.Dispose();
        }
    }
}
