using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public sealed class LocalTrainerStateTests : IDisposable
{
    private readonly string _path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());
    private readonly string _optimizerPath = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());

    public static TheoryData<string> Inputs => [.. Enum.GetNames<AuxiliaryInput>()];

    public void Dispose()
    {
        File.Delete(_path);
        File.Delete(_optimizerPath);
    }

    [Theory]
    [MemberData(nameof(Inputs))]
    public void Training_that_resumes_equals_training_that_never_stopped(string input)
    {
        using var scope = torch.NewDisposeScope();
        using var whole = new LocalNetwork(Enum.Parse<AuxiliaryInput>(input));
        using var resumed = new LocalNetwork(Enum.Parse<AuxiliaryInput>(input)); // of other weights, until it resumes
        for (var step = 0; step < 10; step++)
        {
            whole.Step(step);
            if (step == 4)
            {
                whole.Trainer.Save(_path);
                whole.Optimizer.Save(_optimizerPath);
                resumed.Trainer.Load(_path);
                resumed.Optimizer.Load(_optimizerPath);
                Assert.Equal(5, resumed.Trainer.Steps);
            }
            else if (step > 4)
            {
                resumed.Step(step);
            }
        }

        whole.Trainer.Save(_path);
        var bytes = File.ReadAllBytes(_path);
        resumed.Trainer.Save(_path);
        Assert.Equal(bytes, File.ReadAllBytes(_path)); // parameters, running statistics, averages: down to the last bit
    }

    [Fact]
    public void A_file_of_something_else_is_refused_by_key_and_nothing_changes()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.MomentumAndCopy);
        network.Step(0);
        network.Trainer.Save(_path);
        var good = File.ReadAllBytes(_path);
        using var file = SafetensorsFile.Open(_path);
        var tensors = file.Names.ToDictionary(name => name, file.Read);
        var metadata = file.Metadata.Where(entry => entry.Key != "auxcore.sha256").ToDictionary();
        network.Step(1);
        var before = State(network);

        Refused("auxcore.format", "is 'x'", change: (_, m) => m["auxcore.format"] = "x");
        Refused("auxcore.format", "is missing", change: (_, m) => m.Remove("auxcore.format"));
        Refused("auxcore.blocks", "is '1 2 1 4', but this trainer has '2 1 1 4'", change: (_, m) => m["auxcore.blocks"] = "1 2 1 4");
        Refused("auxcore.input", "is 'Output'", change: (_, m) => m["auxcore.input"] = "Output");
        Refused("auxcore.steps", "is not a count", change: (_, m) => m["auxcore.steps"] = "-1");
        Refused("model.0.weight", "is missing", change: (t, _) => t.Remove("model.0.weight"));
        Refused("other", "is not part", change: (t, _) => t["other"] = torch.zeros(1));
        Refused("model.0.bias", "has dtype Float64", change: (t, _) => t["model.0.bias"] = t["model.0.bias"].to(torch.float64));
        Refused("model.0.bias", "has shape [3]", change: (t, _) => t["model.0.bias"] = torch.zeros(3));
        File.WriteAllBytes(_path, good[..^5]);
        Assert.Throws<StateFileException>(() => network.Trainer.Load(_path));
        Assert.Equal(before, State(network));
        Assert.Equal(2, network.Trainer.Steps);

        File.WriteAllBytes(_path, good);
        network.Trainer.Load(_path); // what was saved is still taken
        Assert.NotEqual(before, State(network));
        Assert.Equal(1, network.Trainer.Steps);

        void Refused(string key, string problem, Action<Dictionary<string, Tensor>, Dictionary<string, string>> change)
        {
            var (t, m) = (new Dictionary<string, Tensor>(tensors), new Dictionary<string, string>(metadata));
            change(t, m);
            SafetensorsFile.Write(_path, t, m);
            var error = Assert.Throws<StateFileException>(() => network.Trainer.Load(_path));
            Assert.Equal(key, error.Key);
            Assert.Contains(problem, error.Message, StringComparison.Ordinal);
            Assert.Equal(before, State(network));
        }
    }

    private static byte[][] State(LocalNetwork network) =>
        [
            .. network.Model.state_dict().Values.Concat(network.Trainer.Auxiliaries.SelectMany(a => a.state_dict().Values))
                .Select(EmaModelTests.Bytes),
        ];
}
