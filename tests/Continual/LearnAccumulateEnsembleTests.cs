using AuxCore.Interop;
using AuxCore.Models;
using AuxCore.Tests.Averaging;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using AdamW = AuxCore.Models.AdamW;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Continual;

[RequiresLibtorch]
public class LearnAccumulateEnsembleTests
{
    private const int Width = 6;

    [Fact]
    public void The_ensemble_is_the_maximum_of_the_softmaxes_exactly()
    {
        using var scope = torch.NewDisposeScope();
        using var lae = Create(decay: 0.5);
        Train(lae, classes: 2, steps: 4);
        Train(lae, classes: 3, steps: 4);
        var x = torch.randn(20, Width);

        var (ensemble, online, offline) = (lae.Predict(x), lae.Predict(x, LaeExpert.Online), lae.Predict(x, LaeExpert.Offline));

        Assert.Equal([20, 5], ensemble.shape);
        var expected = Floats(online).Zip(Floats(offline), Math.Max).ToArray();
        Assert.Equal(expected, Floats(ensemble));
        Assert.NotEqual(Floats(online), expected); // both experts have a say
        Assert.NotEqual(Floats(offline), expected);
        Assert.InRange((online.sum(new long[] { 1 }) - 1).abs().max().item<float>(), 0, 1e-5f);
        Assert.Equal(Floats(online), Floats(Softmax(lae, lae.Online, x)));
        Assert.Equal(Floats(offline), Floats(Softmax(lae, lae.Offline!, x)));
        Assert.False(ensemble.requires_grad);
    }

    [Fact]
    public void The_offline_expert_is_the_closed_form_sum_over_the_online_ones_past()
    {
        using var scope = torch.NewDisposeScope();
        const double Decay = 0.9;
        using var lae = Create(Decay);
        Train(lae, classes: 2, steps: 3);
        Assert.Null(lae.Offline);
        List<double[]> past = [Values(lae.Online)]; // the copy that the second task begins with

        Train(lae, classes: 2, steps: 25, after: () => past.Add(Values(lae.Online)));

        var offline = Values(lae.Offline!);
        var steps = past.Count - 1;
        for (var i = 0; i < offline.Length; i++)
        {
            var expected = Math.Pow(Decay, steps) * past[0][i];
            for (var k = 1; k <= steps; k++)
                expected += (1 - Decay) * Math.Pow(Decay, steps - k) * past[k][i];
            Assert.Equal(expected, offline[i], 1e-6);
        }

        Assert.All(lae.Offline!.parameters(), parameter => Assert.False(parameter.requires_grad));
        Assert.Contains(offline.Zip(past[0]), pair => Math.Abs(pair.First - pair.Second) > 1e-3);
    }

    [Fact]
    public void Classifiers_of_earlier_tasks_keep_every_bit()
    {
        using var scope = torch.NewDisposeScope();
        using var lae = Create(decay: 0.9);
        Train(lae, classes: 2, steps: 3);
        var first = lae.Parameters.Where(entry => entry.name.StartsWith("heads.0", StringComparison.Ordinal)).ToArray();
        var before = first.Select(entry => EmaModelTests.Bytes(entry.parameter)).ToArray();

        Train(lae, classes: 3, steps: 5);

        Assert.Equal(2, first.Length);
        Assert.Equal(before, first.Select(entry => EmaModelTests.Bytes(entry.parameter)));
        Assert.DoesNotContain(lae.Parameters, entry => entry.name.StartsWith("heads.0", StringComparison.Ordinal));
        Assert.Equal((2, 5, 5L), (lae.Tasks, lae.Classes, lae.Steps));
    }

    [Fact]
    public void The_loss_is_over_the_classes_of_the_current_task_alone()
    {
        using var scope = torch.NewDisposeScope();
        using var lae = Create(decay: 0.9);
        Train(lae, classes: 2, steps: 1);
        lae.BeginTask(3);
        var (x, labels) = (torch.randn(7, Width), torch.tensor([2L, 3, 4, 4, 2, 2, 3]));

        var loss = lae.Backward(x, labels);

        var head = lae.Parameters.Where(entry => entry.name.StartsWith("heads.1", StringComparison.Ordinal)).ToDictionary(
            entry => entry.name, entry => entry.parameter);
        var logits = functional.linear(x + lae.Online.forward(x), head["heads.1.weight"], head["heads.1.bias"]);
        Assert.Equal(functional.cross_entropy(logits, labels - 2).item<float>(), loss.item<float>(), 1e-6f);
        Assert.False(loss.requires_grad);
    }

    [Fact]
    public void In_a_new_task_the_online_expert_is_frozen_for_as_long_as_was_asked()
    {
        using var scope = torch.NewDisposeScope();
        using var lae = Create(decay: 0.9, freeze: 3);
        Train(lae, classes: 2, steps: 2);
        Assert.False(lae.IsFrozen); // the first task has nothing to keep
        List<double[]> past = [Values(lae.Online)];

        Train(lae, classes: 2, steps: 5, after: () => past.Add(Values(lae.Online)));

        Assert.Equal(past[0], past[3]);
        Assert.NotEqual(past[3], past[4]);
        Assert.Contains(lae.Parameters, entry => entry.name.StartsWith("online.", StringComparison.Ordinal));
        Assert.All(lae.Online.parameters(), parameter => Assert.True(parameter.requires_grad));
    }

