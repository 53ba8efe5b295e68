using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Predictive;

/// <summary>What <see cref="ForwardBackward"/> does in a step, and what its F · B comes to be where the answer is known.</summary>
[RequiresLibtorch]
public class ForwardBackwardTests
{
    private static readonly FbOptions Loss = new() { Discount = 0.8, Convention = FbConvention.MetaMotivo };

    private static readonly ForwardBackwardSettings Settings =
        new() { ObservationSize = 6, Actions = 3, Dimension = 5, Hidden = 16, Loss = Loss, Seed = 3 };

    public static TheoryData<Start, double, FbTarget> Steps => new()
    {
        { Start.Next, 100, FbTarget.Mean }, { Start.Current, 0.5, FbTarget.Mean }, { Start.Next, 0, FbTarget.Minimum },
    };

    [Theory]
    [MemberData(nameof(Steps))]
    public void A_step_follows_the_gradient_of_the_published_loss(Start start, double temperature, FbTarget target)
    {
        using var scope = torch.NewDisposeScope();
        var settings = Settings with
        {
            Start = start,
            Temperature = temperature,
            Loss = Loss with { Target = target },
            LearningRate = 1e-3,
            BackwardLearningRate = 2e-3,
        };
        using ForwardBackward agent = new(settings), twin = new(settings);
        var batch = RandomBatch(20, seed: 1);
        var expected = Published(twin, settings, batch);
        expected.backward();

        var terms = agent.Update(batch);

        Assert.Equal(expected.item<float>(), terms.Total, 1e-4 * Math.Abs(terms.Total));
        Assert.Equal(1, agent.Steps);
        // Adam's first step has the length of the rate and the gradient's sign, where the gradient is not of the size of its epsilon.
        foreach (var (rate, after, before) in Parameters(agent.Forward, twin.Forward, 1e-3).Concat(
            Parameters(agent.Backward, twin.Backward, 2e-3)))
        {
            var gradient = before.grad ?? torch.zeros_like(before);
            var expectedStep = -rate * gradient / (gradient.abs() + 1e-8);
            var error = ((after - before - expectedStep).abs() * (gradient.abs() > 1e-5)).max().item<float>();
            Assert.InRange(error, 0, 1e-2 * rate);
        }

        static IEnumerable<(double, Tensor, Tensor)> Parameters(torch.nn.Module after, torch.nn.Module before, double rate) =>
            after.parameters().Zip(before.parameters(), (a, b) => (rate, (Tensor)a, (Tensor)b));
    }

    [Fact]
    public void Target_networks_begin_as_copies_and_follow_as_moving_averages()
    {
        using var scope = torch.NewDisposeScope();
        using var agent = new ForwardBackward(Settings with { TargetDecay = 0.75 });
        Tensor[] before = [.. agent.Forward.parameters().Concat(agent.Backward.parameters()).Select(p => p.detach().clone())];
        Tensor[] targets = [.. agent.TargetForward.parameters().Concat(agent.TargetBackward.parameters())];
        Assert.All(before.Zip(targets), pair => Assert.Equal(0, Distance(pair.First, pair.Second)));

        agent.Update(RandomBatch(20, seed: 1));

        var online = agent.Forward.parameters().Concat(agent.Backward.parameters()).ToArray();
        for (var i = 0; i < targets.Length; i++)
        {
            Assert.InRange(Distance(0.75 * before[i] + 0.25 * online[i], targets[i]), 0, 1e-6);
            Assert.Null(targets[i].grad);
            Assert.False(targets[i].requires_grad);
        }
    }

    [Fact]
    public void The_same_seed_and_batches_give_the_same_bits()
    {
        using var scope = torch.NewDisposeScope();
        using ForwardBackward one = new(Settings), same = new(Settings), other = new(Settings with { Seed = 4 });
        for (var i = 0; i < 5; i++)
        {
            var terms = one.Update(RandomBatch(20, i));
            torch.randn(3); // libtorch's generator has no part in it
            Assert.Equal(terms, same.Update(RandomBatch(20, i)));
            Assert.NotEqual(terms, other.Update(RandomBatch(20, i)));
        }

        Assert.All(one.Forward.parameters().Zip(same.Forward.parameters()), pair => Assert.Equal(0, Distance(pair.First, pair.Second)));
    }

