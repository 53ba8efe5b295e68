using AuxCore.Models;
using AuxCore.Tests.Averaging;
using CsCheck;
using TorchSharp;
using TorchSharp.Modules;
using static AuxCore.Tests.Optimization.Networks;
using AdamW = AuxCore.Models.AdamW;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Optimization;

[RequiresLibtorch]
public class AdamWTests
{
    [Fact]
    public void A_closure_computes_the_loss()
    {
        using var scope = torch.NewDisposeScope();
        var model = Regression();
        using var optimizer = new AdamW(model.parameters());
        var before = EmaModelTests.State(model);
        Tensor? loss;
        using (torch.no_grad()) // the closure may need gradients all the same
            loss = optimizer.step(() =>
            {
                optimizer.zero_grad();
                var l = model.forward(torch.ones(2, 6)).square().sum();
                l.backward();
                return l;
            });

        Assert.True(loss!.item<float>() > 0);
        Assert.NotEqual(before["weight"], EmaModelTests.State(model)["weight"]);
        Assert.Null(optimizer.step());
    }

    [Fact]
    public void What_has_no_gradient_or_is_frozen_keeps_value_moments_and_count()
    {
        using var scope = torch.NewDisposeScope();
        Parameter[] parameters = [.. Enumerable.Range(0, 4).Select(_ => new Parameter(torch.ones(3)))];
        using var optimizer = new AdamW(parameters, 0.1, weight_decay: 0.1);
        foreach (var parameter in parameters[..3])
            (parameter * parameter).sum().backward();
        parameters[1].requires_grad = false; // frozen, with a gradient from before

        optimizer.step();
        parameters[1].requires_grad = true;
        optimizer.step();

        Assert.Equal([1f, 1, 1], parameters[3].data<float>());
        var once = new Parameter(torch.ones(3));
        using var alone = new AdamW([once], 0.1, weight_decay: 0.1);
        (once * once).sum().backward();
        alone.step();
        Assert.Equal(once.data<float>(), parameters[1].data<float>()); // its first step, with the bias corrections of a first step
        Assert.NotEqual(once.data<float>(), parameters[0].data<float>());
    }

    [Fact]
    public void Without_any_gradient_a_step_changes_nothing()
    {
        using var scope = torch.NewDisposeScope();
        var model = Network();
        using var optimizer = new AdamW(model.parameters(), weight_decay: 0.1) { MaxGradientNorm = 1 };
        var before = EmaModelTests.State(model);

        optimizer.step();

        Assert.Equal(before, EmaModelTests.State(model));
        Assert.Equal(0, optimizer.LastGradientNorm);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Gradients_become_zero(bool setToNone)
    {
        using var scope = torch.NewDisposeScope();
        var model = Network();
        using var optimizer = new AdamW(model.parameters());
        model.forward(torch.ones(4, 5)).sum().backward();
        var gradient = model.parameters().First().grad!;
        using var frozen = model.parameters().Last();
        frozen.requires_grad = false;

        optimizer.zero_grad(setToNone);

        Assert.All(model.parameters(), parameter =>
            Assert.True(setToNone ? parameter.grad is null : parameter.grad!.data<float>().All(g => g == 0)));
        Assert.Equal(!setToNone, gradient.data<float>().All(g => g == 0)); // in place, or left to whoever holds it
    }

    [Fact]
    public void Unusual_gradients_become_zero_too()
    {
        using var scope = torch.NewDisposeScope();
        Parameter[] parameters = [new(torch.ones(3, 2)), new(torch.ones(3, 2))];
        using var optimizer = new AdamW(parameters);
        parameters[0].grad = torch.full(2, 3, float.NaN).t();
        parameters[1].grad = torch.ones(3, 2).to_sparse();

        optimizer.zero_grad();

        Assert.All(parameters[0].grad!.contiguous().data<float>(), g => Assert.Equal(0, g));
        Assert.Null(parameters[1].grad);
    }

    [Fact]
    public void A_gradient_of_another_layout_is_followed()
    {
        using var scope = torch.NewDisposeScope();
        Parameter[] parameters = [new(torch.ones(3, 2)), new(torch.ones(3, 2))];
        using var optimizer = new AdamW(parameters, 0.1);
        parameters[0].grad = torch.arange(6, dtype: torch.float32).view(2, 3).t();
        parameters[1].grad = parameters[0].grad!.contiguous();

        TensorLeaks.None(() => optimizer.step());

        Assert.Equal(parameters[1].data<float>(), parameters[0].data<float>());
        Assert.Equal(0.9f, parameters[0][1, 0].item<float>(), 1e-5f);
    }

    [Fact]
    public void Five_thousand_parameters_step_as_each_would_alone()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        Parameter[] together = [.. Enumerable.Range(0, 5000).Select(i => new Parameter(torch.randn(i % 13)))];
        Parameter[] apart = [.. together.Select(parameter => new Parameter(parameter.detach().clone()))];
        using var optimizer = new AdamW(together, 0.01, weight_decay: 0.1);
        var optimizers = apart.Select(parameter => new AdamW([parameter], 0.01, weight_decay: 0.1)).ToArray();
        for (var step = 0; step < 3; step++)
        {
            for (var i = 0; i < together.Length; i++)
            {
                together[i].grad = torch.randn(together[i].shape);
                apart[i].grad = together[i].grad;
                optimizers[i].step();
            }

            optimizer.step();
        }

        for (var i = 0; i < together.Length; i++)
            Assert.Equal(apart[i].data<float>(), together[i].data<float>());
        foreach (var one in optimizers)
            one.Dispose();
    }

