using AuxCore.Models;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Predictive;

/// <summary>Random sets of states: their sizes, their bits, their seeds.</summary>
[RequiresLibtorch]
public class RandomIndicatorsTests
{
    private const int Tasks = 37;

    [Fact]
    public void Each_set_holds_the_wanted_share_of_the_sample_exactly()
    {
        using var scope = torch.NewDisposeScope();
        var observations = Observations(1000);
        using var sets = RandomIndicators.Calibrate(observations, Tasks, rate: 0.05);

        var inside = (sets.Features(observations) + sets.Thresholds > 0).sum(0, type: torch.int64);
        Assert.True((inside == 50).all().item<bool>());
        Assert.Equal(0.05, sets.Report.MeanRate, 1e-12);
        Assert.Empty(sets.Report.DeadTasks);
        Assert.Equal(1000, sets.Report.States);
        Assert.Equal((Tasks, 0.05), (sets.Tasks, sets.Rate));
    }

    [Fact]
    public void Bits_are_what_features_and_thresholds_say()
    {
        using var scope = torch.NewDisposeScope();
        var observations = Observations(200);
        using var sets = RandomIndicators.Calibrate(observations, Tasks, rate: 0.2);
        var others = Observations(31, seed: 9);

        var bits = sets.Pack(others);

        Assert.Equal([31, 5], bits.shape);
        var (packed, inside) = (bits.data<byte>().ToArray(), (sets.Features(others) + sets.Thresholds > 0).data<bool>().ToArray());
        var counts = new int[Tasks];
        for (var i = 0; i < inside.Length; i++)
        {
            var (row, task) = (i / Tasks, i % Tasks);
            Assert.Equal(inside[i], (packed[row * 5 + task / 8] >> (task % 8) & 1) == 1);
            counts[task] += inside[i] ? 1 : 0;
        }

        var report = sets.Inspect(others);
        Assert.Equal(31, report.States);
        Assert.Equal(counts.Average() / 31, report.MeanRate, 1e-12);
        Assert.Equal([.. Enumerable.Range(0, Tasks).Where(t => counts[t] == 0)], report.DeadTasks);
    }

    [Fact]
    public void A_seed_gives_the_same_sets_and_leaves_the_global_generator_alone()
    {
        using var scope = torch.NewDisposeScope();
        var observations = Observations(100);
        torch.manual_seed(7);
        var expected = torch.rand(1).item<float>();
        torch.manual_seed(7);
        using var first = RandomIndicators.Calibrate(observations, Tasks, 0.1, seed: 3);
        Assert.Equal(expected, torch.rand(1).item<float>());
        using var second = RandomIndicators.Calibrate(observations, Tasks, 0.1, seed: 3);
        using var third = RandomIndicators.Calibrate(observations, Tasks, 0.1, seed: 4);

        Assert.Equal(first.Pack(observations).data<byte>().ToArray(), second.Pack(observations).data<byte>().ToArray());
        Assert.NotEqual(first.Pack(observations).data<byte>().ToArray(), third.Pack(observations).data<byte>().ToArray());
    }

    [Fact]
    public void Behind_a_relu_many_tasks_are_dead_and_the_report_says_which()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        using var linear = Linear(6, Tasks);
        using var network = Sequential(linear, ReLU());
        using (torch.no_grad())
        {
            linear.bias!.fill_(-100);
            linear.bias![5] = 0; // only this one fires
        }

        using var sets = RandomIndicators.Calibrate(network, Observations(400), 0.1);

