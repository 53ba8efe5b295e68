using AuxCore.Interop;
using AuxCore.Models;
using AuxCore.Tests.Averaging;
using TorchSharp;
using TorchSharp.Modules;
using static AuxCore.Tests.Optimization.Networks;
using AdamW = AuxCore.Models.AdamW;

namespace AuxCore.Tests.Optimization;

/// <summary>Which parameters an optimiser takes, and how it follows them.</summary>
[RequiresLibtorch]
public class AdamWParametersTests
{
    [Theory]
    [InlineData("bfloat16", 1e-2)]
    [InlineData("float16", 1e-3)]
    public void A_model_of_sixteen_bits_trains_as_its_float32_twin(string type, double distance)
    {
        using var scope = torch.NewDisposeScope();
        var dtype = Enum.Parse<torch.ScalarType>(type, ignoreCase: true);
        var (narrow, wide) = Twins(() => Network().to(dtype));
        wide.to(torch.float32);
        using var optimizer = new AdamW(narrow.parameters(), 1e-4);
        using var reference = new AdamW(wide.parameters(), 1e-4);

        // Steps of 1e-4 are less than half of bfloat16's last place for most weights: only the masters see them.
        for (var step = 0; step < 50; step++)
        {
            foreach (var (mine, other) in narrow.parameters().Zip(wide.parameters()))
            {
                mine.grad = torch.ones_like(mine);
                other.grad = torch.ones_like(other);
            }

            optimizer.step();
            reference.step();
        }

        foreach (var (mine, other) in narrow.parameters().Zip(wide.parameters()))
        {
            Assert.Equal(dtype, mine.dtype);
            Assert.Equal(EmaModelTests.Bytes(other.to(dtype)), EmaModelTests.Bytes(mine)); // the same steps, rounded at the end
            Assert.True((mine.to(torch.float32) - other).abs().max().item<float>() <= distance);
        }
    }

    [Fact]
    public void Weights_that_are_loaded_after_the_optimiser_was_made_count()
    {
        using var scope = torch.NewDisposeScope();
        var model = Network().to(torch.bfloat16);
        using var optimizer = new AdamW(model.parameters(), 1e-3);
        TrainStep(model, optimizer, 0);
        using (torch.no_grad())
            model.parameters().First().fill_(8);

        TrainStep(model, optimizer, 1);

        Assert.Equal(8, model.parameters().First().to(torch.float32).mean().item<float>(), 0.1f);
    }

    [Fact]
    public void A_model_that_is_retyped_is_followed_with_its_moments()
    {
        using var scope = torch.NewDisposeScope();
        var (model, twin) = Twins(Network);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        using var optimizer = new AdamW(model.named_parameters(), 0.01) { Averages = ema };
        using var reference = new AdamW(twin.parameters(), 0.01);
        foreach (var dtype in (torch.ScalarType[])[torch.float32, torch.bfloat16, torch.float16, torch.float32])
        {
            model.to(dtype);
            optimizer.zero_grad(set_to_none: true); // knows the new parameters already
            foreach (var (mine, other) in model.parameters().Zip(twin.parameters()))
            {
                using (torch.no_grad())
                    other.copy_(mine); // the twin takes the same step, in float32, from the same value
                mine.grad = torch.full_like(mine, -0.5);
                other.grad = torch.full_like(other, -0.5);
            }

            optimizer.step();
            reference.step();

            foreach (var (mine, other) in model.parameters().Zip(twin.parameters()))
                Assert.Equal(EmaModelTests.Bytes(other.to(dtype)), EmaModelTests.Bytes(mine));
        }

        Assert.Equal((4, 4), (optimizer.Steps, ema.Step));
        Assert.Equal(6, optimizer.state_dict().State.Count);
    }

    [Fact]
    public void A_parameter_that_moved_is_followed()
    {
        using var scope = torch.NewDisposeScope();
        var parameter = new Parameter(torch.ones(4));
        using var optimizer = new AdamW([parameter], 0.1);
        parameter.grad = torch.ones(4);
        optimizer.step();
        using (torch.no_grad())
            parameter.set_(torch.full(4, 5f));

        optimizer.step();

        Assert.All(parameter.data<float>(), value => Assert.Equal(4.9f, value, 1e-4f));
    }