    [Fact]
    public void Buffers_follow_too_those_that_are_no_numbers_to_average_as_copies()
    {
        using var scope = torch.NewDisposeScope();
        using var lae = new LearnAccumulateEnsemble<Module<Tensor, Tensor>>(
            () => Sequential(Linear(Width, Width), BatchNorm1d(Width)), (expert, x) => expert.forward(x), Width, new() { Decay = 0.5 });
        Train(lae, classes: 2, steps: 2);
        Train(lae, classes: 2, steps: 1);
        var (online, offline) = (lae.Online.named_buffers().ToDictionary(b => b.name, b => b.buffer),
            lae.Offline!.named_buffers().ToDictionary(b => b.name, b => b.buffer));

        Assert.Equal(online["1.num_batches_tracked"].item<long>(), offline["1.num_batches_tracked"].item<long>());
        Assert.NotEqual(Floats(online["1.running_mean"]), Floats(offline["1.running_mean"]));
    }

    [Fact]
    public void The_decay_of_a_task_leaves_the_share_that_was_asked()
    {
        Assert.Equal(0.9, Math.Pow(LearnAccumulateEnsembleOptions.DecayFor(279), 279), 1e-12);
        Assert.Equal(0.25, Math.Pow(LearnAccumulateEnsembleOptions.DecayFor(2, 0.25), 2), 1e-12);
        Assert.Throws<ArgumentOutOfRangeException>(() => LearnAccumulateEnsembleOptions.DecayFor(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => LearnAccumulateEnsembleOptions.DecayFor(5, double.NaN));
        Assert.Throws<ArgumentOutOfRangeException>(() => LearnAccumulateEnsembleOptions.DecayFor(5, 1.1));
    }

    [Fact]
    public void A_step_leaves_no_tensors_behind()
    {
        using var scope = torch.NewDisposeScope();
        using var lae = Create(decay: 0.9);
        Train(lae, classes: 2, steps: 1);
        Train(lae, classes: 2, steps: 1);
        var (x, labels) = (torch.randn(4, Width), torch.tensor([2L, 3, 2, 3]));
        void Step()
        {
            using var loss = lae.Backward(x, labels);
            lae.Accumulate();
            using var probabilities = lae.Predict(x);
        }

        Step();
        TensorLeaks.None(Step);
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name_and_nothing_is_counted()
    {
        using var scope = torch.NewDisposeScope();
        using var lae = Create(decay: 0.9);
        var x = torch.randn(3, Width);
        var labels = torch.tensor([0L, 1, 0]);
        var gone = torch.zeros(1);
        gone.Dispose();
        Assert.Throws<InvalidOperationException>(() => lae.Backward(x, labels));
        Assert.Throws<InvalidOperationException>(() => lae.Predict(x));
        Assert.Throws<InvalidOperationException>(() => lae.Accumulate());
        Assert.Throws<InvalidOperationException>(() => lae.Parameters);
        Assert.Throws<ArgumentOutOfRangeException>(() => lae.BeginTask(0));
        Assert.Equal(0, lae.Tasks);
        lae.BeginTask(2);

        foreach (var wrong in (Tensor[])[torch.tensor([0L, 2, 0]), torch.tensor([-1L, 0, 0]), torch.zeros(0, torch.int64)])
            Refused("labels: not all are classes 0 to 1 of the current task", wrong);
        foreach (var wrong in (Tensor[])[labels.to(torch.int32), labels.unsqueeze(0)])
            Refused("labels: Int", wrong);
        Refused("labels: 2 for 3 rows", labels.narrow(0, 0, 2));
        Assert.Throws<ArgumentNullException>(() => lae.Backward(null!, labels));
        Assert.Throws<ArgumentNullException>(() => lae.Backward(x, null!));
        Assert.Throws<ObjectDisposedException>(() => lae.Backward(gone, labels));
        Assert.Throws<ObjectDisposedException>(() => lae.Backward(x, gone));
        Assert.Throws<ObjectDisposedException>(() => lae.Predict(gone));
        Assert.Throws<ArgumentOutOfRangeException>(() => lae.Predict(x, (LaeExpert)7));
        using (torch.no_grad())
            Assert.Throws<InvalidOperationException>(() => lae.Backward(x, labels));
        Assert.Equal(0, lae.Steps);

        using var narrow = new LearnAccumulateEnsemble<Adapter>(() => new(Width), (_, input) => input, featureSize: 5);
        narrow.BeginTask(2);
        Assert.StartsWith("features: Float32[3, 6] is not Float32[n, 5]", Assert.Throws<ArgumentException>(
            () => narrow.Backward(x, labels)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => narrow.Predict(x));

        Assert.Throws<ArgumentOutOfRangeException>(() => Create(decay: 1.1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Create(decay: double.NaN));
        Assert.Throws<ArgumentOutOfRangeException>(() => Create(decay: 0.9, freeze: -1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new LearnAccumulateEnsemble<Adapter>(() => new(Width), (_, i) => i, 0));
        Assert.Throws<ArgumentException>(() => new LearnAccumulateEnsemble<Adapter>(() => null!, (_, i) => i, 5));
        Assert.Throws<ArgumentNullException>(() => new LearnAccumulateEnsemble<Adapter>(null!, (_, i) => i, 5));
        Assert.Throws<ArgumentNullException>(() => new LearnAccumulateEnsemble<Adapter>(() => new(Width), null!, 5));

        void Refused(string message, Tensor wrong) => Assert.StartsWith(
            message, Assert.Throws<ArgumentException>(() => lae.Backward(x, wrong)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_expert_that_differs_from_the_first_is_refused_at_the_second_task()
    {
        using var scope = torch.NewDisposeScope();
        var hidden = 3;
        using var growing = new LearnAccumulateEnsemble<Adapter>(() => new(Width, hidden++), (expert, x) => expert.forward(x), Width);
        growing.BeginTask(2);
        Assert.Contains("create: ", Assert.Throws<ArgumentException>(() => growing.BeginTask(2)).Message, StringComparison.Ordinal);
        Assert.Equal((1, 2), (growing.Tasks, growing.Classes));

        var one = new Adapter(Width);
        using var same = new LearnAccumulateEnsemble<Adapter>(() => one, (expert, x) => expert.forward(x), Width);
        same.BeginTask(2);
        Assert.Throws<ArgumentException>(() => same.BeginTask(2));
    }

    [Fact]
    public void A_backend_that_cannot_run_is_refused_before_anything_moves()
    {
        using var scope = torch.NewDisposeScope();
        using var lae = Create(decay: 0.5);
        Train(lae, classes: 2, steps: 1);
        Train(lae, classes: 2, steps: 1);
        var before = Values(lae.Offline!);
        lae.Backend = AuxBackend.Ilgpu;

        Assert.Throws<BackendUnavailableException>(lae.Accumulate);

        Assert.Equal(before, Values(lae.Offline!));
        Assert.Equal(1, lae.Steps);
    }

    [Fact]
    public void Experts_and_classifiers_that_were_made_inside_a_dispose_scope_outlive_it()
    {
        LearnAccumulateEnsemble<Adapter> lae;
        using (torch.NewDisposeScope())
        {
            lae = Create(decay: 0.9);
            Train(lae, classes: 2, steps: 1);
            Train(lae, classes: 2, steps: 1);
        }

        using var scope = torch.NewDisposeScope();
        Assert.Equal([3, 4], lae.Predict(torch.randn(3, Width)).shape);
        lae.Accumulate();
        lae.Dispose();
    }

    [Fact]
    public void After_Dispose_everything_throws()
    {
        using var scope = torch.NewDisposeScope();
        var lae = Create(decay: 0.9);
        Train(lae, classes: 2, steps: 1);
        lae.Dispose();
        lae.Dispose(); // twice is once

        Assert.Throws<ObjectDisposedException>(() => lae.BeginTask(2));
        Assert.Throws<ObjectDisposedException>(() => lae.Predict(torch.randn(1, Width)));
        Assert.Throws<ObjectDisposedException>(lae.Accumulate);
    }

    private static LearnAccumulateEnsemble<Adapter> Create(double decay, long freeze = 0) => new(
        () => new Adapter(Width), (expert, x) => x + expert.forward(x), Width, new() { Decay = decay, FreezeSteps = freeze });

    private static void Train<T>(LearnAccumulateEnsemble<T> lae, int classes, int steps, Action? after = null) where T : Module
    {
        lae.BeginTask(classes);
        using var optimizer = new AdamW(lae.Parameters, lr: 0.05);
        for (var step = 0; step < steps; step++)
        {
            using var scope = torch.NewDisposeScope();
            var labels = torch.randint(lae.Classes - classes, lae.Classes, [8]);
            optimizer.zero_grad();
            lae.Backward(torch.randn(8, Width), labels);
            optimizer.step();
            lae.Accumulate();
            after?.Invoke();
        }
    }

    // All classifiers' logits on an expert's features, without the class under test.
    private static Tensor Softmax(LearnAccumulateEnsemble<Adapter> lae, Adapter expert, Tensor x)
    {
        using var noGrad = torch.no_grad();
        var heads = (List<Linear>)typeof(LearnAccumulateEnsemble<Adapter>).GetField(
            "_heads", System.Reflection.BindingFlags.Instance | System.Reflection.BindingFlags.NonPublic)!.GetValue(lae)!;
        var features = x + expert.forward(x);
        return functional.softmax(torch.cat([.. heads.Select(head => head.forward(features))], 1), 1);
    }

    private static float[] Floats(Tensor tensor) => [.. tensor.detach().contiguous().data<float>()];

    private static double[] Values(Module module) => [.. module.parameters().SelectMany(LocalTrainerTests.Doubles)];
}
