using AuxCore.Bench.Measurement;
using AuxCore.Models;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public class LocalTrainerTests
{
    public static TheoryData<string> Inputs => [.. Enum.GetNames<AuxiliaryInput>()];

    [Theory]
    [MemberData(nameof(Inputs))]
    public void Perturbing_a_later_block_leaves_the_gradients_of_earlier_ones_bit_for_bit(string input)
    {
        using var scope = torch.NewDisposeScope();
        const int Perturbed = 2;
        using var plain = new LocalNetwork(Enum.Parse<AuxiliaryInput>(input));
        using var perturbed = plain.Twin();
        using (torch.no_grad())
        {
            foreach (var parameter in perturbed.Layers(Perturbed).SelectMany(layer => layer.parameters()))
                parameter.add_(torch.randn_like(parameter));
        }

        var losses = plain.Backward(0).data<float>().ToArray();
        var others = perturbed.Backward(0).data<float>().ToArray();

        Assert.Equal(losses[..Perturbed], others[..Perturbed]);
        Assert.NotEqual(losses[Perturbed], others[Perturbed]);
        for (var block = 0; block < plain.Trainer.BlockCount; block++)
        {
            var same = plain.Gradients(block).SequenceEqual(perturbed.Gradients(block));
            Assert.Equal(block < Perturbed, same);
        }
    }

    [Fact]
    public void Through_the_average_a_block_hears_of_the_next_one_a_step_later_and_of_no_other()
    {
        using var scope = torch.NewDisposeScope();
        using var plain = new LocalNetwork(AuxiliaryInput.MomentumAndCopy, momentum: 0.5);
        using var perturbed = plain.Twin();
        using (torch.no_grad())
            perturbed.Layers(2)[0].parameters().First().add_(0.1f);
        foreach (var network in (LocalNetwork[])[plain, perturbed])
        {
            network.Backward(0);
            network.ZeroGradients();
            network.Backward(1);
        }

        Assert.Equal(plain.Gradients(0), perturbed.Gradients(0));
        Assert.NotEqual(plain.Gradients(1), perturbed.Gradients(1));
    }

    [Theory]
    [InlineData(0.995)]
    [InlineData(0.9)]
    [InlineData(0.3)]
    public void The_average_is_the_closed_form_sum_over_past_parameters(double momentum)
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.MomentumAndCopy, momentum);
        var history = network.Sources().Select(source => new List<double[]> { Doubles(source) }).ToArray(); // θ₀, as which E began
        const int Steps = 40;
        for (var step = 0; step < Steps; step++)
        {
            foreach (var (source, past) in network.Sources().Zip(history))
                past.Add(Doubles(source)); // what the average takes in this step: before the optimiser's
            network.Step(step);
        }

        foreach (var (average, past) in network.Averages().Zip(history))
        {
            var expected = new double[past[0].Length];
            for (var i = 0; i < expected.Length; i++)
            {
                expected[i] = Math.Pow(momentum, Steps) * past[0][i];
                for (var k = 1; k <= Steps; k++)
                    expected[i] += (1 - momentum) * Math.Pow(momentum, Steps - k) * past[k][i];
            }

            Assert.InRange(Doubles(average).Zip(expected, (a, b) => Math.Abs(a - b)).Max(), 0, 1e-6);
            Assert.NotInRange(Doubles(average).Zip(past[0], (a, b) => Math.Abs(a - b)).Max(), 0, 1e-4); // and it has moved
        }
    }

    [Fact]
    public void Without_momentum_the_average_is_the_layer_before_the_optimisers_step_and_with_all_of_it_nothing_moves()
    {
        using var scope = torch.NewDisposeScope();
        using var follows = new LocalNetwork(AuxiliaryInput.MomentumAndCopy, momentum: 0);
        using var stays = new LocalNetwork(AuxiliaryInput.MomentumAndCopy, momentum: 1);
        follows.Step(0);
        var (before, first) = (follows.Sources().Select(Doubles).ToArray(), stays.Sources().Select(Doubles).ToArray());

        follows.Step(1);
        stays.Step(0);
        stays.Step(1);

        Assert.Equal(before, follows.Averages().Select(Doubles));
        Assert.NotEqual(before, follows.Sources().Select(Doubles));
        Assert.Equal(first, stays.Averages().Select(Doubles));
        Assert.NotEqual(first, stays.Sources().Select(Doubles));
    }

    [Fact]
    public void Buffers_of_the_average_are_those_of_its_own_forward_pass()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.MomentumAndCopy, momentum: 0);
        using var alone = network.Trainer.Auxiliaries[0].Momentum!.Twin();
        using (torch.no_grad())
        {
            network.Layers(1)[0].buffers().First().fill_(7); // would show if buffers were averaged or copied
            var x = LocalNetwork.Images(0);
            foreach (var layer in network.Layers(0))
                x = layer.forward(x);
            alone.forward(x); // in training mode: moves the running statistics
        }

        network.Backward(0);

        foreach (var (expected, buffer) in alone.buffers().Zip(network.Trainer.Auxiliaries[0].Momentum!.buffers()))
            Assert.Equal(EmaModelTests.Bytes(expected), EmaModelTests.Bytes(buffer));
    }

    [Fact]
    public void Gradients_are_those_of_autograd_on_the_losses_written_by_hand()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.MomentumAndCopy);
        using var twin = network.Twin();
        network.Step(0); // after a step, E and LB differ from the layer
        twin.Step(0);
        network.ZeroGradients();
        twin.ZeroGradients();

        network.Backward(1);
        var x = LocalNetwork.Images(1);
        var labels = LocalNetwork.Labels(1);
        for (var block = 0; block < twin.Trainer.BlockCount; block++)
        {
            foreach (var layer in twin.Layers(block))
                x = layer.forward(x);
            var said = x;
            if (block < twin.Trainer.Auxiliaries.Count)
            {
                var auxiliary = twin.Trainer.Auxiliaries[block];
                said = auxiliary.Head.forward(auxiliary.Copy!.forward(x) + auxiliary.Momentum!.forward(x));
            }

            functional.cross_entropy(said, labels).backward();
            x = x.detach();
        }

        for (var block = 0; block < network.Trainer.BlockCount; block++)
            Assert.Equal(twin.Gradients(block), network.Gradients(block));
        Assert.All(network.Trainer.Auxiliaries, auxiliary => Assert.All(
            auxiliary.Momentum!.parameters(), parameter => Assert.False(parameter.requires_grad)));
    }

    [Fact]
    public void The_scaling_form_begins_as_the_average_alone_and_learns_its_scale()
    {
        using var scope = torch.NewDisposeScope();
        using var scaled = new LocalNetwork(AuxiliaryInput.ScaledMomentum);
        using var alone = scaled.Twin(AuxiliaryInput.Momentum);

        Assert.Equal(alone.Backward(0).data<float>().ToArray(), scaled.Backward(0).data<float>().ToArray());

        var parameters = scaled.Trainer.Parameters.ToDictionary(entry => entry.name, entry => entry.parameter);
        foreach (var name in (string[])["auxiliary.0.scale", "auxiliary.0.shift"])
        {
            Assert.Equal([LocalNetwork.Width], parameters[name].shape);
            Assert.True(parameters[name].grad!.abs().max().item<float>() > 0);
        }

        using (torch.no_grad())
            parameters["auxiliary.1.scale"].mul_(2);
        Assert.NotEqual(alone.Backward(0)[1].item<float>(), scaled.Backward(0)[1].item<float>());
        Assert.All(scaled.Model.modules(), module => Assert.True(module.training)); // though the example ran in evaluation mode
    }

    [Fact]
    public void What_the_optimiser_gets_is_what_learns()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.MomentumAndCopy);
        var frozen = network.Layers(1)[0].parameters().First();
        frozen.requires_grad_(false);

        var names = network.Trainer.Parameters.Select(entry => entry.name).ToArray();

        Assert.Contains("model.0.weight", names);
        Assert.Contains("auxiliary.0.copy.0.weight", names);
        Assert.Contains("auxiliary.0.head.2.weight", names);
        Assert.DoesNotContain(names, name => name.Contains(".momentum.", StringComparison.Ordinal));
        Assert.DoesNotContain(network.Trainer.Parameters, entry => ReferenceEquals(entry.parameter, frozen));
    }

    [Fact]
    public void A_model_that_is_frozen_altogether_has_losses_and_no_gradients()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.Output);
        foreach (var (_, parameter) in network.Trainer.Parameters.ToArray())
            parameter.requires_grad_(false);

        var losses = network.Backward(0);

        Assert.True(losses.isfinite().all().item<bool>());
        Assert.Empty(network.Trainer.Parameters);
    }

    [Fact]
    public void Parameters_that_the_model_replaced_are_followed()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.Momentum, momentum: 0);
        network.Model.to(torch.float64).to(torch.float32); // new parameters, the old ones disposed
        using (torch.no_grad())
        {
            foreach (var source in network.Sources())
                source.add_(1);
        }

        network.Backward(0);

        Assert.Equal(network.Sources().Select(Doubles), network.Averages().Select(Doubles));
    }

    [Fact]
    public void One_block_is_plain_training()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Sequential(Linear(5, 6), ReLU(), Linear(6, 3));
        using var trainer = new LocalTrainer(model, [3], []);
        var (x, labels) = (torch.randn(4, 5), torch.tensor([0L, 1, 2, 1]));

        trainer.Backward(x, labels);
        var gradients = model.parameters().Select(parameter => EmaModelTests.Bytes(parameter.grad!)).ToArray();
        model.zero_grad();
        functional.cross_entropy(model.forward(x), labels).backward();

        Assert.Equal(model.parameters().Select(parameter => EmaModelTests.Bytes(parameter.grad!)), gradients);
        Assert.Equal(1, trainer.Steps);
    }

    [Fact]
    public void A_step_leaves_no_tensors_behind()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.MomentumAndCopy);
        var (images, labels) = (LocalNetwork.Images(0), LocalNetwork.Labels(0));
        void Step()
        {
            using var losses = network.Trainer.Backward(images, labels);
        }

        Step();
        TensorLeaks.None(Step);
    }

    [Fact]
    public void A_trainer_that_was_made_inside_a_dispose_scope_outlives_it()
    {
        LocalNetwork network;
        using (torch.NewDisposeScope())
            network = new(AuxiliaryInput.ScaledMomentum);

        network.Step(0);
        network.Step(1);

        Assert.Equal(2, network.Trainer.Steps);
        network.Dispose();
    }

    internal static double[] Doubles(Tensor tensor)
    {
        using var scope = torch.NewDisposeScope();
        return [.. tensor.detach().to(torch.float64).cpu().data<double>()];
    }
}