    [Theory]
    [InlineData(0.0, 0)]
    [InlineData(0.5, 20)]
    [InlineData(1.0, 40)]
    public void Training_takes_z_from_goals_and_from_the_sphere(double fraction, int goals)
    {
        using var scope = torch.NewDisposeScope();
        using var agent = new ForwardBackward(Settings with { GoalFraction = fraction });
        var observations = RandomBatch(40, seed: 1).Observations;

        var z = agent.SampleZ(observations);

        Assert.InRange((z.norm(1) - Math.Sqrt(5)).abs().max().item<float>(), 0, 1e-5);
        // How far each z is from the nearest B of the states.
        var distances = torch.cdist(z, agent.GoalToZ(observations)).amin(1);
        Assert.Equal(goals, (distances < 1e-3).sum().item<long>());
        Assert.Equal(goals, (distances.narrow(0, 0, goals) < 1e-3).sum().item<long>());
        Assert.False(z.requires_grad);
        Assert.True(Distance(z, agent.SampleZ(observations)) > 0.1); // the next ones are others
    }

    [Fact]
    public void The_reward_of_one_state_has_the_z_of_that_goal()
    {
        using var scope = torch.NewDisposeScope();
        using var agent = new ForwardBackward(Settings);
        var observations = RandomBatch(12, seed: 2).Observations;
        var goals = agent.GoalToZ(observations);
        for (var g = 0; g < 12; g++)
        {
            var reward = torch.zeros(12);
            reward[g] = 7; // its size does not matter
            Assert.InRange(Distance(goals.narrow(0, g, 1), agent.RewardToZ(observations, reward)), 0, 1e-5);
        }

        var two = torch.zeros(12);
        (two[0], two[5]) = (1, -2);
        var mean = goals[0] - 2 * goals[5];
        Assert.InRange(Distance((mean * Math.Sqrt(5) / mean.norm()).unsqueeze(0), agent.RewardToZ(observations, two)), 0, 1e-5);
    }

    [Fact]
    public void Values_are_the_least_of_the_heads_and_actions_are_greedy()
    {
        using var scope = torch.NewDisposeScope();
        using var agent = new ForwardBackward(Settings with { Heads = 3 });
        var observations = RandomBatch(9, seed: 2).Observations;
        var z = agent.SampleZ(observations);
        var f = agent.Forward.forward(observations, z);

        var values = agent.Values(observations, z);

        Assert.Equal([9, 3], values.shape);
        for (var i = 0; i < 9; i++)
        {
            for (var a = 0; a < 3; a++)
            {
                var least = Enumerable.Range(0, 3).Min(e => (f[e, i, a] * z[i]).sum().item<float>());
                Assert.Equal(least, values[i, a].item<float>(), 1e-4f);
            }
        }

        Assert.Equal(values.argmax(1).data<long>().ToArray(), agent.Act(observations, z).data<long>().ToArray());
        var one = z.narrow(0, 0, 1);
        Assert.Equal(0, Distance(agent.Values(observations, one.expand(9, 5)), agent.Values(observations, one)));
        Assert.False(values.requires_grad);
        using (torch.no_grad())
            agent.Forward.parameters().ToList().ForEach(p => p.fill_(0));
        Assert.All(agent.Act(observations, z).data<long>().ToArray(), action => Assert.Equal(0, action)); // the first of equals
    }

