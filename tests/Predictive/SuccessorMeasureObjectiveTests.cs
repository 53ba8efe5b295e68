using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Predictive;

/// <summary>Proto-value networks for TorchSharp: the published expression, exact values as a fixed point, targets that follow.</summary>
[RequiresLibtorch]
public class SuccessorMeasureObjectiveTests
{
    private const int Tasks = 11, Actions = 3, Width = 8, Size = 5;
    private const double Discount = 0.9;

    [Theory]
    [InlineData(Start.Current, false, false)]
    [InlineData(Start.Next, true, false)]
    [InlineData(Start.Current, true, true)]
    public void Loss_and_gradients_are_those_of_autograd_on_the_published_expression(Start start, bool normalised, bool twin)
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        using var encoder = Encoder();
        using var target = Encoder();
        var batch = Batch(60);
        using var sets = RandomIndicators.Calibrate(batch.Observations, Tasks, 0.2);
        using var objective = new SuccessorMeasureObjective(
            encoder, sets, new() { Features = Width, Actions = Actions, Start = start, Normalised = normalised }, twin ? target : null);

        var loss = objective.Loss(batch, Discount);
        (loss * 3).backward();
        var gradients = objective.Parameters().Select(parameter => parameter.grad!.clone()).ToArray();
        foreach (var parameter in objective.Parameters())
            parameter.grad = null;
        var expected = Published();
        (expected * 3).backward();

        Assert.Equal(expected.item<float>(), loss.item<float>(), 1e-6);
        foreach (var (gradient, parameter) in gradients.Zip(objective.Parameters()))
        {
            Assert.True(parameter.grad!.abs().max().item<float>() > 0);
            Assert.InRange((gradient - parameter.grad!).abs().max().item<float>(), 0, 2e-6);
        }

