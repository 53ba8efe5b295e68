using TorchSharp;
using static AuxCore.Tests.Optimization.Networks;
using static TorchSharp.torch.optim;
using AdamW = AuxCore.Models.AdamW;

namespace AuxCore.Tests.Optimization;

/// <summary>
/// Beside TorchSharp's own optimisers. They run alone: TorchSharp 0.107 makes a Scalar of each number, which a finaliser may free while
/// native code still reads it, if another thread's garbage makes a collection begin just then.
/// </summary>
[RequiresLibtorch]
[Collection(ProcessWide.Name)]
public class AdamWAgainstTorchSharpTests
{
    public static TheoryData<double, bool, bool> Kinds => new()
    {
        { 0, true, false }, { 0.05, true, false }, { 0.05, false, false }, { 0, false, false }, { 0.01, true, true }, { 0.01, false, true },
    };

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Within_1e_4_of_TorchSharp_after_1000_steps(double weightDecay, bool decoupled, bool maximize)
    {
        using var scope = torch.NewDisposeScope();
        var (ours, theirs) = Twins(Regression);
        using var optimizer = new AdamW(ours.parameters(), 3e-3, 0.9, 0.99, 1e-6, weightDecay, maximize) { Decoupled = decoupled };
        using Optimizer reference = decoupled
            ? torch.optim.AdamW(theirs.parameters(), 3e-3, 0.9, 0.99, 1e-6, weightDecay, maximize: maximize)
            : torch.optim.Adam(theirs.parameters(), 3e-3, 0.9, 0.99, 1e-6, weightDecay, maximize: maximize);
        using var data = new torch.Generator(5);
        for (var step = 0; step < 1000; step++)
        {
            using var batch = torch.NewDisposeScope();
            var x = torch.randn(8, 6, generator: data);
            var y = 2 * x.narrow(1, 0, 3) + torch.randn(8, 3, generator: data) - 1;
            foreach (var (model, trained) in new[] { (ours, optimizer), (theirs, reference) })
            {
                trained.zero_grad();
                var loss = torch.nn.functional.mse_loss(model.forward(x), y);
                (maximize ? -loss : loss).backward();
                trained.step();
            }
        }

        foreach (var (mine, other) in ours.parameters().Zip(theirs.parameters()))
        {
            var error = ((mine - other).norm() / other.norm()).item<float>();
            Assert.True(error < 1e-4, $"{error}");
            Assert.True(other.norm().item<float>() > 0.1);
        }

        Assert.Equal((1000, 0), (optimizer.Steps, optimizer.SkippedSteps));
    }

    [Fact]
    public void Groups_have_their_own_hyper_parameters()
    {
        using var scope = torch.NewDisposeScope();
        var (ours, theirs) = Twins(Network);
        AdamW.ParamGroup[] groups =
        [
            new([ours.parameters().First()], lr: 1e-2, weight_decay: 0.1),
            new(ours.parameters().Skip(1), new AdamW.Options { Beta1 = 0.5, Beta2 = 0.7 }),
        ];
        using var optimizer = new AdamW(groups, lr: 1e-3, eps: 1e-5);
        using var reference = torch.optim.AdamW(
            [
                new TorchSharp.Modules.AdamW.ParamGroup([theirs.parameters().First()], 1e-2, eps: 1e-5, weight_decay: 0.1),
                new TorchSharp.Modules.AdamW.ParamGroup(theirs.parameters().Skip(1), 1e-3, 0.5, 0.7, 1e-5),
            ]);
        for (var step = 0; step < 20; step++)
        {
            TrainStep(ours, optimizer, step);
            TrainStep(theirs, reference, step);
        }

        AssertClose(theirs, ours, 1e-5);
        Assert.Equal([1e-2, 1e-3], optimizer.ParamGroups.Select(group => group.LearningRate));
        Assert.Equal([1e-2, 1e-3], optimizer.ParamGroups.Select(group => group.InitialLearningRate));
        Assert.Equal([(0.9, 0.999), (0.5, 0.7)], groups.Select(group => group.Betas));
        Assert.Equal(6, optimizer.parameters().Count());
    }

    public static TheoryData<string> Schedulers => ["step", "cosine", "lambda", "one-cycle", "plateau"];

    [Theory]
    [MemberData(nameof(Schedulers))]
    public void Learning_rate_schedulers_of_TorchSharp_drive_it(string name)
    {
        using var scope = torch.NewDisposeScope();
        var (ours, theirs) = Twins(Network);
        using var optimizer = new AdamW(ours.parameters(), 1e-2);
        using var reference = torch.optim.AdamW(theirs.parameters(), 1e-2);
        var (scheduler, expected) = (Scheduler(optimizer), Scheduler(reference));
        var rates = new HashSet<double>();
        for (var step = 0; step < 30; step++)
        {
            TrainStep(ours, optimizer, step);
            TrainStep(theirs, reference, step);
            if (name == "plateau")
            {
                scheduler.step(1.0);
                expected.step(1.0);
            }
            else
            {
                scheduler.step();
                expected.step();
            }

            Assert.Equal(reference.ParamGroups.Single().LearningRate, optimizer.ParamGroups.Single().LearningRate);
            rates.Add(optimizer.ParamGroups.Single().LearningRate);
        }

        Assert.True(rates.Count > 1);
        AssertClose(theirs, ours, 1e-4);

        lr_scheduler.LRScheduler Scheduler(Optimizer of) => name switch
        {
            "step" => lr_scheduler.StepLR(of, 5, 0.5),
            "cosine" => lr_scheduler.CosineAnnealingLR(of, 30),
            "lambda" => lr_scheduler.LambdaLR(of, epoch => 1.0 / (1 + epoch)),
            "one-cycle" => lr_scheduler.OneCycleLR(of, 0.05, total_steps: 40), // cycles the betas as well
            _ => lr_scheduler.ReduceLROnPlateau(of, patience: 3),
        };
    }

    [Theory]
    [InlineData(0.01)]
    [InlineData(1)]
    [InlineData(1e6)]
    public void Clipping_is_that_of_clip_grad_norm(double most)
    {
        using var scope = torch.NewDisposeScope();
        var (ours, theirs) = Twins(Network);
        using var optimizer = new AdamW(ours.parameters(), 0.01) { MaxGradientNorm = most };
        using var reference = torch.optim.AdamW(theirs.parameters(), 0.01);
        for (var step = 0; step < 10; step++)
        {
            TrainStep(ours, optimizer, step);
            reference.zero_grad();
            Loss(theirs, step).backward();
            var norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), most);
            reference.step();
            Assert.Equal(norm, optimizer.LastGradientNorm, 1e-4 * norm);
        }

        AssertClose(theirs, ours, 1e-4);
    }
}