    // Features of all states at once (√n times the identity) can express everything, and one action leaves one policy: then F · B is the
    // successor measure over the data's share of each state, which is solved for exactly.
    [Theory]
    [InlineData(Start.Next)]
    [InlineData(Start.Current)]
    public void With_one_action_and_full_features_F_dot_B_is_the_successor_measure(Start start)
    {
        const int States = 6;
        using var scope = torch.NewDisposeScope();
        using var features = new Scaled(Math.Sqrt(States));
        var settings = Settings with
        {
            Actions = 1,
            Dimension = States,
            Hidden = 32,
            Start = start,
            LearningRate = 3e-3,
            TargetDecay = 0.9,
            Loss = Loss with { Discount = 0.6, Orthonormality = 0 },
        };
        using var agent = ForwardBackward.OnFixedFeatures(settings, features);
        // A ring on which a step goes one or two places ahead; pairs i = j are left out of the loss, so each batch is many of all.
        int[] from = [.. Enumerable.Range(0, States * 40).Select(i => i % States)];
        int[] to = [.. from.Select((s, i) => (s + 1 + i / States % 2) % States)];
        var batch = Batch(States, from, [.. from.Select(_ => 0)], to);

        for (var step = 0; step < 1500; step++)
            agent.Update(batch);

        var matrix = new double[States * States];
        for (var s = 0; s < States; s++)
            matrix[s * States + (s + 1) % States] = matrix[s * States + (s + 2) % States] = 0.5;
        var exact = new double[States * States];
        SuccessorSolve.Run(TransitionMatrix.FromDense(matrix, States), 0.6, start, false, exact);
        var all = torch.eye(States);
        var f = agent.Forward.forward(all, agent.SampleZ(all)).mean([0]).squeeze(1);
        var learned = (f.matmul(features.forward(all).t()) / States).flatten().data<float>().ToArray();
        for (var at = 0; at < learned.Length; at++)
            Assert.Equal(exact[at], learned[at], 0.05);
    }

    [Fact]
    public void After_training_without_reward_every_goal_of_a_corridor_is_walked_to()
    {
        const int States = 5;
        using var scope = torch.NewDisposeScope();
        var settings = Settings with
        {
            ObservationSize = States,
            Actions = 2,
            Dimension = States,
            Hidden = 32,
            LearningRate = 2e-3,
            TargetDecay = 0.95,
            Temperature = 0,
        };
        using var agent = new ForwardBackward(settings);
        int[] from = [.. Enumerable.Range(0, 200).Select(i => i % States)], actions = [.. from.Select((_, i) => i / States % 2)];
        int Next(int state, int action) => Math.Clamp(state + 2 * action - 1, 0, States - 1);
        var batch = Batch(States, from, actions, [.. from.Zip(actions, Next)]);
        for (var step = 0; step < 1500; step++)
            agent.Update(batch);

        var all = torch.eye(States);
        for (var goal = 0; goal < States; goal++)
        {
            var reward = torch.zeros(States);
            reward[goal] = 1;
            foreach (var z in (Tensor[])[agent.GoalToZ(all.narrow(0, goal, 1)), agent.RewardToZ(all, reward)])
            {
                var policy = agent.Act(all, z).data<long>().ToArray();
                for (var state = 0; state < States; state++)
                {
                    if (state != goal)
                        Assert.True(policy[state] == (state < goal ? 1 : 0), $"goal {goal}: {string.Join(' ', policy)}");
                }
            }
        }
    }

    [Fact]
    public void Features_that_are_given_stay_as_they_are_and_stay_the_callers()
    {
        using var scope = torch.NewDisposeScope();
        using var features = torch.nn.Linear(6, 5);
        var before = features.weight.detach().clone();
        Tensor weight;
        using (var agent = ForwardBackward.OnFixedFeatures(Settings, features))
        {
            Assert.True(agent.HasFixedFeatures);
            Assert.Same(features, agent.Backward);
            weight = agent.Forward.parameters().First().detach().clone();
            agent.Update(RandomBatch(20, seed: 1));
            agent.Update(RandomBatch(20, seed: 2));
            Assert.True(Distance(weight, agent.Forward.parameters().First()) > 0);
        }

        Assert.Null(features.weight.grad);
        Assert.Equal(0, Distance(before, features.weight)); // and it was not disposed
    }