    [Fact]
    public void A_parameter_that_moved_and_fits_no_longer_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var parameter = new Parameter(torch.ones(4));
        using var optimizer = new AdamW([parameter], 0.1);
        parameter.grad = torch.ones(4);
        using (torch.no_grad())
            parameter.set_(torch.full(5, 5f));

        Assert.Contains("'0.0' now has shape [5], its moments [4]", Assert.Throws<ArgumentException>(
            () => optimizer.step()).Message, StringComparison.Ordinal);
        Assert.All(parameter.data<float>(), value => Assert.Equal(5, value));
        using (torch.no_grad())
            parameter.set_(torch.full(4, 2f));
        optimizer.step(); // and it goes on
        Assert.All(parameter.data<float>(), value => Assert.Equal(1.9f, value, 1e-4f));
    }

    [Fact]
    public void A_model_that_is_retyped_beyond_what_can_be_stepped_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var model = Network();
        using var optimizer = new AdamW(model.named_parameters());
        TrainStep(model, optimizer, 0);
        model.to(torch.float64);
        var before = EmaModelTests.State(model);

        Assert.Contains("'0.weight': float64", Assert.Throws<ArgumentException>(() => optimizer.step()).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => optimizer.zero_grad());
        Assert.Throws<ArgumentException>(() => optimizer.Save("nowhere"));

        Assert.Equal(before, EmaModelTests.State(model));
        model.to(torch.float32);
        TrainStep(model, optimizer, 1);
        Assert.Equal(2, optimizer.Steps);
    }

    [Fact]
    public void A_list_of_parameters_that_were_disposed_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var model = Network();
        using var optimizer = new AdamW(model.named_parameters().ToArray());
        model.to(torch.bfloat16);

        var error = Assert.Throws<ObjectDisposedException>(() => optimizer.step());

        Assert.Equal("0.weight", error.ObjectName);
        Assert.Contains("model.parameters() itself", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_changed_number_of_parameters_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var parameters = new List<Parameter> { new(torch.ones(2)), new(torch.ones(2)) };
        using var optimizer = new AdamW(parameters);
        parameters[0].Dispose();
        parameters.RemoveAt(0);

        Assert.Contains("1 parameters now where the optimiser was made of 2", Assert.Throws<ArgumentException>(
            () => optimizer.step()).Message, StringComparison.Ordinal);
        parameters.Add(new(torch.ones(3)));
        Assert.Contains("'0.1' now has shape [3], its moments [2]", Assert.Throws<ArgumentException>(
            () => optimizer.step()).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Parameters_that_cannot_be_stepped_are_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        var good = new Parameter(torch.ones(2));
        var memory = torch.ones(6);
        var disposed = new Parameter(torch.ones(2));
        disposed.Dispose();

        Refused("'bad': float64[2] on cpu", new Parameter(torch.ones(2, dtype: torch.float64)));
        Refused("'bad': float32[3, 2] on cpu with strides [1, 3]", new Parameter(torch.ones(2, 3).t()));
        Refused("'bad' overlaps 'good'", good);
        Refused("parameter 1 of the group is null or was disposed", null!);
        Refused("parameter 1 of the group is null or was disposed", disposed);
        Refused("is sparse", new Parameter(torch.ones(2).to_sparse()));
        Assert.Contains("overlaps", Assert.Throws<ArgumentException>(() => new AdamW(
            [new Parameter(memory.narrow(0, 0, 4)), new Parameter(memory.narrow(0, 3, 3))])).Message, StringComparison.Ordinal);
        Assert.Contains("used once", Assert.Throws<ArgumentException>(() => new AdamW(
            [("same", good), ("same", new Parameter(torch.ones(2)))])).Message, StringComparison.Ordinal);
        Assert.Contains("used once", Assert.Throws<ArgumentException>(() => new AdamW([("", good)])).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentNullException>(() => new AdamW((IEnumerable<Parameter>)null!));
        Assert.Throws<ArgumentNullException>(() => new AdamW((IEnumerable<(string, Parameter)>)null!));
        Assert.Throws<ArgumentNullException>(() => new AdamW((IEnumerable<AdamW.ParamGroup>)null!));

        void Refused(string message, Parameter bad) => TensorLeaks.None(() => Assert.Contains(
            message, Assert.Throws<ArgumentException>(() => new AdamW([("good", good), ("bad", bad)])).Message, StringComparison.Ordinal));
    }

    [Fact]
    public void A_group_that_does_not_fit_is_not_added()
    {
        using var scope = torch.NewDisposeScope();
        var parameter = new Parameter(torch.ones(2));
        using var optimizer = new AdamW([parameter], 0.1);

        Assert.Throws<ArgumentNullException>(() => optimizer.add_param_group(null!));
        Assert.Contains("TorchSharp.Modules.SGD", Assert.Throws<ArgumentException>(() => optimizer.add_param_group(
            new TorchSharp.Modules.ParamGroup { Parameters = [new(torch.ones(2))], Options = new SGD.Options() })).Message,
            StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => optimizer.add_param_group(new AdamW.ParamGroup([parameter])));
        Assert.Throws<ArgumentOutOfRangeException>(() => optimizer.add_param_group(new AdamW.ParamGroup([new(torch.ones(2))], lr: -1)));

        Assert.Single(optimizer.ParamGroups);
        parameter.grad = torch.ones(2);
        optimizer.step();
        Assert.Equal(0.9f, parameter.data<float>()[0], 1e-5f);
    }

    [Theory]
    [InlineData("LearningRate", -1, 0.9, 0.999, 1e-8, 0)]
    [InlineData("Beta1", 1e-3, 1, 0.999, 1e-8, 0)]
    [InlineData("Beta2", 1e-3, 0.9, -0.1, 1e-8, 0)]
    [InlineData("Epsilon", 1e-3, 0.9, 0.999, double.NaN, 0)]
    [InlineData("WeightDecay", 1e-3, 0.9, 0.999, 1e-8, -1)]
    public void Hyper_parameters_out_of_range_are_refused(string name, double lr, double beta1, double beta2, double eps, double decay)
    {
        using var scope = torch.NewDisposeScope();
        var parameter = new Parameter(torch.ones(2));

        Assert.Equal($"options.{name}", Assert.Throws<ArgumentOutOfRangeException>(
            () => new AdamW([parameter], lr, beta1, beta2, eps, decay)).ParamName);
        Assert.Equal($"options.{name}", Assert.Throws<ArgumentOutOfRangeException>(() => new AdamW(
            [new AdamW.ParamGroup([parameter], lr, beta1, beta2, eps, decay)])).ParamName);
    }

    [Fact]
    public void A_rate_that_a_schedule_broke_is_noticed_at_the_step()
    {
        using var scope = torch.NewDisposeScope();
        var parameter = new Parameter(torch.ones(2));
        using var optimizer = new AdamW([parameter], 0.1);
        parameter.grad = torch.ones(2);
        foreach (var group in optimizer.ParamGroups)
            group.LearningRate = double.NaN;

        Assert.Contains("LearningRate", Assert.Throws<ArgumentOutOfRangeException>(() => optimizer.step()).ParamName,
            StringComparison.Ordinal);
        Assert.Equal([1f, 1], parameter.data<float>());
    }

    [Fact]
    public void Two_groups_of_the_same_names_are_told_apart_by_their_numbers()
    {
        using var scope = torch.NewDisposeScope();
        var (first, second) = (Regression(), Regression());
        using var optimizer = new AdamW([new AdamW.ParamGroup(first.named_parameters()), new AdamW.ParamGroup(second.named_parameters())])
        {
            NonFinite = NonFiniteGradients.Throw,
        };
        second.weight.grad = torch.full_like(second.weight, float.NaN);

        Assert.Equal("1.weight", Assert.Throws<NonFiniteGradientException>(() => optimizer.step()).Parameter);
    }

    [Fact]
    public void A_backend_that_is_not_there_is_never_replaced_silently()
    {
        using var scope = torch.NewDisposeScope();
        var parameter = new Parameter(torch.ones(2));
        using var optimizer = new AdamW([parameter]) { Backend = AuxBackend.Ilgpu };
        parameter.grad = torch.ones(2);

        Assert.Equal("AdamWUpdate", Assert.Throws<BackendUnavailableException>(() => optimizer.step()).Operation);
        Assert.Equal([1f, 1], parameter.data<float>());
    }
}
