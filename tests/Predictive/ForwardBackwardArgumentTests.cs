using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Predictive;

/// <summary>What <see cref="ForwardBackward"/> and its maps refuse, before libtorch sees it; no weight moves then.</summary>
[RequiresLibtorch]
public class ForwardBackwardArgumentTests
{
    private static readonly ForwardBackwardSettings Settings = new()
    {
        ObservationSize = 6,
        Actions = 3,
        Dimension = 5,
        Hidden = 8,
        Loss = new() { Discount = 0.8, Convention = FbConvention.MetaMotivo },
    };

    [Fact]
    public void Settings_out_of_range_are_refused_by_name()
    {
        Refused(Settings with { ObservationSize = 0 }, "ObservationSize");
        Refused(Settings with { Actions = 0 }, "Actions");
        Refused(Settings with { Dimension = 0 }, "Dimension");
        Refused(Settings with { Heads = 0 }, "Heads");
        Refused(Settings with { Hidden = -1 }, "Hidden");
        Refused(Settings with { Loss = Settings.Loss with { Discount = 1 } }, "Loss.Discount");
        Refused(Settings with { Start = (Start)7 }, "Start");
        foreach (var rate in (double[])[0, -1, double.NaN, double.PositiveInfinity])
        {
            Refused(Settings with { LearningRate = rate }, "LearningRate");
            Refused(Settings with { BackwardLearningRate = rate }, "BackwardLearningRate");
        }

        foreach (var decay in (double[])[-0.1, 1, double.NaN])
            Refused(Settings with { TargetDecay = decay }, "TargetDecay");
        foreach (var fraction in (double[])[-0.1, 1.1, double.NaN])
            Refused(Settings with { GoalFraction = fraction }, "GoalFraction");
        foreach (var temperature in (double[])[-1, double.NaN, double.PositiveInfinity])
            Refused(Settings with { Temperature = temperature }, "Temperature");
        Assert.Throws<ArgumentNullException>(() => new ForwardBackward(null!));
        Assert.Throws<ArgumentNullException>(() => new ForwardBackward(Settings with { Loss = null! }));
        Assert.Throws<ArgumentNullException>(() => ForwardBackward.OnFixedFeatures(Settings, null!));
        Assert.Throws<ArgumentException>(() => new ForwardBackward(
            Settings with { Loss = Settings.Loss with { Form = FbForm.Gram, Target = FbTarget.Minimum } }));

        static void Refused(ForwardBackwardSettings settings, string name) => Assert.Contains(
            name, Assert.Throws<ArgumentOutOfRangeException>(() => new ForwardBackward(settings)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Batches_that_do_not_fit_are_refused_by_name_and_no_weight_moves()
    {
        using var scope = torch.NewDisposeScope();
        using var agent = new ForwardBackward(Settings);
        var good = new TransitionBatch(
            torch.randn(20, 6), torch.zeros(20, torch.int64), torch.randn(20, 6), torch.zeros(20, torch.@bool));
        var before = agent.Forward.parameters().First().detach().clone();
        var gone = torch.randn(20, 6);
        gone.Dispose();

        Refused<ArgumentException>("Observations: Float32[20, 5]", good with { Observations = torch.randn(20, 5) });
        Refused<ArgumentException>("Observations: Float32[6]", good with { Observations = torch.randn(6) });
        Refused<ArgumentException>("Observations: Float64[20, 6]", good with { Observations = torch.randn(20, 6, torch.float64) });
        Refused<ArgumentException>("meta", good with { Observations = torch.zeros(20, 6, device: torch.META) });
        Refused<ArgumentNullException>("Observations", good with { Observations = null! });
        Refused<ObjectDisposedException>("Observations was disposed", good with { Observations = gone });
        Refused<ArgumentException>("NextObservations: Float32[20, 7]", good with { NextObservations = torch.randn(20, 7) });
        Refused<ArgumentException>("NextObservations: 19 rows for 20", good with { NextObservations = torch.randn(19, 6) });
        Refused<ArgumentNullException>("NextObservations", good with { NextObservations = null! });
        Refused<ArgumentException>("Actions: Int32[20]", good with { Actions = torch.zeros(20, torch.int32) });
        Refused<ArgumentException>("Actions: Int64[20, 1]", good with { Actions = torch.zeros(20, 1, torch.int64) });
        Refused<ArgumentException>("Actions: Int64[19]", good with { Actions = torch.zeros(19, torch.int64) });
        Refused<ArgumentException>("Actions: 3 is not within 0 and 2", good with { Actions = torch.full(20, 3, torch.int64) });
        Refused<ArgumentException>("Actions: -1 is not within 0 and 2", good with { Actions = torch.full(20, -1, torch.int64) });
        Refused<ArgumentException>("meta", good with { Actions = torch.zeros(20, torch.int64, device: torch.META) });
        Refused<ArgumentNullException>("Actions", good with { Actions = null! });
        Refused<ArgumentException>("Done: Bool[21]", good with { Done = torch.zeros(21, torch.@bool) });
        Refused<ArgumentException>("Done: Float32[20]", good with { Done = torch.zeros(20) });
        Refused<ArgumentNullException>("Done", good with { Done = null! });
        Refused<ArgumentException>("1 transitions", new(
            good.Observations.narrow(0, 0, 1), good.Actions.narrow(0, 0, 1), good.NextObservations.narrow(0, 0, 1),
            good.Done.narrow(0, 0, 1)));
        Refused<ArgumentException>("0 transitions", new(
            torch.empty(0, 6), torch.empty(0, torch.int64), torch.empty(0, 6), torch.empty(0, torch.@bool)));
        Assert.Throws<ArgumentNullException>(() => agent.Update(null!));

        Assert.Equal(0, agent.Steps);
        Assert.Equal(0f, (before - agent.Forward.parameters().First()).abs().max().item<float>());
        agent.Update(good);

        void Refused<TException>(string message, TransitionBatch batch) where TException : Exception =>
            Assert.Contains(message, Assert.Throws<TException>(() => agent.Update(batch)).Message, StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public void Calls_with_tensors_that_do_not_fit_are_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var agent = new ForwardBackward(Settings);
        Tensor observations = torch.randn(4, 6), narrow = torch.randn(4, 5), wide = torch.randn(4, 7);

        Assert.Throws<ArgumentException>(() => agent.SampleZ(wide));
        Assert.Throws<ArgumentException>(() => agent.GoalToZ(narrow));
        Assert.Throws<ArgumentException>(() => agent.RewardToZ(narrow, torch.zeros(4)));
        Assert.Throws<ArgumentException>(() => agent.RewardToZ(observations, torch.zeros(3)));
        Assert.Throws<ArgumentException>(() => agent.RewardToZ(observations, torch.zeros(4, torch.int64)));
        Assert.Throws<ArgumentException>(() => agent.RewardToZ(observations, torch.zeros(4, 1)));
        Assert.Throws<ArgumentException>(() => agent.Values(wide, narrow));
        Assert.Throws<ArgumentException>(() => agent.Values(observations, observations));
        Assert.Contains("z: 3 rows for 4", Assert.Throws<ArgumentException>(
            () => agent.Values(observations, narrow.narrow(0, 0, 3))).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => agent.Act(wide, narrow));
        Assert.Throws<ArgumentNullException>(() => agent.Act(observations, null!));
        Assert.Throws<ArgumentException>(() => agent.Forward.forward(wide, narrow));
        Assert.Throws<ArgumentException>(() => agent.Forward.forward(observations, narrow.narrow(0, 0, 3)));
        Assert.Throws<ArgumentException>(() => agent.Backward.forward(wide));
    }

    [Fact]
    public void Maps_of_no_size_are_refused_by_name()
    {
        for (var i = 0; i < 5; i++)
        {
            long[] sizes = [4, 2, 3, 1, 8];
            sizes[i] = 0;
            var error = Assert.Throws<ArgumentOutOfRangeException>(
                () => new ForwardMap(sizes[0], sizes[1], sizes[2], (int)sizes[3], sizes[4]));
            Assert.Equal(((string[])["observationSize", "actions", "dimension", "heads", "hidden"])[i], error.ParamName);
        }

        Assert.Equal("observationSize", Assert.Throws<ArgumentOutOfRangeException>(() => new BackwardMap(0, 3, 8)).ParamName);
        Assert.Equal("dimension", Assert.Throws<ArgumentOutOfRangeException>(() => new BackwardMap(4, 0, 8)).ParamName);
        Assert.Equal("hidden", Assert.Throws<ArgumentOutOfRangeException>(() => new BackwardMap(4, 3, 0)).ParamName);
    }

    [Fact]
    public void Features_of_another_shape_are_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var wide = torch.nn.Linear(6, 7);
        using var oneRow = new FirstRow();
        var batch = new TransitionBatch(
            torch.randn(20, 6), torch.zeros(20, torch.int64), torch.randn(20, 6), torch.zeros(20, torch.@bool));
        foreach (var (features, message) in ((torch.nn.Module<Tensor, Tensor>, string)[])
            [(wide, "features: Float32[20, 7]"), (oneRow, "features: 1 rows for 20")])
        {
            using var agent = ForwardBackward.OnFixedFeatures(Settings with { GoalFraction = 0 }, features);
            foreach (var call in (Action[])
                [
                    () => agent.Update(batch), () => agent.GoalToZ(batch.Observations),
                    () => agent.RewardToZ(batch.Observations, torch.zeros(20)),
                ])
                Assert.Contains(message, Assert.Throws<ArgumentException>(call).Message, StringComparison.Ordinal);
            Assert.Equal(0, agent.Steps);
        }
    }

    [Fact]
    public void A_disposed_agent_says_so()
    {
        using var scope = torch.NewDisposeScope();
        var batch = new TransitionBatch(
            torch.randn(4, 6), torch.zeros(4, torch.int64), torch.randn(4, 6), torch.zeros(4, torch.@bool));
        var agent = new ForwardBackward(Settings);
        agent.Dispose();

        foreach (var call in (Action[])
            [
                () => agent.Update(batch), () => agent.SampleZ(batch.Observations), () => agent.GoalToZ(batch.Observations),
                () => agent.RewardToZ(batch.Observations, torch.zeros(4)), () => agent.Values(batch.Observations, torch.zeros(1, 5)),
                () => agent.Act(batch.Observations, torch.zeros(1, 5)),
            ])
            Assert.Throws<ObjectDisposedException>(call);
    }

    private sealed class FirstRow() : torch.nn.Module<Tensor, Tensor>(nameof(FirstRow))
    {
        public override Tensor forward(Tensor input) => torch.zeros(1, 5);
    }
}