        // All heads of all actions, then the one that was taken: as pvn/offline.py has it. The target's weights are still the online ones.
        Tensor Published()
        {
            var all = torch.einsum("bf,taf->bta", encoder.forward(batch.Observations), objective.Heads);
            var taken = all.gather(2, batch.Actions.view(-1, 1, 1).expand(-1, Tasks, 1)).squeeze(2);
            using var noGrad = torch.no_grad();
            var next = torch.einsum("bf,taf->bta", encoder.forward(batch.NextObservations), objective.Heads).mean([2]);
            var counted = start == Start.Current ? batch.Observations : batch.NextObservations;
            var reward = (sets.Features(counted) + sets.Thresholds > 0).to(torch.float32) * (normalised ? 1 - Discount : 1);
            var y = reward + Discount * (1 - batch.Done.to(torch.float32)).unsqueeze(1) * next;
            noGrad.Dispose();
            return 0.5 * (y - taken).square().mean();
        }
    }

    [Theory]
    [InlineData(Start.Current, false)]
    [InlineData(Start.Next, true)]
    public void The_exact_measure_of_four_rooms_is_where_it_stands_still(Start start, bool normalised)
    {
        using var scope = torch.NewDisposeScope();
        using var encoder = Identity();
        var observations = torch.eye(104);
        using var objective = new SuccessorMeasureObjective(
            encoder, 104, new() { Features = 104, Actions = 4, Start = start, Normalised = normalised, TargetDecay = 0 });
        var exact = new double[104 * 104];
        SuccessorSolve.Run(TransitionMatrix.FromDense(FourRooms.World.Transitions(), 104), Discount, start, normalised, exact);
        var (batch, bits) = EveryMove(FourRooms.World, observations, start);

        // Q(s, a) of a deterministic move: what counts now, and γ times the measure of the next state.
        var heads = new float[104 * 4 * 104]; // [task, action, state]
        for (var s = 0; s < 104; s++)
        {
            for (var a = 0; a < 4; a++)
            {
                var next = FourRooms.World.Outcomes(s, a)[0].Next;
                for (var t = 0; t < 104; t++)
                {
                    var counts = (start == Start.Current ? s : next) == t ? (normalised ? 1 - Discount : 1) : 0;
                    heads[(t * 4 + a) * 104 + s] = (float)(counts + Discount * exact[next * 104 + t]);
                }
            }
        }

        Assert.True(objective.Loss(batch, bits, Discount).item<float>() > 1e-4); // random heads are wrong
        using (torch.no_grad())
            objective.Heads.copy_(torch.tensor(heads).view(104, 4, 104));
        objective.UpdateTarget();
        var loss = objective.Loss(batch, bits, Discount);
        loss.backward();

        Assert.InRange(loss.item<float>(), 0, 1e-13);
        Assert.InRange(objective.Heads.grad!.abs().max().item<float>(), 0, 1e-10);
        var mean = objective.Values(observations).mean([2]).data<float>().ToArray();
        for (var at = 0; at < mean.Length; at++)
            Assert.Equal(exact[at], mean[at], 5e-6);
    }

    [Fact]
    public void Wide_features_learn_the_four_modes_of_four_rooms()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(2);
        using var encoder = Linear(104, 32, hasBias: false);
        var observations = torch.eye(104);
        using var objective = new SuccessorMeasureObjective(
            encoder, 104, new() { Features = 32, Actions = 4, Normalised = true, TargetDecay = 0.9 });
        var (batch, bits) = EveryMove(FourRooms.World, observations, Start.Current);
        using var optimizer = new AdamW(objective.Parameters(), 3e-2);
        var before = Angle();
        for (var step = 0; step < 1500; step++)
        {
            using var each = torch.NewDisposeScope();
            optimizer.zero_grad();
            objective.Loss(batch, bits, Discount).backward();
            optimizer.step();
            objective.UpdateTarget();
        }

        Assert.InRange(before, 60, 90);
        Assert.InRange(Angle(), 0, 5);

        // The largest angle between the four slowest modes of P and the first left singular vectors of what is predicted.
        double Angle()
        {
            using var inner = torch.NewDisposeScope();
            var (_, vectors) = torch.linalg.eigh(torch.tensor(FourRooms.World.Transitions()).view(104, 104));
            var (learned, _, _) = torch.linalg.svd(objective.Values(observations).mean([2]).to(torch.float64), fullMatrices: false);
            var cosines = torch.linalg.svdvals(vectors.narrow(1, 100, 4).t().mm(learned.narrow(1, 0, 4)));
            return Math.Acos(Math.Min(1, cosines.min().item<double>())) * 180 / Math.PI;
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Targets_follow_what_is_trained_by_their_decay(bool twin)
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(3);
        using var encoder = Encoder();
        using var target = Encoder();
        using var objective = new SuccessorMeasureObjective(
            encoder, Tasks, new() { Features = Width, Actions = Actions, TargetDecay = 0.75 }, twin ? target : null);
        var batch = Batch(30);
        var bits = torch.zeros(30, 2, dtype: torch.uint8);
        var before = encoder.parameters().Append(objective.Heads).Select(parameter => parameter.detach().clone()).ToArray();
        var first = objective.Loss(batch, bits, Discount).item<float>();
        using (torch.no_grad())
        {
            foreach (var parameter in encoder.parameters().Append(objective.Heads))
                parameter.mul_(2);
        }

        objective.UpdateTarget();
        Assert.NotEqual(first, objective.Loss(batch, bits, Discount).item<float>());

        // 0.75 · p + 0.25 · 2 p = 1.25 p, everywhere.
        using var hand = Encoder();
        using (torch.no_grad())
        {
            foreach (var (parameter, old) in hand.parameters().Zip(before))
                parameter.copy_(old * 1.25f);
        }

        var next = hand.forward(batch.NextObservations).matmul((before[^1] * 1.25f).mean([1]).t());
        var taken = torch.einsum("bf,taf->bta", encoder.forward(batch.Observations), objective.Heads)
            .gather(2, batch.Actions.view(-1, 1, 1).expand(-1, Tasks, 1)).squeeze(2);
        var y = Discount * next.masked_fill(batch.Done.unsqueeze(1), 0);
        Assert.Equal(
            (0.5 * (y - taken).square().mean()).item<float>(), objective.Loss(batch, bits, Discount).item<float>(), 1e-5);
        if (twin)
            Assert.InRange((target.parameters().First() - before[0] * 1.25f).abs().max().item<float>(), 0, 1e-6);
    }

    [Fact]
    public void Packed_bits_and_thresholds_give_the_same_loss()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(4);
        using var encoder = Encoder();
        var batch = Batch(50);
        using var sets = RandomIndicators.Calibrate(batch.Observations, Tasks, 0.2);
        using var objective = new SuccessorMeasureObjective(encoder, sets, new() { Features = Width, Actions = Actions });
        Assert.Equal(
            objective.Loss(batch, Discount).item<float>(), objective.Loss(batch, sets.Pack(batch.Observations), Discount).item<float>());
    }

    [Fact]
    public void With_a_twin_a_graph_from_before_the_loss_can_go_backward_and_without_it_libtorch_refuses()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(5);
        var batch = Batch(20);
        var bits = torch.zeros(20, 2, dtype: torch.uint8);
        foreach (var twin in (bool[])[true, false])
        {
            using var encoder = Encoder();
            using var target = Encoder();
            using var objective = new SuccessorMeasureObjective(
                encoder, Tasks, new() { Features = Width, Actions = Actions }, twin ? target : null);
            var other = encoder.forward(batch.Observations).sum();
            var loss = other + objective.Loss(batch, bits, Discount);
            if (twin)
                loss.backward();
            else
                Assert.Contains("modified by an inplace operation", Assert.Throws<System.Runtime.InteropServices.ExternalException>(
                    () => loss.backward()).Message, StringComparison.Ordinal);
            (objective.Loss(batch, bits, Discount) + encoder.forward(batch.Observations).sum()).backward(); // this order is right for both
        }
    }

    [Fact]
    public void A_NaN_is_a_NaN_loss_or_named()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(6);
        using var encoder = Encoder();
        var batch = Batch(20);
        batch.Done.fill_(false);
        batch.Done[3] = true;
        var bits = torch.zeros(20, 2, dtype: torch.uint8);
        using var objective = new SuccessorMeasureObjective(encoder, Tasks, new() { Features = Width, Actions = Actions });
        var poisoned = batch.Observations.clone();
        poisoned[7, 2] = float.NaN;

        var loss = objective.Loss(batch with { Observations = poisoned }, bits, Discount);
        loss.backward(); // and nothing ends the process
        Assert.True(float.IsNaN(loss.item<float>()));
        Assert.True(float.IsNaN(objective.Loss(batch with { NextObservations = poisoned }, bits, Discount).item<float>()));
        var unread = batch.NextObservations.clone();
        unread[3, 2] = float.NaN; // of a terminal transition
        Assert.True(float.IsFinite(objective.Loss(batch with { NextObservations = unread }, bits, Discount).item<float>()));

        objective.CheckFinite = true;
        Assert.True(float.IsFinite(objective.Loss(batch, bits, Discount).item<float>()));
        Assert.Contains("features: row 7", Assert.Throws<ArgumentException>(
            () => objective.Loss(batch with { Observations = poisoned }, bits, Discount)).Message, StringComparison.Ordinal);
        Assert.Contains("nextFeatures: row 7", Assert.Throws<ArgumentException>(
            () => objective.Loss(batch with { NextObservations = poisoned }, bits, Discount)).Message, StringComparison.Ordinal);
        using (torch.no_grad())
            objective.Heads[1, 2, 0] = float.NaN;
        Assert.Contains("heads: row 5", Assert.Throws<ArgumentException>(
            () => objective.Loss(batch, bits, Discount)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        using var encoder = Encoder();
        var batch = Batch(20);
        var bits = torch.zeros(20, 2, dtype: torch.uint8);
        var settings = new SuccessorMeasureSettings { Features = Width, Actions = Actions };
        using var objective = new SuccessorMeasureObjective(encoder, Tasks, settings);
        void Refused<TException>(string message, TransitionBatch? b = null, Tensor? sets = null, double discount = Discount)
            where TException : Exception =>
            Assert.Contains(message, Assert.Throws<TException>(
                () => objective.Loss(b ?? batch, sets ?? bits, discount)).Message, StringComparison.Ordinal);

        Refused<ArgumentException>("NextObservations: Float32[19, 5]", batch with { NextObservations = batch.NextObservations[..19] });
        Refused<ArgumentException>(
            "NextObservations: Float64[20, 5]", batch with { NextObservations = batch.NextObservations.to(torch.float64) });
        Refused<ArgumentException>("Actions: Int32[20]", batch with { Actions = batch.Actions.to(torch.int32) });
        Refused<ArgumentException>("Actions: Int64[19]", batch with { Actions = batch.Actions[..19] });
        Refused<ArgumentOutOfRangeException>("Actions: an action is not within 0 and 2", batch with { Actions = batch.Actions + 1 });
        Refused<ArgumentOutOfRangeException>("Actions: an action is not within 0 and 2", batch with { Actions = batch.Actions - 1 });
        Refused<ArgumentException>("Done: Bool[19]", batch with { Done = batch.Done[..19] });
        Refused<ArgumentException>("Done: Float32[20]", batch with { Done = batch.Done.to(torch.float32) });
        Refused<ArgumentException>("has no rows", batch with { Observations = torch.randn(0, 5) });
        Refused<ArgumentException>("has no rows", batch with { Observations = torch.tensor(1f) });
        Refused<ArgumentException>("indicators.bits", sets: bits[.., ..1]);
        Refused<ArgumentException>("indicators.bits", sets: bits.to(torch.int32));
        Refused<ArgumentOutOfRangeException>("discount", discount: 1);
        Refused<ArgumentOutOfRangeException>("discount", discount: double.NaN);
        Assert.Throws<ArgumentNullException>(() => objective.Loss(null!, bits, Discount));
        Assert.Throws<ArgumentNullException>(() => objective.Loss(batch, null!, Discount));
        Assert.Throws<InvalidOperationException>(() => objective.Loss(batch, Discount));
        objective.Backend = AuxBackend.Ilgpu;
        Refused<BackendUnavailableException>("");

        using var narrow = new SuccessorMeasureObjective(encoder, Tasks, settings with { Features = 9 });
        Assert.Contains("encoder: it makes Float32[20, 8]", Assert.Throws<ArgumentException>(
            () => narrow.Loss(batch, bits, Discount)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => narrow.Values(batch.Observations));

        Assert.Throws<ArgumentOutOfRangeException>(() => new SuccessorMeasureObjective(encoder, 0, settings));
        Assert.Throws<ArgumentOutOfRangeException>(() => new SuccessorMeasureObjective(encoder, Tasks, settings with { Features = 0 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new SuccessorMeasureObjective(encoder, Tasks, settings with { Actions = 0 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new SuccessorMeasureObjective(encoder, Tasks, settings with { Start = (Start)7 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new SuccessorMeasureObjective(encoder, Tasks, settings with { TargetDecay = 1 }));
        Assert.Throws<ArgumentNullException>(() => new SuccessorMeasureObjective(null!, Tasks, settings));
        Assert.Throws<ArgumentNullException>(() => new SuccessorMeasureObjective(encoder, null!, settings));
        Assert.Throws<ArgumentNullException>(() => new SuccessorMeasureObjective(encoder, Tasks, null!));
        Assert.Throws<ArgumentException>(() => new SuccessorMeasureObjective(encoder, Tasks, settings, encoder));
        using var other = Linear(Size, Width);
        Assert.Contains("target", Assert.Throws<ArgumentException>(
            () => new SuccessorMeasureObjective(encoder, Tasks, settings, other)).Message, StringComparison.Ordinal);

        objective.Dispose();
        objective.Dispose();
        Assert.Throws<ObjectDisposedException>(() => objective.Loss(batch, bits, Discount));
        Assert.Throws<ObjectDisposedException>(objective.UpdateTarget);
    }

    [Fact]
    public void Nothing_is_left_behind()
    {
        using var scope = torch.NewDisposeScope();
        var batch = Batch(20);
        using var sets = RandomIndicators.Calibrate(batch.Observations, Tasks, 0.2);
        void Use(bool twin)
        {
            using var inner = torch.NewDisposeScope();
            using var encoder = Encoder();
            using var target = Encoder();
            using var objective = new SuccessorMeasureObjective(
                encoder, sets, new() { Features = Width, Actions = Actions }, twin ? target : null);
            objective.Loss(batch, Discount).backward();
            objective.UpdateTarget();
            objective.Values(batch.Observations);
        }

        Use(true);
        TensorLeaks.None(() => Use(true));
        TensorLeaks.None(() => Use(false));
    }

    private static Module<Tensor, Tensor> Encoder() => Sequential(Linear(Size, 16), ReLU(), Linear(16, Width));

    private static TransitionBatch Batch(int n) => new(
        torch.randn(n, Size), torch.randint(Actions, [n], torch.int64), torch.randn(n, Size), torch.rand(n) < 0.2);

    // All states and actions of a world without chance, each once; the sets are the single states.
    private static (TransitionBatch Batch, Tensor Bits) EveryMove(TabularWorld world, Tensor observations, Start start)
    {
        var (s, a) = (world.States, world.Actions);
        long[] states = [.. Enumerable.Range(0, s * a).Select(move => (long)(move / a))];
        long[] actions = [.. Enumerable.Range(0, s * a).Select(move => (long)(move % a))];
        long[] next = [.. Enumerable.Range(0, s * a).Select(move => (long)world.Outcomes(move / a, move % a)[0].Next)];
        var row = Indicators.BytesPerState(s);
        var bits = new byte[s * a * row];
        for (var move = 0; move < s * a; move++)
        {
            var counted = start == Start.Current ? states[move] : next[move];
            bits[move * row + counted / 8] |= (byte)(1 << (int)(counted % 8));
        }

        var batch = new TransitionBatch(
            observations.index_select(0, torch.tensor(states)), torch.tensor(actions), observations.index_select(0, torch.tensor(next)),
            torch.zeros(s * a, dtype: torch.@bool));
        return (batch, torch.tensor(bits).view(-1, row));
    }
}