        Assert.Equal([.. Enumerable.Range(0, Tasks).Where(t => t != 5)], sets.Report.DeadTasks);
    }

    [Fact]
    public void Following_brings_the_share_back_when_states_change()
    {
        using var scope = torch.NewDisposeScope();
        var observations = Observations(1000);
        using var sets = RandomIndicators.Calibrate(observations, Tasks, 0.1);
        var moved = observations * 3;
        var before = Distance();
        for (var i = 0; i < 300; i++)
            sets.Follow(moved, learningRate: 1);
        Assert.InRange(Distance(), 0, before / 10);

        double Distance() =>
            ((sets.Features(moved) + sets.Thresholds > 0).to(torch.float64).mean([0]) - 0.1).abs().mean().item<double>();
    }

    [Fact]
    public void The_network_stays_frozen_and_its_owner_s()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new Wide();
        var observations = torch.randn(50, 2, 3);
        var sets = RandomIndicators.Calibrate(network, observations, 0.1);
        Assert.False(sets.Features(observations).requires_grad);
        Assert.Equal(torch.bfloat16, sets.Features(observations).dtype);
        sets.Dispose();
        Assert.False(network.weight.IsInvalid);
        Assert.Throws<ObjectDisposedException>(() => sets.Pack(observations));
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        var observations = Observations(100);
        static void Refused<TException>(string message, Action action) where TException : Exception =>
            Assert.Contains(message, Assert.Throws<TException>(action).Message, StringComparison.Ordinal);

        Refused<ArgumentException>("observations: Float64[100, 6]", () => Of(observations.to(torch.float64)));
        Refused<ArgumentException>("observations: Float32[600]", () => Of(observations.flatten()));
        Refused<ArgumentException>("has no rows", () => Of(torch.randn(0, 6)));
        Refused<ArgumentException>("too few for a rate of 0.1", () => Of(Observations(4)));
        Refused<ArgumentNullException>("observations", () => Of(null!));
        Assert.Throws<ArgumentOutOfRangeException>(() => RandomIndicators.Calibrate(observations, 0, 0.1));
        Assert.Throws<ArgumentOutOfRangeException>(() => RandomIndicators.Calibrate(observations, 3, 0.1, hidden: 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => RandomIndicators.Calibrate(observations, 3, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => RandomIndicators.Calibrate(observations, 3, double.NaN));
        Assert.Throws<ArgumentNullException>(() => RandomIndicators.Calibrate(null!, observations, 0.1));
        using var flat = Flatten(0);
        Refused<ArgumentException>("network: it makes Float32[600]", () => RandomIndicators.Calibrate(flat, observations, 0.1));

        using var sets = RandomIndicators.Calibrate(observations, 3, 0.1);
        Refused<ArgumentException>("is not [n, 6]", () => sets.Pack(torch.randn(5, 7)));
        Refused<ArgumentException>("is not [n, 6]", () => sets.Inspect(torch.randn(5, 6, 1)));
        Refused<ArgumentException>("has no rows", () => sets.Features(torch.randn(0, 6)));
        Assert.Throws<ArgumentOutOfRangeException>(() => sets.Follow(observations, -1));
        var gone = Observations(3);
        gone.Dispose();
        Refused<ObjectDisposedException>("observations was disposed", () => sets.Pack(gone));

        static RandomIndicators Of(Tensor observations) => RandomIndicators.Calibrate(observations, 3, 0.1);
    }

    [Fact]
    public void Nothing_is_left_behind()
    {
        using var scope = torch.NewDisposeScope();
        var observations = Observations(100);
        TensorLeaks.None(() =>
        {
            using var sets = RandomIndicators.Calibrate(observations, Tasks, 0.1);
            sets.Pack(observations).Dispose();
            sets.Features(observations).Dispose();
            sets.Inspect(observations);
            sets.Follow(observations, 0.1);
        });
        Assert.Throws<ArgumentException>(() => RandomIndicators.Calibrate(observations, Tasks, 0.001));
    }

    private static Tensor Observations(int count, ulong seed = 1)
    {
        using var generator = new torch.Generator(seed, torch.CPU);
        return torch.randn([count, 6], generator: generator);
    }

    private sealed class Wide : Module<Tensor, Tensor>
    {
        public readonly TorchSharp.Modules.Parameter weight = new(torch.randn(6, Tasks));

        public Wide() : base(nameof(Wide)) => RegisterComponents();

        public override Tensor forward(Tensor observations) => observations.flatten(1).matmul(weight).to(torch.bfloat16);
    }
}
