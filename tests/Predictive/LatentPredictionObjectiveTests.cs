using AuxCore.Models;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Predictive;

/// <summary>Prediction of latent states: the formula, where gradients go and do not go, collapse with and without separation.</summary>
[RequiresLibtorch]
public class LatentPredictionObjectiveTests
{
    private const int Actions = 3, Width = 4, Size = 5;

    [Theory]
    [InlineData(0)]
    [InlineData(0.8)]
    public void The_prediction_is_compared_with_the_next_latent_state_and_what_follows(double horizon)
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        using var encoder = Encoder();
        var batch = Batch(30);
        var nextActions = torch.randint(Actions, [30], torch.int64);
        using var objective = new LatentPredictionObjective(
            encoder, Settings with { Horizon = horizon, SeparationWeight = 0, PredictionWeight = 2 });

        var loss = objective.Loss(batch, nextActions);

        // Online and target networks are still the same.
        var next = encoder.forward(batch.NextObservations);
        var later = objective.Predict(batch.NextObservations, nextActions);
        var target = next + horizon * (1 - batch.Done.to(torch.float32)).unsqueeze(1) * later;
        var expected = (objective.Predict(batch.Observations, batch.Actions) - target).square().mean();
        Assert.Equal(2 * expected.item<float>(), loss.item<float>(), 1e-6);
        Assert.Equal(expected.item<float>(), objective.Terms.Prediction, 1e-6);
        Assert.Equal(horizon > 0, (later * batch.Done.logical_not().unsqueeze(1)).abs().max().item<float>() * horizon > 1e-3);
    }

    [Fact]
    public void No_gradient_goes_into_the_targets()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(2);
        using var encoder = Encoder();
        var batch = Batch(10);
        var next = batch.NextObservations.requires_grad_();
        using var objective = new LatentPredictionObjective(encoder, Settings with { Horizon = 0.5 });

        objective.Loss(batch, torch.zeros(10, dtype: torch.int64)).backward();

        Assert.Null(next.grad);
        Assert.All(objective.Parameters(), parameter => Assert.True(parameter.grad!.abs().max().item<float>() > 0));
        Assert.Equal(8, objective.Parameters().Count());
    }

    [Fact]
    public void Separation_is_that_of_pairs_and_pushes_them_apart()
    {
        using var scope = torch.NewDisposeScope();
        using var encoder = Identity();
        var observations = torch.tensor(new float[,] { { 0, 0, 0, 0 }, { 3, 4, 0, 0 } }).requires_grad_();
        var batch = new TransitionBatch(
            observations, torch.zeros(2, dtype: torch.int64), torch.randn(2, 4), torch.zeros(2, dtype: torch.@bool));
        using var objective = new LatentPredictionObjective(encoder, Settings with { PredictionWeight = 0, SeparationWeight = 0.5 });

        var loss = objective.Loss(batch, torch.zeros(2, dtype: torch.int64));
        loss.backward();

        Assert.Equal(0.5 * Math.Exp(-5), loss.item<float>(), 1e-8); // two states make one pair, met twice
        Assert.Equal(Math.Exp(-5), objective.Terms.Separation, 1e-8);
        var along = observations.grad![1].data<float>().ToArray();
        double[] expected = [-0.6, -0.8, 0, 0]; // a step down the gradient leads away from the other
        for (var i = 0; i < 4; i++)
            Assert.Equal(expected[i] * 0.5 * Math.Exp(-5), along[i], 1e-8);
        Assert.InRange((observations.grad![0] + observations.grad![1]).abs().max().item<float>(), 0, 1e-9);
    }

    [Fact]
    public void Latent_states_that_coincide_give_no_NaN()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(3);
        using var encoder = Encoder();
        var batch = Batch(8);
        using var objective = new LatentPredictionObjective(encoder, Settings);
        var loss = objective.Loss(batch with { Observations = torch.zeros(8, Size) }, torch.zeros(8, dtype: torch.int64));
        loss.backward();
        Assert.Equal(1, objective.Terms.Separation);
        Assert.All(objective.Parameters(), parameter => Assert.True(parameter.grad!.isfinite().all().item<bool>()));
    }

    [Fact]
    public void Separation_keeps_latent_states_apart_while_prediction_is_learned()
    {
        var (without, with) = (Spread(separation: 0), Spread(separation: 1));
        Assert.True(with > 2 * without, $"{with} with, {without} without");

        // Four rooms by one-hot states, prediction and nothing else: how far latent states lie from their mean.
        static double Spread(double separation)
        {
            using var scope = torch.NewDisposeScope();
            torch.manual_seed(4);
            using var encoder = Linear(104, Width);
            using var objective = new LatentPredictionObjective(encoder, new()
            {
                Latent = Width, Actions = 4, Horizon = 0.5, SeparationWeight = separation, TargetDecay = 0.9,
            });
            var buffer = new ReplayBuffer(5000, 1);
            buffer.Collect(new TabularEnvironment(FourRooms.World, 50, 1), 100);
            var observations = torch.eye(104);
            using var optimizer = new AdamW(objective.Parameters(), 1e-2);
            for (var step = 0; step < 600; step++)
            {
                using var each = torch.NewDisposeScope();
                var batch = buffer.Sample(64, observations);
                optimizer.zero_grad();
                objective.Loss(batch, batch.Actions).backward();
                optimizer.step();
                objective.UpdateTarget();
            }

            using var noGrad = torch.no_grad();
            var latent = encoder.forward(observations);
            return (latent - latent.mean([0])).norm(1).mean().item<float>();
        }
    }

    [Fact]
    public void Targets_follow_by_their_decay()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(5);
        using var encoder = Encoder();
        using var twin = Encoder();
        using var objective = new LatentPredictionObjective(encoder, Settings with { TargetDecay = 0.75 }, twin);
        var before = encoder.parameters().First().detach().clone();
        Assert.InRange((twin.parameters().First() - before).abs().max().item<float>(), 0, 0);
        using (torch.no_grad())
            encoder.parameters().First().mul_(2);
        objective.UpdateTarget();
        Assert.InRange((twin.parameters().First() - before * 1.25f).abs().max().item<float>(), 0, 1e-6);
    }

    [Fact]
    public void A_seed_gives_the_same_and_leaves_the_global_generator_alone()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(6);
        using var encoder = Encoder();
        var batch = Batch(20);
        float First(int seed)
        {
            using var objective = new LatentPredictionObjective(encoder, Settings with { Seed = seed });
            return objective.Loss(batch, batch.Actions).item<float>();
        }

        torch.manual_seed(7);
        var expected = torch.rand(1).item<float>();
        torch.manual_seed(7);
        Assert.Equal(First(1), First(1));
        Assert.NotEqual(First(1), First(2));
        Assert.Equal(expected, torch.rand(1).item<float>());
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        using var encoder = Encoder();
        var batch = Batch(20);
        using var objective = new LatentPredictionObjective(encoder, Settings);
        void Refused<TException>(string message, TransitionBatch b, Tensor? next = null) where TException : Exception =>
            Assert.Contains(message, Assert.Throws<TException>(
                () => objective.Loss(b, next ?? batch.Actions)).Message, StringComparison.Ordinal);

        Refused<ArgumentException>("NextObservations", batch with { NextObservations = torch.randn(19, Size) });
        Refused<ArgumentOutOfRangeException>("Actions: an action", batch with { Actions = batch.Actions + 5 });
        Refused<ArgumentException>("Done: Bool[3]", batch with { Done = batch.Done[..3] });
        Refused<ArgumentException>("nextActions: Int64[3]", batch, batch.Actions[..3]);
        Refused<ArgumentOutOfRangeException>("nextActions: an action", batch, batch.Actions - 5);
        Refused<ArgumentException>("at least 2", Batch(1), torch.zeros(1, dtype: torch.int64));
        Assert.Throws<ArgumentNullException>(() => objective.Loss(null!, batch.Actions));
        Assert.Throws<ArgumentNullException>(() => objective.Loss(batch, null!));
        Assert.Throws<ArgumentException>(() => objective.Predict(torch.tensor(1f), batch.Actions));
        Assert.Throws<ArgumentException>(() => objective.Predict(batch.Observations, batch.Actions[..3]));

        using var wide = new LatentPredictionObjective(encoder, Settings with { Latent = 9 });
        Assert.Contains("encoder: it makes Float32[20, 4]", Assert.Throws<ArgumentException>(
            () => wide.Loss(batch, batch.Actions)).Message, StringComparison.Ordinal);

        LatentPredictionSettings[] wrong =
        [
            Settings with { Latent = 0 }, Settings with { Actions = 0 }, Settings with { Hidden = 0 }, Settings with { Horizon = 1 },
            Settings with { Horizon = double.NaN }, Settings with { TargetDecay = 1 }, Settings with { PredictionWeight = -1 },
            Settings with { SeparationWeight = double.PositiveInfinity },
        ];
        Assert.All(wrong, settings => Assert.Throws<ArgumentOutOfRangeException>(() => new LatentPredictionObjective(encoder, settings)));
        Assert.Throws<ArgumentNullException>(() => new LatentPredictionObjective(null!, Settings));
        Assert.Throws<ArgumentNullException>(() => new LatentPredictionObjective(encoder, null!));
        Assert.Throws<ArgumentException>(() => new LatentPredictionObjective(encoder, Settings, encoder));

        objective.Dispose();
        objective.Dispose();
        Assert.Throws<ObjectDisposedException>(() => objective.Loss(batch, batch.Actions));
        Assert.Throws<ObjectDisposedException>(() => objective.Predict(batch.Observations, batch.Actions));
        Assert.Throws<ObjectDisposedException>(objective.UpdateTarget);
    }

    [Fact]
    public void A_NaN_is_a_NaN_loss()
    {
        using var scope = torch.NewDisposeScope();
        using var encoder = Encoder();
        var batch = Batch(20);
        using var objective = new LatentPredictionObjective(encoder, Settings);
        batch.Observations[3, 2] = float.NaN;
        var loss = objective.Loss(batch, batch.Actions);
        loss.backward();
        Assert.True(float.IsNaN(loss.item<float>()));
    }

    [Fact]
    public void Nothing_is_left_behind()
    {
        using var scope = torch.NewDisposeScope();
        var batch = Batch(20);
        void Use()
        {
            using var inner = torch.NewDisposeScope();
            using var encoder = Encoder();
            using var objective = new LatentPredictionObjective(encoder, Settings with { Horizon = 0.5 });
            objective.Loss(batch, batch.Actions).backward();
            objective.UpdateTarget();
            objective.Predict(batch.Observations, batch.Actions);
        }

        Use();
        TensorLeaks.None(Use);
    }

    private static LatentPredictionSettings Settings => new() { Latent = Width, Actions = Actions };

    private static Module<Tensor, Tensor> Encoder() => Sequential(Linear(Size, 16), Tanh(), Linear(16, Width));

    private static TransitionBatch Batch(int n) => new(
        torch.randn(n, Size), torch.randint(Actions, [n], torch.int64), torch.randn(n, Size), torch.rand(n) < 0.3);
}
