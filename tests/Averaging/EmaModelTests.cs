using AuxCore.Models;
using TorchSharp;
using TorchSharp.Modules;
using Module = TorchSharp.torch.nn.Module;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public class EmaModelTests
{
    [Fact]
    public void Three_lines_in_a_training_loop_meet_the_closed_form()
    {
        using var model = torch.nn.Linear(3, 2);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        var history = new List<double[]> { Weights(model) };

        for (var step = 1; step <= 20; step++)
        {
            using (torch.no_grad())
                model.weight.add_(step * 0.01);
            ema.Update();
            history.Add(Weights(model));
        }

        // e_n = β^n p_0 + (1 − β) Σ β^(n − t) p_t
        for (var i = 0; i < 6; i++)
        {
            var expected = Math.Pow(0.9, 20) * history[0][i]
                + Enumerable.Range(1, 20).Sum(t => 0.1 * Math.Pow(0.9, 20 - t) * history[t][i]);
            Assert.Equal(expected, Values(ema.StateDict()["weight"])[i], 1e-6);
        }

        Assert.Equal((20L, 1), (ema.Step, ema.AverageCount));
        Assert.Equal(["weight", "bias"], ema.StateDict().Keys);
    }

    [Fact]
    public void Several_averages_equal_several_models_bit_for_bit()
    {
        using var model = Network();
        EmaSchedule[] schedules = [EmaSchedule.Constant(0.5), EmaSchedule.HalfLife(20), EmaSchedule.WarmUp()];
        using var together = new EmaModel(model, schedules, BufferPolicy.Mix);
        var apart = schedules.Select(schedule => new EmaModel(model, schedule, BufferPolicy.Mix)).ToArray();

        for (var step = 0; step < 5; step++)
        {
            Perturb(model, step);
            together.Update();
            foreach (var single in apart)
                single.Update();
        }

        for (var k = 0; k < schedules.Length; k++)
        {
            foreach (var (name, value) in together.StateDict(k))
                Assert.Equal(Bytes(apart[k].StateDict()[name]), Bytes(value));
        }

        foreach (var single in apart)
            single.Dispose();
    }

    [Theory]
    [InlineData(BufferPolicy.Skip)]
    [InlineData(BufferPolicy.Copy)]
    [InlineData(BufferPolicy.Mix)]
    public void Buffers_follow_their_policy(BufferPolicy policy)
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.BatchNorm1d(2);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.75), policy);
        using (torch.no_grad())
            model.running_mean!.fill_(4f);
        model.num_batches_tracked!.fill_(9L);

        ema.Update();

        var state = ema.StateDict();
        Assert.Equal(policy != BufferPolicy.Skip, state.ContainsKey("running_mean"));
        if (policy == BufferPolicy.Skip)
            return;
        Assert.Equal(policy == BufferPolicy.Copy ? [4, 4] : [1, 1], state["running_mean"].data<float>());
        Assert.Equal(9L, state["num_batches_tracked"].item<long>());
        using (ema.Swap())
            Assert.Equal(state["running_mean"].shape, model.running_mean.shape);
        Assert.Equal([4, 4], model.running_mean.data<float>());
    }

    [Theory]
    [InlineData(torch.ScalarType.BFloat16)]
    [InlineData(torch.ScalarType.Float16)]
    public void Sixteen_bit_parameters_have_float32_averages(torch.ScalarType type)
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Linear(4, 4).to(type);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.999));
        var before = Values(ema.StateDict()["weight"]);
        using (torch.no_grad())
            model.weight.add_(1);
        var training = State(model);

        ema.Update();

        // A step of 0.001 is far below what these types resolve near 1.
        Assert.All(Values(ema.StateDict()["weight"]).Zip(before), pair => Assert.Equal(0.001, pair.First - pair.Second, 1e-5));
        using (ema.Swap())
        {
            Assert.Equal(type, model.weight.dtype);
            Assert.Equal(Bytes(ema.StateDict()["weight"].to(type)), Bytes(model.weight));
        }

        Assert.Equal(training, State(model));
    }

    [Fact]
    public void A_model_that_is_moved_or_retyped_is_followed()
    {
        using var scope = torch.NewDisposeScope();
        var model = Network();
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5), BufferPolicy.Mix);
        var before = ema.StateDict().ToDictionary(entry => entry.Key, entry => Values(entry.Value));

        model.to(torch.bfloat16);
        using (torch.no_grad())
        {
            foreach (var parameter in model.parameters())
                parameter.fill_(1f);
        }

        ema.Update();

        foreach (var (name, _) in model.named_parameters())
            Assert.All(Values(ema.StateDict()[name]).Zip(before[name]), pair => Assert.Equal((1 + pair.Second) / 2, pair.First, 1e-6));
        model.to(torch.float32);
        using (ema.Swap())
            Assert.Equal(Bytes(ema.StateDict().Values.First()).Length, Bytes(model.parameters().First()).Length);
        ema.Update();
    }

    [Fact]
    public void A_buffer_that_is_replaced_is_followed()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.BatchNorm1d(2);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));

        var old = model.running_mean!;
        model.running_mean = torch.full(2, 3f);
        old.Dispose();
        ema.Update();

        Assert.Equal([3, 3], Values(ema.StateDict()["running_mean"]));
        Assert.Equal(1, ema.Step);
    }

    [Fact]
    public void What_the_averages_hold_outlives_the_scope_that_it_was_made_in()
    {
        using var model = torch.nn.BatchNorm1d(2).to(torch.bfloat16);
        var before = State(model);
        EmaModel ema;
        EmaSwap swap;

        using (torch.NewDisposeScope())
            ema = new EmaModel(model, EmaSchedule.Constant(0.5));
        ema.Update();
        using (torch.NewDisposeScope())
            swap = ema.Swap();
        swap.Dispose();

        Assert.Equal(before, State(model));
        Assert.All(ema.StateDict().Values, tensor => Assert.False(tensor.IsInvalid));
        ema.Dispose();
    }

    [Fact]
    public void A_parameter_that_was_added_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var model = new Holder(torch.zeros(2));
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));

        model.register_parameter("added", new Parameter(torch.zeros(1)));

        Refused("now has 2 tensors where the averages were made of 1", () => ema.Swap());
    }

    [Fact]
    public void The_schedules_are_those_of_the_beginning()
    {
        using var model = torch.nn.Linear(1, 1);
        EmaSchedule[] schedules = [EmaSchedule.Constant(1)];
        using var ema = new EmaModel(model, schedules);
        var before = Values(ema.StateDict()["weight"]);

        schedules[0] = EmaSchedule.Constant(0);
        Perturb(model, 1);
        ema.Update();

        Assert.Equal(before, Values(ema.StateDict()["weight"]));
    }

    [Fact]
    public void Parameters_that_cannot_be_averaged_are_named()
    {
        using var scope = torch.NewDisposeScope();
        using var wide = torch.nn.Linear(2, 2).to(torch.float64);
        var shared = torch.zeros(6);

        Refused("'weight': float64[2, 2] on cpu", () => new EmaModel(wide, EmaSchedule.Constant(0.9)));
        Refused(
            "'first': float32[2, 2] on cpu with strides [1, 2]",
            () => new EmaModel(new Holder(torch.zeros(2, 2).t()), EmaSchedule.Constant(0.9)));
        Refused(
            "'second' overlaps 'first'",
            () => new EmaModel(new Holder(shared.narrow(0, 0, 4), shared.narrow(0, 2, 4)), EmaSchedule.Constant(0.9)));
        Refused(
            "overlaps", () => new EmaModel(new Holder(shared.narrow(0, 0, 4), shared.narrow(0, 0, 2)), EmaSchedule.Constant(0.9)));
        Refused("model", () => new EmaModel(null!, EmaSchedule.Constant(0.9)));
        Refused("schedules", () => new EmaModel(wide, (IReadOnlyList<EmaSchedule>)null!));
        Refused("at least one", () => new EmaModel(wide, []));
        Refused("none of them null", () => new EmaModel(wide, (EmaSchedule)null!));
        Refused("Not a buffer policy", () => new EmaModel(wide, EmaSchedule.Constant(0.9), (BufferPolicy)9));
    }

    [Fact]
    public void A_changed_model_is_named_and_the_averages_stay()
    {
        using var scope = torch.NewDisposeScope();
        var model = new Holder(torch.zeros(2), torch.zeros(3));
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));

        model.Reshape(torch.ones(4));

        Assert.Contains(
            "'first' now has shape [4], its average [2]", Assert.Throws<ArgumentException>(ema.Update).Message, StringComparison.Ordinal);
        Assert.Equal([0, 0], Values(ema.StateDict()["first"]));
        Assert.Equal(0, ema.Step);
    }

    [Fact]
    public void An_average_is_copied_into_a_module_of_the_same_names()
    {
        using var scope = torch.NewDisposeScope();
        var (model, export, foreign, narrow) = (Network(), Network(), torch.nn.Linear(2, 2), torch.nn.Linear(9, 9));
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));
        Perturb(model, 3);
        ema.Update();

        ema.CopyTo(export);

        Assert.All(ema.StateDict(), entry => Assert.Equal(Bytes(entry.Value), State(export)[entry.Key]));
        var untouched = State(foreign);
        Assert.Contains("has no '0.weight'", Assert.Throws<ArgumentException>(() => ema.CopyTo(foreign)).Message, StringComparison.Ordinal);
        Assert.Equal(untouched, State(foreign));
        using var linear = new EmaModel(foreign, EmaSchedule.Constant(0.5));
        Assert.Contains(
            "shape [9, 9] in the target", Assert.Throws<ArgumentException>(() => linear.CopyTo(narrow)).Message, StringComparison.Ordinal);
    }

    private static void Refused(string message, Func<object> action) =>
        Assert.Contains(message, Assert.ThrowsAny<ArgumentException>(() => action()).Message, StringComparison.Ordinal);

    /// <summary>Also for fields of test classes, which are made before xunit asks whether their tests are to be skipped.</summary>
    internal static Sequential Network()
    {
        RequiresLibtorchAttribute.OrSkip();
        torch.manual_seed(7);
        return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 3));
    }

    internal static void Perturb(Module model, int seed)
    {
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        using var generator = new torch.Generator((ulong)seed);
        foreach (var tensor in model.parameters().Concat(model.buffers()).Where(tensor => tensor.is_floating_point()))
            tensor.add_(torch.randn(tensor.shape, generator: generator).to(tensor.dtype));
    }

    internal static Dictionary<string, byte[]> State(Module model) =>
        model.state_dict().ToDictionary(entry => entry.Key, entry => Bytes(entry.Value));

    internal static byte[] Bytes(Tensor tensor) => [.. tensor.detach().bytes];

    internal static double[] Values(Tensor tensor)
    {
        using var wide = tensor.detach().to(torch.float64);
        return [.. wide.data<double>()];
    }

    private static double[] Weights(Linear model) => Values(model.weight);

    internal sealed class Tied : Module
    {
        public readonly Parameter first = new(torch.zeros(3, 2));
        public readonly Parameter second;

        public Tied() : base("tied")
        {
            second = new Parameter(first.alias());
            RegisterComponents();
        }
    }

    internal sealed class Holder : Module
    {
        public Holder(Tensor first, Tensor? second = null) : base("holder")
        {
            register_parameter("first", new Parameter(first));
            if (second is not null)
                register_parameter("second", new Parameter(second));
        }

        public void Reshape(Tensor first)
        {
            using var noGrad = torch.no_grad();
            parameters().First().set_(first);
        }
    }
}
