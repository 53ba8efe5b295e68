using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public class LocalTrainerArgumentTests
{
    [Fact]
    public void What_does_not_fit_the_model_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model();
        void Refused<TException>(
            string message, int[]? sizes = null, Module<Tensor, Tensor>[]? heads = null, LocalLearningOptions? options = null,
            Func<int, Module<Tensor, Tensor>>? layers = null, Tensor? example = null)
            where TException : Exception =>
            Assert.Contains(message, Assert.Throws<TException>(() => new LocalTrainer(
                model, sizes ?? [2, 2], heads ?? [Linear(4, 3)], options, layers ?? (_ => Linear(4, 3)), example)).Message,
                StringComparison.Ordinal);

        Refused<ArgumentException>("blockSizes: 3 layers in sum, but the model has 4", sizes: [2, 1]);
        Refused<ArgumentException>("blockSizes[1]: 0", sizes: [4, 0]);
        Refused<ArgumentException>("blockSizes: 0 layers", sizes: []);
        Refused<ArgumentException>("heads: 0 for 2 blocks", heads: []);
        Refused<ArgumentException>("heads[0]: null", heads: [null!]);
        var head = Linear(4, 3);
        Refused<ArgumentException>("heads[1]: the same module", sizes: [1, 1, 2], heads: [head, head]);
        Refused<ArgumentOutOfRangeException>("Momentum is within [0, 1]", options: new() { Momentum = 1.5 });
        Refused<ArgumentOutOfRangeException>("Momentum is within [0, 1]", options: new() { Momentum = double.NaN });
        Refused<ArgumentOutOfRangeException>("Not an input", options: new() { Input = (AuxiliaryInput)9 });
        Refused<ArgumentException>("example: null", options: new() { Input = AuxiliaryInput.ScaledMomentum });
        Refused<ArgumentException>("layers: it returned null", layers: _ => null!);
        Refused<ArgumentException>(
            "layers: the layer that it made has 'weight' Float32[3, 5] where the model's has 'weight' Float32[3, 4]",
            layers: _ => Linear(5, 3));
        Refused<ArgumentException>("has nothing where the model's has 'bias'", layers: _ => Linear(4, 3, hasBias: false));
        var own = (Module<Tensor, Tensor>)model.children().ElementAt(2);
        Refused<ArgumentException>("the model's own layer", layers: _ => own);
        Refused<ArgumentException>("no parameters to average", sizes: [1, 3], layers: _ => ReLU());
        var gone = torch.zeros(1);
        gone.Dispose();
        Refused<ObjectDisposedException>("example was disposed", example: gone);
        Assert.Throws<ArgumentNullException>(() => new LocalTrainer(null!, [1], []));
        Assert.Throws<ArgumentNullException>(() => new LocalTrainer(model, null!, []));
        Assert.Throws<ArgumentNullException>(() => new LocalTrainer(model, [4], null!));
        Assert.Contains("layers: null", Assert.Throws<ArgumentException>(
            () => new LocalTrainer(model, [2, 2], [Linear(4, 3)])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Averages_of_a_layer_in_double_are_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model();
        model.to(torch.float64);

        var error = Assert.Throws<ArgumentException>(
            () => new LocalTrainer(model, [2, 2], [Linear(4, 3)], layers: _ => Linear(4, 3, dtype: torch.float64)));

        Assert.Contains("'weight' is Float64", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_pass_that_cannot_be_is_refused_and_the_averages_stay()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.MomentumAndCopy, momentum: 0);
        using (torch.no_grad())
        {
            foreach (var source in network.Sources())
                source.add_(1); // so that an update would show
        }

        var before = network.Averages().Select(LocalTrainerTests.Doubles).ToArray();
        var (images, labels) = (LocalNetwork.Images(0), LocalNetwork.Labels(0));
        var gone = torch.zeros(1);
        gone.Dispose();

        Assert.Throws<ArgumentNullException>(() => network.Trainer.Backward(null!, labels));
        Assert.Throws<ArgumentNullException>(() => network.Trainer.Backward(images, null!));
        Assert.Throws<ObjectDisposedException>(() => network.Trainer.Backward(gone, labels));
        Assert.Throws<ObjectDisposedException>(() => network.Trainer.Backward(images, gone));
        using (torch.no_grad())
            Assert.Throws<InvalidOperationException>(() => network.Trainer.Backward(images, labels));
        foreach (var wrong in (Tensor[])[labels.to(torch.int32), labels.unsqueeze(0), labels.narrow(0, 0, 5)])
        {
            var error = Assert.Throws<ArgumentException>(() => network.Trainer.Backward(images, wrong));
            Assert.Contains("block 0's logits Float32[6, 3]", error.Message, StringComparison.Ordinal);
        }

        Assert.Equal(before, network.Averages().Select(LocalTrainerTests.Doubles));
        Assert.Equal(0, network.Trainer.Steps);
    }

    [Fact]
    public void A_backend_that_cannot_run_is_refused_and_the_averages_stay()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.Momentum, momentum: 0);
        network.Step(0); // so that layers and averages differ
        var before = network.Averages().Select(LocalTrainerTests.Doubles).ToArray();
        network.Trainer.Backend = AuxBackend.Ilgpu;

        Assert.Throws<BackendUnavailableException>(() => network.Backward(1));

        Assert.Equal(before, network.Averages().Select(LocalTrainerTests.Doubles));
        Assert.Equal(1, network.Trainer.Steps);
    }

    [Fact]
    public void A_loss_that_is_no_scalar_is_refused_with_its_block()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model();
        var calls = 0;
        using var trainer = new LocalTrainer(model, [2, 2], [Linear(4, 3)], new()
        {
            Input = AuxiliaryInput.Output,
            Loss = (said, _) => calls++ == 0 ? said.sum() : said,
        });

        var error = Assert.Throws<ArgumentException>(() => trainer.Backward(torch.randn(2, 5), torch.zeros(2)));

        Assert.Contains("block 1 got [2, 3]", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void After_Dispose_everything_throws_and_the_model_lives()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.MomentumAndCopy);
        network.Trainer.Dispose();
        network.Trainer.Dispose(); // twice is once

        Assert.Throws<ObjectDisposedException>(() => network.Backward(0));
        Assert.Throws<ObjectDisposedException>(() => network.Trainer.Save("nowhere"));
        Assert.Throws<ObjectDisposedException>(() => network.Trainer.Load("nowhere"));
        Assert.Throws<ObjectDisposedException>(() => network.Trainer.Train());
        Assert.Equal([6, LocalNetwork.Classes], network.Model.forward(LocalNetwork.Images(0)).shape);
    }

    [Fact]
    public void Train_sets_the_mode_of_model_and_auxiliary_networks()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new LocalNetwork(AuxiliaryInput.MomentumAndCopy);

        network.Trainer.Train(false);
        Assert.All(network.Trainer.Auxiliaries.SelectMany(a => a.modules()).Concat(network.Model.modules()), m => Assert.False(m.training));
        network.Trainer.Train();
        Assert.All(network.Trainer.Auxiliaries.SelectMany(a => a.modules()).Concat(network.Model.modules()), m => Assert.True(m.training));
    }

    [Fact]
    public void An_auxiliary_classifier_names_the_shape_that_it_cannot_take()
    {
        using var scope = torch.NewDisposeScope();
        using var classifier = new AuxiliaryClassifier(channels: 4, classes: 3, width: 5, hidden: 6);

        Assert.Equal([2, 3], classifier.forward(torch.randn(2, 4, 7, 5)).shape);
        foreach (var wrong in (Tensor[])[torch.randn(2, 5, 7, 5), torch.randn(4, 7, 5)])
        {
            Assert.Contains("[n, 4, height, width]", Assert.Throws<ArgumentException>(
                () => classifier.forward(wrong)).Message, StringComparison.Ordinal);
        }

        Assert.Throws<ArgumentNullException>(() => classifier.forward(null!));
        Assert.Throws<ArgumentOutOfRangeException>(() => new AuxiliaryClassifier(0, 3));
        using var network = new LocalNetwork(AuxiliaryInput.Output);
        Assert.Throws<ArgumentNullException>(() => network.Trainer.Auxiliaries[0].forward(null!));
    }

    private static Sequential Model() => Sequential(Linear(5, 4), ReLU(), Linear(4, 3), Tanh());
}