    [Fact]
    public void An_agent_outlives_the_scope_it_was_made_in_and_leaves_nothing_behind()
    {
        var batch = RandomBatch(20, seed: 1);
        void Life()
        {
            ForwardBackward agent;
            using (torch.NewDisposeScope())
                agent = new(Settings);
            using (torch.NewDisposeScope())
            {
                agent.Update(batch);
                agent.Update(batch);
                Assert.Equal(20, agent.Act(batch.Observations, agent.SampleZ(batch.Observations)).shape[0]);
            }

            TensorLeaks.None(() => agent.Update(batch));
            agent.Dispose();
            agent.Dispose();
        }

        Life();
        TensorLeaks.None(Life);
    }

    [Fact]
    public void A_NaN_observation_is_a_NaN_loss()
    {
        using var scope = torch.NewDisposeScope();
        using var agent = new ForwardBackward(Settings);
        var batch = RandomBatch(20, seed: 1);
        batch.NextObservations[3, 2] = float.NaN;

        Assert.True(double.IsNaN(agent.Update(batch).Total));
    }

    // The loss of the step that the agent is about to take, in the words of the paper's code; the twin draws the same z.
    private static Tensor Published(ForwardBackward twin, ForwardBackwardSettings settings, TransitionBatch batch)
    {
        var z = twin.SampleZ(batch.NextObservations);
        var n = z.shape[0];
        var observed = settings.Start == Start.Next ? batch.NextObservations : batch.Observations;
        Tensor targets;
        using (torch.no_grad())
        {
            var all = twin.Forward.forward(batch.NextObservations, z);
            var values = (all * z.view(1, n, 1, -1)).sum(3);
            var least = torch.minimum(values[0], values[1]);
            var policy = settings.Temperature == 0
                ? torch.nn.functional.one_hot(least.argmax(1), settings.Actions).to(torch.float32)
                : (least / settings.Temperature).softmax(1);
            var next = torch.einsum("enad,na->end", all, policy);
            var measures = torch.matmul(next, twin.Backward.forward(observed).t());
            targets = settings.Loss.Target == FbTarget.Mean ? measures.mean([0]) : torch.minimum(measures[0], measures[1]);
            targets = targets * (settings.Loss.Discount * (1 - batch.Done.to(torch.float32))).unsqueeze(1);
        }

        var taken = torch.nn.functional.one_hot(batch.Actions, settings.Actions).to(torch.float32);
        var forward = torch.einsum("enad,na->end", twin.Forward.forward(batch.Observations, z), taken);
        var backward = twin.Backward.forward(observed);
        var difference = torch.matmul(forward, backward.t()) - targets;
        var covariance = torch.matmul(backward, backward.t());
        var offDiagonal = 1 - torch.eye(n);
        var pairs = n * (n - 1.0);
        return 0.5 * (difference * offDiagonal).pow(2).sum() / pairs - difference.diagonal(0, 1, 2).mean() * 2
            + 0.5 * (covariance * offDiagonal).pow(2).sum() / pairs - covariance.diagonal().mean();
    }

    private static TransitionBatch RandomBatch(int n, int seed)
    {
        using var generator = new torch.Generator((ulong)seed, torch.CPU);
        Tensor Normal() => torch.randn([n, 6], generator: generator);
        return new(
            Normal(), torch.randint(0, 3, [n], torch.int64, generator: generator), Normal(), torch.rand([n], generator: generator) < 0.2);
    }

    private static TransitionBatch Batch(int states, int[] from, int[] actions, int[] to)
    {
        var all = torch.eye(states);
        Tensor Rows(int[] index) => all.index_select(0, torch.tensor(index, torch.int64));
        return new(Rows(from), torch.tensor(actions, torch.int64), Rows(to), torch.zeros(from.Length, torch.@bool));
    }

    private static float Distance(Tensor one, Tensor other)
    {
        using var scope = torch.NewDisposeScope();
        return (one - other).abs().max().item<float>();
    }

    private sealed class Scaled(double factor) : torch.nn.Module<Tensor, Tensor>(nameof(Scaled))
    {
        public override Tensor forward(Tensor input) => input * factor;
    }
}
