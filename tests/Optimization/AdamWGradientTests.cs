using AuxCore.Models;
using AuxCore.Tests.Averaging;
using TorchSharp;
using TorchSharp.Modules;
using static AuxCore.Tests.Optimization.Networks;
using AdamW = AuxCore.Models.AdamW;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Optimization;

/// <summary>What becomes of gradients before a step: clipping, scaling, accumulation, and those that are not finite.</summary>
[RequiresLibtorch]
public class AdamWGradientTests
{
    [Fact]
    public void Accumulated_passes_step_by_the_mean_gradient()
    {
        using var scope = torch.NewDisposeScope();
        var (ours, theirs) = Twins(Network);
        // With a penalty, so that the size of the gradient counts.
        using var optimizer = new AdamW(ours.parameters(), 0.01, weight_decay: 0.1)
        {
            AccumulationSteps = 4, MaxGradientNorm = 1,
            Decoupled = false
        };
        using var reference = new AdamW(theirs.parameters(), 0.01, weight_decay: 0.1) { MaxGradientNorm = 1, Decoupled = false };
        for (var step = 0; step < 3; step++)
        {
            theirs.zero_grad();
            for (var pass = 0; pass < 4; pass++)
            {
                var before = EmaModelTests.State(ours);
                TrainStep(ours, optimizer, 4 * step + pass); // zeroes, runs backward, steps: as without accumulation
                Assert.Equal(pass < 3, before["0.weight"].SequenceEqual(EmaModelTests.State(ours)["0.weight"]));
                Loss(theirs, 4 * step + pass).backward();
            }

            foreach (var parameter in theirs.parameters())
                parameter.grad!.div_(4);
            reference.step();
            Assert.Equal(reference.LastGradientNorm, optimizer.LastGradientNorm, 1e-5);
        }

        AssertClose(theirs, ours, 1e-6);
        Assert.Equal(3, optimizer.Steps);
    }

