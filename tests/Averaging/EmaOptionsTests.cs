using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;
using TorchSharp.Modules;
using static AuxCore.Tests.Averaging.EmaModelTests;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public sealed class EmaOptionsTests : IDisposable
{
    private readonly string _path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());

    public void Dispose() => File.Delete(_path);

    [Theory]
    [InlineData(1, 0)]
    [InlineData(4, 0)]
    [InlineData(1, 7)]
    [InlineData(4, 10)]
    [InlineData(4, 12)]
    public void Steps_are_copied_averaged_or_passed_over_as_the_options_say(int every, long startAfter)
    {
        using var model = torch.nn.Linear(1, 1, hasBias: false);
        Set(model, 0);
        using var ema = new EmaModel(
            model, EmaSchedule.Custom(t => t / (t + 3.0)), new EmaOptions { Every = every, StartAfter = startAfter });
        var (expected, begun, updates) = (0.0, -1L, 0L);

        for (var step = 1; step <= 40; step++)
        {
            Set(model, step * step);
            ema.Update();
            if (step % every == 0 && step <= startAfter)
                expected = step * step;
            else if (step % every == 0)
            {
                begun = begun < 0 ? step : begun;
                var decay = (step - begun) / (step - begun + 3.0);
                expected = decay * expected + (1 - decay) * step * step;
                updates++;
            }

            Assert.Equal(expected, Values(ema.StateDict()["weight"])[0], expected * 1e-5);
            Assert.Equal((step, updates), (ema.Step, ema.Updates));
        }
    }

    [Fact]
    public void An_average_that_never_begins_copies_for_ever()
    {
        using var model = torch.nn.Linear(1, 1, hasBias: false);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9), new EmaOptions { Every = 3, StartAfter = long.MaxValue });

        for (var step = 1; step <= 6; step++)
        {
            Set(model, step);
            ema.Update();
        }

        Assert.Equal((6, 0), (ema.Step, ema.Updates));
        Assert.Equal([6], Values(ema.StateDict()["weight"]));
    }

    [Theory]
    [InlineData(EmaStorage.Float32)]
    [InlineData(EmaStorage.BFloat16)]
    public void Training_that_resumes_between_updates_equals_training_that_never_stopped(EmaStorage storage)
    {
        using var model = Network();
        EmaSchedule[] schedules =
            [EmaSchedule.PowerFunction(0.1), EmaSchedule.Mean(), EmaSchedule.Ramp(), EmaSchedule.HalfLife(5), EmaSchedule.WarmUp()];
        var options = new EmaOptions
        {
            Every = 3, StartAfter = 4, Storage = storage, Seed = 99, Levels = 2,
            BuffersByName = new Dictionary<string, BufferPolicy> { ["1.running_mean"] = BufferPolicy.Mix },
        };
        using var whole = new EmaModel(model, schedules, options);
        using var resumed = new EmaModel(model, schedules, options);
        for (var step = 1; step <= 30; step++)
        {
            Perturb(model, step);
            whole.Update();
            if (step == 14)
            {
                whole.Save(_path);
                resumed.Load(_path);
            }
            else if (step > 14)
            {
                resumed.Update();
            }
        }

        Assert.Equal((30, 9, 10), (resumed.Step, resumed.Updates, resumed.AverageCount));
        for (var k = 0; k < whole.AverageCount; k++)
            Assert.Equal(State(whole, k), State(resumed, k));
        using var file = SafetensorsFile.Open(_path);
        Assert.Equal($"every 3, start after 4, {storage}, seed 99, levels 2", file.Metadata["auxcore.options"]);
    }

    [Fact]
    public void Buffers_have_policies_by_name_by_rule_and_by_default()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2));
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.75), new EmaOptions
        {
            Buffers = BufferPolicy.Copy,
            BuffersByName = new Dictionary<string, BufferPolicy> { ["0.running_mean"] = BufferPolicy.Mix },
            BufferRule = name => name.EndsWith("_tracked", StringComparison.Ordinal) ? BufferPolicy.Skip
                : name == "0.running_mean" ? throw new InvalidOperationException("the dictionary comes first") : null,
        });
        foreach (var buffer in model.buffers())
            buffer.fill_(5);

        ema.Update();

        var state = ema.StateDict();
        Assert.Equal([1.25, 1.25], Values(state["0.running_mean"]));
        Assert.Equal([5, 5], Values(state["1.running_mean"]));
        Assert.DoesNotContain("0.num_batches_tracked", state.Keys);
    }

    [Fact]
    public void Parameters_that_are_left_out_are_neither_averaged_nor_swapped()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2));
        using var ema = new EmaModel(
            model, EmaSchedule.Constant(0.5), new EmaOptions { Parameters = name => name.StartsWith("1.", StringComparison.Ordinal) });
        Perturb(model, 1);
        var training = EmaModelTests.State(model);
        ema.Update();

        Assert.Equal(["1.weight", "1.bias"], ema.StateDict().Keys);
        using (ema.Swap())
        {
            Assert.Equal(training["0.weight"], Bytes(model.parameters().First()));
            Assert.NotEqual(training["1.weight"], Bytes(model.parameters().ElementAt(2)));
        }

        Assert.Equal(training, EmaModelTests.State(model));
    }

    [Fact]
    public void Averages_in_bfloat16_follow_small_steps_and_are_those_of_their_seed()
    {
        using var model = torch.nn.Linear(64, 64);
        Set(model, 1);
        var options = new EmaOptions { Storage = EmaStorage.BFloat16, Seed = 5 };
        using var ema = new EmaModel(model, [EmaSchedule.Constant(0.999), EmaSchedule.Constant(0.999)], options);
        using var second = new EmaModel(model, EmaSchedule.Constant(0.999), new EmaOptions { Storage = EmaStorage.BFloat16, Seed = 6 });
        Set(model, 2);

        for (var step = 0; step < 700; step++)
        {
            ema.Update();
            second.Update();
        }

        var average = ema.StateDict()["weight"];
        Assert.Equal(torch.bfloat16, average.dtype);
        Assert.Equal(2 - Math.Pow(0.999, 700), Values(average).Average(), 2e-3); // 4,096 errors of 1/128 at most
        Assert.NotEqual(Bytes(average), Bytes(ema.StateDict(1)["weight"]));
        Assert.Equal(Bytes(ema.StateDict(1)["weight"]), Bytes(second.StateDict()["weight"])); // average k is that of seed + k
    }

    [Fact]
    public void Rounding_to_the_nearest_is_refused_for_schedules_that_would_stand_still()
    {
        using var model = torch.nn.Linear(2, 2);
        var nearest = new EmaOptions { Storage = EmaStorage.BFloat16Nearest };
        EmaSchedule[] slow =
        [
            EmaSchedule.Constant(0.991), EmaSchedule.HalfLife(100), EmaSchedule.WarmUp(), EmaSchedule.Ramp(), EmaSchedule.Mean(),
            EmaSchedule.PowerFunction(0.1),
        ];

        foreach (var schedule in slow)
            Refused<ArgumentException>(
                $"schedules[1]: {schedule}", () => new EmaModel(model, [EmaSchedule.Constant(0.9), schedule], nearest));
        using var custom = new EmaModel(model, EmaSchedule.Custom(t => t > 1 ? 0.995 : 0.5), nearest);
        custom.Update();
        custom.Update();
        var before = State(custom);
        Refused<ArgumentOutOfRangeException>("stands still", () => { custom.Update(); return custom; });
        Assert.Equal(2, custom.Step);
        Assert.Equal(before, State(custom));

        using (torch.no_grad())
            model.weight.fill_(0.5); // steps of 1e-4 are far below bfloat16's 0.004 there
        using var forced = new EmaModel(
            model, EmaSchedule.Constant(0.999), new EmaOptions { Storage = EmaStorage.BFloat16Nearest, ForceNearest = true });
        using (torch.no_grad())
            model.weight.add_(0.1);
        before = State(forced);
        forced.Update();
        Assert.Equal(before["weight"], State(forced)["weight"]);
        using var seldom = new EmaModel( // a half-life of 100 steps is β = 0.933 every tenth
            model, EmaSchedule.HalfLife(100), new EmaOptions { Storage = EmaStorage.BFloat16Nearest, Every = 10 });
    }

    [Theory]
    [InlineData(torch.ScalarType.Float32)]
    [InlineData(torch.ScalarType.BFloat16)]
    public void A_swap_with_averages_in_bfloat16_gives_everything_back(torch.ScalarType type)
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Linear(4, 4).to(type);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5), new EmaOptions { Storage = EmaStorage.BFloat16 });
        Perturb(model, 1);
        ema.Update();
        var (training, averages) = (EmaModelTests.State(model), State(ema));

        using (ema.Swap())
            Assert.Equal(averages["weight"], Bytes(model.weight.to(torch.bfloat16)));

        Assert.Equal(training, EmaModelTests.State(model));
        Assert.Equal(averages, State(ema));
        Assert.Equal(type, model.weight.dtype);
    }

    [Fact]
    public void Levels_are_averages_of_averages()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Linear(1, 1, hasBias: false);
        Set(model, 1);
        using var ema = new EmaModel(model, [EmaSchedule.Constant(0.5), EmaSchedule.Constant(0.75)], new EmaOptions { Levels = 3 });
        double[,] expected = { { 1, 1 }, { 1, 1 }, { 1, 1 } };

        for (var step = 2; step < 9; step++)
        {
            Set(model, step);
            ema.Update();
            for (var k = 0; k < 2; k++)
            {
                var (decay, source) = (k == 0 ? 0.5 : 0.75, (double)step);
                for (var level = 0; level < 3; level++)
                    source = expected[level, k] = decay * expected[level, k] + (1 - decay) * source;
            }
        }

        Assert.Equal(6, ema.AverageCount);
        for (var i = 0; i < 6; i++)
            Assert.Equal(expected[i / 2, i % 2], Values(ema.StateDict(i)["weight"])[0], 1e-5);
        using (ema.Swap(5))
            Assert.Equal(expected[2, 1], Values(model.weight)[0], 1e-5);
        ema.Backend = AuxBackend.Cuda;
        Assert.Throws<BackendUnavailableException>(ema.Update);
    }

    [Fact]
    public void Staged_averages_are_the_same_bits_and_follow_parameters_that_are_replaced_or_retyped()
    {
        using var scope = torch.NewDisposeScope();
        var model = Network();
        var staged = new EmaOptions { Device = torch.CPU, AlwaysStage = true, Buffers = BufferPolicy.Mix };
        using var ema = new EmaModel(model, [EmaSchedule.Constant(0.9), EmaSchedule.Constant(0.99)], staged);
        using var direct = new EmaModel(model, [EmaSchedule.Constant(0.9), EmaSchedule.Constant(0.99)], BufferPolicy.Mix);
        for (var step = 1; step < 9; step++)
        {
            if (step == 4)
                model.to(torch.bfloat16);
            if (step == 6)
                model.to(torch.float32);
            Perturb(model, step);
            ema.Update();
            direct.Update();
            using (ema.Swap(1))
            {
            }
        }

        for (var k = 0; k < 2; k++)
            Assert.Equal(State(direct, k), State(ema, k));
    }

    [Fact]
    public void Staging_leaks_no_tensor()
    {
        using var model = Network();
        TensorLeaks.None(() =>
        {
            using var ema = new EmaModel(
                model, EmaSchedule.Constant(0.9), new EmaOptions { AlwaysStage = true, Levels = 2, Storage = EmaStorage.BFloat16 });
            ema.FeedBack(2, 0.5);
            for (var step = 0; step < 5; step++)
                ema.Update();
        });
    }

    [Theory]
    [InlineData(0)]
    [InlineData(0.25)]
    public void An_average_is_fed_back_into_the_model(double keep)
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Linear(1, 1, hasBias: false);
        Set(model, 0);
        using var ema = new EmaModel(
            model, [EmaSchedule.Constant(0.9), EmaSchedule.Constant(0.5)], new EmaOptions { Every = 2, StartAfter = 4 });
        ema.FeedBack(every: 3, keep, average: 1);
        var (weight, average) = (0.0, 0.0);

        for (var step = 1; step <= 20; step++)
        {
            weight++;
            using (torch.no_grad())
                model.weight.add_(1);
            ema.Update();
            if (step % 2 == 0)
                average = step <= 4 ? weight : 0.5 * average + 0.5 * weight;
            if (step % 3 == 0 && step > 4)
                weight = keep * weight + (1 - keep) * average;
            Assert.Equal(weight, Values(model.weight)[0], 1e-5);
        }

        Assert.Equal(average, Values(ema.StateDict(1)["weight"])[0], 1e-5);
    }

    [Theory]
    [InlineData(torch.ScalarType.BFloat16)]
    [InlineData(torch.ScalarType.Float16)]
    public void Sixteen_bit_parameters_are_fed_back_rounded_once(torch.ScalarType type)
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Linear(8, 8).to(type);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));
        Perturb(model, 3);
        var before = Values(model.weight);
        ema.FeedBack(1, keep: 0.5);

        ema.Update();

        var average = Values(ema.StateDict()["weight"]);
        var expected = torch.tensor((double[])[.. before.Zip(average, (p, e) => 0.5 * p + 0.5 * e)]).to(torch.float32).to(type);
        Assert.Equal(Values(expected), Values(model.weight));
        Assert.Equal(type, model.weight.dtype);
    }

    [Fact]
    public void A_graph_from_before_a_feedback_refuses_its_backward_pass()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1));
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        ema.FeedBack(1);
        var loss = model.forward(torch.ones(1, 2)).sum();

        ema.Update();

        Assert.Throws<System.Runtime.InteropServices.ExternalException>(() => loss.backward());
    }

    [Fact]
    public void Parameters_and_buffers_that_are_replaced_are_followed_although_the_old_ones_live()
    {
        using var scope = torch.NewDisposeScope();
        var model = new Net();
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.0));
        var (oldWeight, oldBuffer) = (model.own, model.get_buffer("counts")!);

        model.ReplaceOwn(3);
        ema.Update();

        Assert.Equal([3, 3], Values(ema.StateDict()["own"]));
        Assert.Equal([3, 3], Values(ema.StateDict()["counts"]));
        Assert.False(oldWeight.IsInvalid || oldBuffer.IsInvalid);

        model.first.weight = new Parameter(torch.full([2, 2], 3f)); // this setter disposes the old one
        ema.Update();
        Assert.Equal([3, 3, 3, 3], Values(ema.StateDict()["first.weight"]));
        model.words.weight = new Parameter(torch.full([3, 1], 7f)); // this one does not
        ema.Update();
        Assert.Equal([7, 7, 7], Values(ema.StateDict()["words.weight"]));
    }

    [Fact]
    public void A_parameter_that_is_transposed_in_place_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Linear(3, 3, hasBias: false);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));
        var before = State(ema);

        using (torch.no_grad())
            model.weight.set_(model.weight.detach().t());

        Refused<ArgumentException>("'weight': float32[3, 3] on cpu with strides [1, 3]", () => { ema.Update(); return ema; });
        Assert.Equal(0, ema.Step);
        Assert.Equal(before, State(ema));
    }

    [Fact]
    public void Options_out_of_range_and_unknown_names_are_refused()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.BatchNorm1d(2);
        var schedule = EmaSchedule.Constant(0.5);
        EmaModel With(EmaOptions options) => new(model, schedule, options);

        Refused<ArgumentOutOfRangeException>("Every", () => With(new() { Every = 0 }));
        Refused<ArgumentOutOfRangeException>("StartAfter", () => With(new() { StartAfter = -1 }));
        Refused<ArgumentOutOfRangeException>("Levels", () => With(new() { Levels = 0 }));
        Refused<ArgumentOutOfRangeException>("Not a storage", () => With(new() { Storage = (EmaStorage)9 }));
        Refused<ArgumentOutOfRangeException>("Not a buffer policy", () => With(new() { Buffers = (BufferPolicy)9 }));
        Refused<ArgumentException>("is not a buffer policy, for 'running_mean'", () => With(new() { BufferRule = _ => (BufferPolicy)9 }));
        Refused<ArgumentException>(
            "no persistent buffer 'running_men'",
            () => With(new() { BuffersByName = new Dictionary<string, BufferPolicy> { ["running_men"] = BufferPolicy.Skip } }));
        Refused<ArgumentException>("device: meta", () => With(new() { Device = torch.META }));
        Refused<ArgumentNullException>("options", () => new EmaModel(model, schedule, (EmaOptions)null!));
        using var ema = With(new());
        Refused<ArgumentOutOfRangeException>("every", () => { ema.FeedBack(0); return ema; });
        Refused<ArgumentOutOfRangeException>("keep", () => { ema.FeedBack(1, double.NaN); return ema; });
        Refused<ArgumentOutOfRangeException>("keep", () => { ema.FeedBack(1, 1.1); return ema; });
        Refused<ArgumentOutOfRangeException>("There are 1 averages", () => { ema.FeedBack(1, 0, 1); return ema; });
    }

    private static void Refused<TException>(string message, Func<object> action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(() => action()).Message, StringComparison.Ordinal);

    private static void Set(Linear model, float value)
    {
        using var noGrad = torch.no_grad();
        model.weight.fill_(value);
    }

    private static Dictionary<string, byte[]> State(EmaModel ema, int average = 0) =>
        ema.StateDict(average).ToDictionary(entry => entry.Key, entry => Bytes(entry.Value));

    private sealed class Net : torch.nn.Module<Tensor, Tensor>
    {
        public readonly Linear first = torch.nn.Linear(2, 2, hasBias: false);
        public readonly Embedding words = torch.nn.Embedding(3, 1);
        public Parameter own = new(torch.zeros(2));

        public Net() : base("net")
        {
            register_buffer("counts", torch.zeros(2));
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) => first.forward(input) + own; // words are only there to be averaged

        public void ReplaceOwn(float value)
        {
            own = new Parameter(torch.full(2, value));
            ConditionallyRegisterParameter("own", own);
            ConditionallyRegisterBuffer("counts", torch.full(2, value), persistent: true);
        }
    }
}
