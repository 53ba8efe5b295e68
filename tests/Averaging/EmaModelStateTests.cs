using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public sealed class EmaModelStateTests : IDisposable
{
    private readonly string _path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());
    private readonly TorchSharp.Modules.Sequential _model = EmaModelTests.Network();

    public void Dispose()
    {
        File.Delete(_path);
        _model.Dispose();
    }

    [Theory]
    [InlineData(BufferPolicy.Skip)]
    [InlineData(BufferPolicy.Copy)]
    [InlineData(BufferPolicy.Mix)]
    public void Training_that_resumes_equals_training_that_never_stopped(BufferPolicy policy)
    {
        EmaSchedule[] schedules = [EmaSchedule.WarmUp(), EmaSchedule.Constant(0.99)];
        using var whole = new EmaModel(_model, schedules, policy);
        using var resumed = new EmaModel(_model, schedules, policy);
        for (var step = 0; step < 10; step++)
        {
            EmaModelTests.Perturb(_model, step);
            whole.Update();
            if (step == 4)
            {
                whole.Save(_path);
                resumed.Load(_path);
            }
            else if (step > 4)
            {
                resumed.Update();
            }
        }

        Assert.Equal(whole.Step, resumed.Step);
        for (var k = 0; k < 2; k++)
            Assert.Equal(State(whole, k), State(resumed, k));
    }

    [Fact]
    public void The_file_says_what_it_is()
    {
        using var ema = new EmaModel(_model, EmaSchedule.HalfLife(1));
        ema.Update();
        ema.Save(_path);

        using var file = SafetensorsFile.Open(_path);

        Assert.Equal(("ema-model/1", "1", "1", "Copy", "half-life(1)"),
            (file.Metadata["auxcore.format"], file.Metadata["auxcore.step"], file.Metadata["auxcore.averages"],
             file.Metadata["auxcore.buffers"], file.Metadata["auxcore.schedule.0"]));
        Assert.Contains("averages.0.0.weight", file.Names);
        Assert.Contains("buffers.1.running_mean", file.Names);
    }

    [Fact]
    public void Files_of_other_averages_are_refused_by_key_and_nothing_changes()
    {
        using var ema = new EmaModel(_model, EmaSchedule.Constant(0.9));
        using var two = new EmaModel(_model, [EmaSchedule.Constant(0.9), EmaSchedule.Constant(0.9)]);
        using var mixed = new EmaModel(_model, EmaSchedule.Constant(0.9), BufferPolicy.Mix);
        using var otherModel = torch.nn.Linear(2, 2);
        using var other = new EmaModel(otherModel, EmaSchedule.Constant(0.9));
        EmaModelTests.Perturb(_model, 1);
        ema.Update();
        var before = State(ema);

        two.Save(_path);
        Refused("auxcore.averages", "is '2', but this EmaModel has '1'");
        mixed.Save(_path);
        Refused("auxcore.buffers", "is 'Mix'");
        other.Save(_path);
        Refused("averages.0.0.weight", "is missing");
        Write(entry => !entry.Key.EndsWith("3.bias", StringComparison.Ordinal));
        Refused("averages.0.3.bias", "is missing");
        Write(entry => true, extra: "averages.0.9.weight");
        Refused("averages.0.9.weight", "is not part of this model");
        Write(entry => true, retype: true);
        Refused("averages.0.0.weight", "has dtype Float64, not Float32");
        Write(entry => true, reshape: true);
        Refused("averages.0.0.weight", "has shape [20], not [4, 5]");
        Write(entry => true, step: "many");
        Refused("auxcore.step", "is not a count of steps");
        Write(entry => true, step: "-1");
        Refused("auxcore.step", "is not a count of steps");
        SafetensorsFile.Write(_path, []);
        Refused("auxcore.format", "did not write this file");

        Assert.Equal(before, State(ema));
        Assert.Equal(1, ema.Step);

        void Refused(string key, string problem)
        {
            var error = Assert.Throws<StateFileException>(() => ema.Load(_path));
            Assert.Equal(key, error.Key);
            Assert.Contains(problem, error.Message, StringComparison.Ordinal);
        }

        void Write(
            Func<KeyValuePair<string, Tensor>, bool> keep, string? extra = null, bool retype = false, bool reshape = false,
            string step = "1")
        {
            using var scope = torch.NewDisposeScope();
            using var noGrad = torch.no_grad();
            ema.Save(_path);
            using (var file = SafetensorsFile.Open(_path))
            {
                var tensors = file.Names.Select(name => KeyValuePair.Create(name, file.Read(name)))
                    .Where(keep)
                    .Select(entry => KeyValuePair.Create(
                    entry.Key, retype ? entry.Value.to(torch.float64) : reshape ? entry.Value.view(-1) : entry.Value)).ToList();
                if (extra is not null)
                    tensors.Add(KeyValuePair.Create(extra, torch.zeros(1)));
                var metadata = file.Metadata.Where(entry => entry.Key != "auxcore.sha256")
                    .ToDictionary(entry => entry.Key, entry => entry.Value);
                metadata["auxcore.step"] = step;
                SafetensorsFile.Write(_path + ".new", tensors, metadata);
            }

            File.Move(_path + ".new", _path, overwrite: true);
        }
    }

    [Fact]
    public void A_torn_file_is_refused_at_every_length_and_nothing_changes()
    {
        using var ema = new EmaModel(_model, EmaSchedule.Constant(0.9));
        ema.Save(_path);
        var whole = File.ReadAllBytes(_path);
        EmaModelTests.Perturb(_model, 2);
        ema.Update();
        var before = State(ema);

        for (var length = 0; length < whole.Length; length += 7)
        {
            File.WriteAllBytes(_path, whole[..length]);
            Assert.Throws<StateFileException>(() => ema.Load(_path));
        }

        Assert.Equal(before, State(ema));
        File.Delete(_path);
        Assert.Throws<FileNotFoundException>(() => ema.Load(_path));
        Assert.Throws<DirectoryNotFoundException>(() => ema.Save(Path.Combine(_path, "no", "folder")));
    }

    private static Dictionary<string, byte[]> State(EmaModel ema, int average = 0) =>
        ema.StateDict(average).ToDictionary(entry => entry.Key, entry => EmaModelTests.Bytes(entry.Value));
}
