using AuxCore.Bench.Workloads;
using AuxCore.Tests.Data;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Bench;

[RequiresLibtorch]
public class TrainingJobTests
{
    [Fact]
    public void What_is_continued_has_the_bits_of_what_was_never_stopped()
    {
        using var folder = new TempFolder();
        using var whole = Layer(1);
        using (var job = Open(folder["whole"], whole))
            Run(job, whole, stopAt: null);

        using (var first = Layer(1))
        using (var job = Open(folder["parts"], first))
            Assert.Throws<OperationCanceledException>(() => Run(job, first, stopAt: 150));
        using var second = Layer(2); // its weights are those of the file
        using (var job = Open(folder["parts"], second))
        {
            Assert.Equal(100, job.Done); // the last state that was written
            Run(job, second, stopAt: null);
            Assert.Equal(250, job.Done);
            job.Delete();
        }

        Assert.Equal(whole.weight.data<float>().ToArray(), second.weight.data<float>().ToArray());
        Assert.False(Directory.Exists(folder["parts"]));
    }

    [Fact]
    public void A_state_of_other_settings_is_not_taken()
    {
        using var folder = new TempFolder();
        using var layer = Layer(1);
        using (var job = Open(folder.Path, layer))
            Run(job, layer, stopAt: null);

        using var other = new TrainingJob(folder.Path, Modules(layer), 250, 1e-2, "others");
        using var longer = new TrainingJob(folder.Path, Modules(layer), 251, 1e-2, "test");

        Assert.Equal(0, other.Done);
        Assert.Equal(0, longer.Done);
    }

    [Fact]
    public void It_ends_once_the_held_out_loss_has_not_fallen_for_a_while()
    {
        using var folder = new TempFolder();
        using var layer = Layer(1);
        double[] losses = [3, 2, 2.5, 2.5, 2, 2.5, 2.5, 2.5, 1];
        const int expected = 2 + TrainingJob.Patience; // the best is the second, and one as good is no new best
        using (var job = Long(losses, "rising"))
        {
            Assert.Equal(expected * TrainingJob.EvaluateEvery, job.Done);
            Assert.Equal(losses[..expected], job.HeldOut);
        }

        using (var job = Long([9, 8, 7, 6, 5, 4, 3, 2, 1], "falling"))
            Assert.Equal(job.Steps, job.Done);

        // What had ended stays so.
        using var again = new TrainingJob(folder["rising"], Modules(layer), losses.Length * TrainingJob.EvaluateEvery, 1e-2, "test");
        again.Run(
            _ => throw new InvalidOperationException("trained on"), () => throw new InvalidOperationException("looked at"), (_, _) => { },
            TestContext.Current.CancellationToken);
        Assert.Equal(expected, again.HeldOut.Count);

        TrainingJob Long(double[] heldOut, string name)
        {
            var job = new TrainingJob(folder[name], Modules(layer), heldOut.Length * TrainingJob.EvaluateEvery, 1e-2, "test");
            var look = 0;
            job.Run(
                step => Loss(layer, step), () => torch.tensor((float)heldOut[look++]), (_, _) => { },
                TestContext.Current.CancellationToken);
            return job;
        }
    }

    private static TorchSharp.Modules.Linear Layer(int seed)
    {
        torch.manual_seed(seed);
        return Linear(3, 2, hasBias: false);
    }

    private static Dictionary<string, Module> Modules(Module layer) => new() { ["layer"] = layer };

    private static TrainingJob Open(string folder, Module layer) => new(folder, Modules(layer), 250, 1e-2, "test");

    private static void Run(TrainingJob job, TorchSharp.Modules.Linear layer, int? stopAt)
    {
        using var stop = new CancellationTokenSource();
        job.Run(
            step => Loss(layer, step), () => torch.tensor(0f), (done, _) =>
            {
                if (done == stopAt)
                    stop.Cancel();
            }, stop.Token);
    }

    private static Tensor Loss(TorchSharp.Modules.Linear layer, int step)
    {
        var random = new Random(step);
        var input = torch.tensor(Enumerable.Range(0, 12).Select(_ => random.NextSingle() - 0.5f).ToArray()).view(4, 3);
        return (layer.forward(input) - input.narrow(1, 0, 2).square()).square().mean();
    }
}