    [Fact]
    public void Cutting_the_parameters_into_groups_changes_no_bit() => Gen.Int[0, 6].Array[0, 4].Sample(cuts =>
    {
        using var scope = torch.NewDisposeScope();
        var (whole, cut) = Twins(Network);
        int[] ends = [0, .. cuts.Order(), 6];
        using var one = new AdamW(whole.parameters(), 0.01, weight_decay: 0.1) { MaxGradientNorm = 0.5 };
        using var several = new AdamW(
            ends.Zip(ends.Skip(1), (from, to) => new AdamW.ParamGroup(cut.parameters().Skip(from).Take(to - from))), 0.01,
            weight_decay: 0.1)
        {
            MaxGradientNorm = 0.5,
        };
        for (var step = 0; step < 3; step++)
        {
            TrainStep(whole, one, step);
            TrainStep(cut, several, step);
        }

        return EmaModelTests.State(whole).Zip(EmaModelTests.State(cut)).All(pair => pair.First.Value.SequenceEqual(pair.Second.Value));
    }, iter: 10);

    [Fact]
    public void No_tensor_is_left_behind() => TensorLeaks.None(() =>
    {
        var model = Network();
        using (var ema = new EmaModel(model, EmaSchedule.WarmUp()))
        using (var optimizer = new AdamW(model.parameters()) { Averages = ema, MaxGradientNorm = 1 })
        {
            for (var step = 0; step < 3; step++)
                TrainStep(model, optimizer, step);
            foreach (var parameter in model.parameters())
                parameter.grad = null;
        }

        model.Dispose();
    });

    [Fact]
    public void A_dispose_scope_of_the_caller_does_not_own_the_moments()
    {
        using var model = Network();
        AdamW optimizer;
        using (torch.NewDisposeScope())
        {
            optimizer = new AdamW(model.parameters());
            TrainStep(model, optimizer, 0);
        }

        TrainStep(model, optimizer, 1);
        optimizer.Dispose();
        optimizer.Dispose();

        Assert.Throws<ObjectDisposedException>(() => optimizer.step());
        Assert.Throws<ObjectDisposedException>(() => optimizer.zero_grad());
        Assert.Throws<ObjectDisposedException>(() => optimizer.state_dict());
        Assert.Throws<ObjectDisposedException>(() => optimizer.Save("nowhere"));
        Assert.Throws<ObjectDisposedException>(() => optimizer.add_param_group(new AdamW.ParamGroup(model.parameters())));
    }

    [Fact]
    public void A_group_can_be_added_later()
    {
        using var scope = torch.NewDisposeScope();
        Parameter[] parameters = [new(torch.ones(3)), new(torch.ones(3))];
        using var optimizer = new AdamW(parameters[..1], 0.1);
        Step();
        optimizer.add_param_group(new TorchSharp.Modules.ParamGroup { Parameters = parameters[1..] });
        Step();

        Assert.Equal(1 - 0.1f, parameters[1].data<float>()[0], 1e-5f); // a first step of its own
        Assert.Equal(1 - 0.2f, parameters[0].data<float>()[0], 1e-3f);
        Assert.Equal(2, optimizer.ParamGroups.Count());

        void Step()
        {
            optimizer.zero_grad();
            (parameters[0].sum() + parameters[1].sum()).backward();
            optimizer.step();
        }
    }
}