    [Fact]
    public void Between_accumulated_passes_some_things_are_refused()
    {
        using var scope = torch.NewDisposeScope();
        var model = Network();
        using var optimizer = new AdamW(model.parameters()) { AccumulationSteps = 2 };
        TrainStep(model, optimizer, 0);

        Assert.Contains("1 of 2", Assert.Throws<InvalidOperationException>(() => optimizer.Save("nowhere")).Message,
            StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(() => optimizer.Load("nowhere"));
        Assert.Throws<InvalidOperationException>(() => optimizer.AccumulationSteps = 3);
        Assert.Throws<InvalidOperationException>(() => optimizer.add_param_group(new AdamW.ParamGroup(model.parameters())));
        TrainStep(model, optimizer, 1);
        optimizer.AccumulationSteps = 1;
    }

    [Fact]
    public void A_scaled_loss_gives_the_same_steps()
    {
        using var scope = torch.NewDisposeScope();
        var (ours, theirs) = Twins(Network);
        var scaler = new GradientScaler(1024);
        using var optimizer = new AdamW(ours.parameters(), 0.01) { Scaler = scaler, MaxGradientNorm = 1 };
        using var reference = new AdamW(theirs.parameters(), 0.01) { MaxGradientNorm = 1 };
        for (var step = 0; step < 5; step++)
        {
            optimizer.zero_grad();
            scaler.Scale(Loss(ours, step)).backward();
            optimizer.step();
            TrainStep(theirs, reference, step);
            Assert.Equal(reference.LastGradientNorm, optimizer.LastGradientNorm);
        }

        Assert.Equal(EmaModelTests.State(theirs), EmaModelTests.State(ours)); // a power of two loses no bit
    }

    [Fact]
    public void The_scale_falls_at_an_overflow_and_grows_after_good_steps()
    {
        using var scope = torch.NewDisposeScope();
        var parameter = new Parameter(torch.ones(2));
        var scaler = new GradientScaler(8, growth: 4, backoff: 0.25, interval: 3);
        using var optimizer = new AdamW([parameter], 0.1) { Scaler = scaler, NonFinite = NonFiniteGradients.Throw };
        var scales = new List<double>();
        foreach (var good in (bool[])[true, true, false, true, true, true, false, false, true])
        {
            parameter.grad = good ? torch.ones(2) : torch.tensor(new[] { 1, float.PositiveInfinity });
            optimizer.step();
            scales.Add(scaler.CurrentScale);
        }

        Assert.Equal([8, 8, 2, 2, 2, 8, 2, 0.5, 0.5], scales);
        Assert.Equal((6, 3, 3, 3), (optimizer.Steps, optimizer.SkippedSteps, optimizer.NonFiniteSteps, scaler.SkippedSteps));
        Assert.Equal(1, scaler.GoodSteps);
        Assert.Equal(1 - 0.6f, parameter.data<float>()[0], 0.05f); // six steps of 0.1, by gradients of one sign
    }

    [Fact]
    public void A_scale_never_falls_to_nothing()
    {
        using var scope = torch.NewDisposeScope();
        var parameter = new Parameter(torch.ones(2));
        var scaler = new GradientScaler(1);
        using var optimizer = new AdamW([parameter]) { Scaler = scaler };
        parameter.grad = torch.full(2, float.NaN);

        for (var i = 0; i < 100; i++)
            optimizer.step();

        Assert.Equal(GradientScaler.Least, scaler.CurrentScale);
        Assert.Equal([1f, 1], parameter.data<float>());
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void What_is_not_finite_is_skipped_counted_thrown_or_propagated(float bad)
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2));
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));
        using var optimizer = new AdamW(model.named_parameters(), 0.1) { Averages = ema };
        void Backward(bool withBad)
        {
            optimizer.zero_grad();
            model.forward(torch.ones(4, 3)).sum().backward();
            if (withBad)
                model.parameters().ElementAt(2).grad![1, 2] = bad;
        }

        Backward(false);
        optimizer.step();
        var (before, averages, moments) = (EmaModelTests.State(model), Averages(), Moments());

        optimizer.NonFinite = NonFiniteGradients.Skip;
        Backward(true);
        optimizer.step();
        AssertNothingChanged();
        Assert.Equal((1, 1, 1), (optimizer.Steps, optimizer.SkippedSteps, optimizer.NonFiniteSteps));
        Assert.False(double.IsFinite(optimizer.LastGradientNorm));

        optimizer.NonFinite = NonFiniteGradients.Throw;
        var error = Assert.Throws<NonFiniteGradientException>(() => optimizer.step());
        AssertNothingChanged();
        Assert.Equal(("1.weight", 1L, "AdamW"), (error.Parameter, error.Elements, error.Operation));
        Assert.Equal((1, 1, 2), (optimizer.Steps, optimizer.SkippedSteps, optimizer.NonFiniteSteps));

        Backward(false);
        optimizer.step();
        Assert.True(double.IsFinite(optimizer.LastGradientNorm));
        Assert.Equal(2, optimizer.Steps);

        optimizer.NonFinite = NonFiniteGradients.Count;
        optimizer.MaxGradientNorm = 1; // clips nothing where the norm is no number
        Backward(true);
        optimizer.step();
        Assert.Equal((3, 1, 3), (optimizer.Steps, optimizer.SkippedSteps, optimizer.NonFiniteSteps));
        var weight = model.parameters().ElementAt(2).data<float>().ToArray();
        Assert.Equal([5], Enumerable.Range(0, 6).Where(i => float.IsNaN(weight[i])));

        optimizer.NonFinite = NonFiniteGradients.Propagate;
        optimizer.MaxGradientNorm = null;
        Backward(true);
        optimizer.step();
        Assert.Equal((4, 1, 3), (optimizer.Steps, optimizer.SkippedSteps, optimizer.NonFiniteSteps));
        Assert.True(double.IsNaN(optimizer.LastGradientNorm)); // nobody asked

        byte[] Averages() => [.. ema.StateDict().Values.SelectMany(EmaModelTests.Bytes), .. BitConverter.GetBytes(ema.Step)];
        byte[] Moments()
        {
            using var stream = new MemoryStream();
            using var writer = new BinaryWriter(stream);
            optimizer.save_state_dict(writer);
            return stream.ToArray();
        }

        void AssertNothingChanged()
        {
            Assert.Equal(before, EmaModelTests.State(model));
            Assert.Equal(averages, Averages());
            Assert.Equal(moments, Moments());
        }
    }

    [Fact]
    public void Gradients_that_do_not_fit_are_refused_by_name_before_anything_is_written()
    {
        using var scope = torch.NewDisposeScope();
        Parameter[] parameters = [new(torch.ones(3, 2)), new(torch.ones(3, 2))];
        using var optimizer = new AdamW(parameters.Select((parameter, i) => ($"layer{i}.weight", parameter)), 0.1);

        Refused("the gradient of 'layer1.weight' is sparse", torch.ones(3, 2).to_sparse());
        Refused("the gradient of 'layer1.weight' has shape [2, 3], the parameter [3, 2]", torch.ones(2, 3));
        Refused("the gradient of 'layer1.weight' has shape [6], the parameter [3, 2]", torch.ones(6));
        Refused("the gradient of 'layer1.weight' is of Float64", torch.ones(3, 2).to(torch.float64));

        // A layer that makes sparse gradients, as users meet it.
        using var embedding = torch.nn.Embedding(4, 2, sparse: true);
        using var sparse = new AdamW(embedding.named_parameters());
        embedding.forward(torch.tensor(new long[] { 1, 2 })).sum().backward();
        Assert.Contains("'weight' is sparse", Assert.Throws<ArgumentException>(() => sparse.step()).Message, StringComparison.Ordinal);

        void Refused(string message, Tensor gradient)
        {
            parameters[0].grad = torch.ones(3, 2);
            parameters[1].grad = gradient;
            TensorLeaks.None(() => Assert.Contains(
                message, Assert.Throws<ArgumentException>(() => optimizer.step()).Message, StringComparison.Ordinal));
            Assert.All(parameters, parameter => Assert.All(parameter.data<float>(), value => Assert.Equal(1, value)));
            Assert.Equal(0, optimizer.Steps);
        }
    }

    [Fact]
    public void Values_out_of_range_are_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var optimizer = new AdamW([new Parameter(torch.ones(2))]);
        foreach (var norm in (double[])[0, -1, double.NaN, double.PositiveInfinity])
            Assert.Throws<ArgumentOutOfRangeException>(() => optimizer.MaxGradientNorm = norm);
        Assert.Throws<ArgumentOutOfRangeException>(() => optimizer.AccumulationSteps = 0);
        Assert.Throws<ArgumentOutOfRangeException>(() => optimizer.NonFinite = (NonFiniteGradients)77);
        foreach (var scale in (double[])[0, -1, double.NaN, double.PositiveInfinity])
            Assert.Equal("initialScale", Assert.Throws<ArgumentOutOfRangeException>(() => new GradientScaler(scale)).ParamName);
        Assert.Equal("growth", Assert.Throws<ArgumentOutOfRangeException>(() => new GradientScaler(growth: 0.5)).ParamName);
        Assert.Equal("backoff", Assert.Throws<ArgumentOutOfRangeException>(() => new GradientScaler(backoff: 1)).ParamName);
        Assert.Equal("backoff", Assert.Throws<ArgumentOutOfRangeException>(() => new GradientScaler(backoff: double.NaN)).ParamName);
        Assert.Equal("interval", Assert.Throws<ArgumentOutOfRangeException>(() => new GradientScaler(interval: 0)).ParamName);
    }
}