/// <summary>Counts what native code allocates, so no other test may run beside it.</summary>
[Collection(ProcessWide.Name)]
[RequiresLibtorch]
public class LocalTrainerMemoryTests
{
    [Fact]
    public void Each_blocks_activations_are_freed_before_the_next_block_runs()
    {
        Assert.SkipUnless(AllocatedBytes.IsAvailable, "the C library has no mallinfo2");
        using var scope = torch.NewDisposeScope();
        const int Blocks = 6, Rows = 4096, Width = 64, Rounds = 7;
        const long Map = (long)Rows * Width * sizeof(float);
        using var model = Sequential(Enumerable.Range(0, 2 * Blocks).Select(i => i % 2 == 0
            ? (Module<Tensor, Tensor>)Linear(Width, Width)
            : Tanh()));
        var (x, labels) = (torch.randn(Rows, Width), torch.zeros(Rows, torch.ScalarType.Int64));
        var held = new List<long>();
        long start = 0;
        Tensor Loss(Tensor said, Tensor target)
        {
            held.Add(AllocatedBytes.Now() - start);
            return functional.cross_entropy(said, target);
        }

        Module<Tensor, Tensor>[] heads = [.. Enumerable.Range(0, Blocks - 1).Select(_ => Linear(Width, 3))];
        using var trainer = new LocalTrainer(
            model, [.. Enumerable.Repeat(2, Blocks)], heads, new() { Input = AuxiliaryInput.Output, Loss = Loss });
        trainer.Backward(x, labels).Dispose(); // what is made once is there after this: gradients, the library's own caches
        Loss(model.forward(x), labels).Dispose(); // also what the whole model, run end to end, makes once
        long[][] rounds = [.. Enumerable.Range(0, Rounds).Select(_ =>
        {
            held.Clear();
            GC.Collect();
            GC.WaitForPendingFinalizers(); // which free what other tests left
            start = AllocatedBytes.Now();
            trainer.Backward(x, labels).Dispose();
            Loss(model.forward(x), labels).Dispose();
            return held.ToArray();
        })];
        // The runtime's own threads allocate too, now and then: the median is what the trainer does.
        long[] median = [.. Enumerable.Range(0, Blocks + 1).Select(i => rounds.Select(round => round[i]).Order().ElementAt(Rounds / 2))];

        // At each loss: the block's input (of the first one: the caller's), its output, which Tanh saves too, and small change. End to end:
        // every layer's output that is saved, of which Linear and Tanh share one.
        Assert.All(rounds, round => Assert.Equal(Blocks + 1, round.Length));
        Assert.All(median[..Blocks], bytes => Assert.InRange(bytes, Map, 2.5 * Map));
        Assert.InRange(median[Blocks], Blocks * Map, (Blocks + 0.5) * Map);
    }
}
