using AuxCore.Bench.Workloads;
using AuxCore.Tests.Averaging;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Bench;

[RequiresLibtorch]
public class ActivationCheckpointingTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(5)]
    public void Gradients_are_those_of_backpropagation_bit_for_bit(int segments)
    {
        using var scope = torch.NewDisposeScope();
        Module<Tensor, Tensor>[] layers = [Linear(4, 6), Tanh(), Linear(6, 5), Tanh(), Linear(5, 3)];
        using var model = Sequential(layers);
        var (x, labels) = (torch.randn(7, 4), torch.randint(0, 3, [7]));
        functional.cross_entropy(model.forward(x), labels).backward();
        var expected = model.parameters().Select(parameter => EmaModelTests.Bytes(parameter.grad!)).ToArray();
        model.zero_grad();
        var calls = 0;

        ActivationCheckpointing.Backward([.. layers.Chunk((layers.Length + segments - 1) / segments)], x, labels, () => calls++);

        Assert.Equal(expected, model.parameters().Select(parameter => EmaModelTests.Bytes(parameter.grad!)));
        Assert.Equal(segments, calls);
        Assert.False(x.requires_grad);
    }
}
