using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace AuxCore.Tests.Optimization;

/// <summary>
/// Small models, and steps of their training. Twins are copies of one another: libtorch's random numbers belong to all tests that run at
/// the same time, so the same seed does not give the same weights.
/// </summary>
internal static class Networks
{
    public static Linear Regression() => Linear(6, 3);

    public static Sequential Network() => Sequential(Linear(5, 40), LayerNorm(40), Tanh(), Linear(40, 3));

    /// <summary>With batch norm, so that there are buffers.</summary>
    public static Sequential NetworkWithBuffers(int width = 40) =>
        Sequential(Linear(5, width), BatchNorm1d(width), Tanh(), Linear(width, 3));

    public static (T, T) Twins<T>(Func<T> create) where T : Module
    {
        var (first, second) = (create(), create());
        second.load_state_dict(first.state_dict());
        return (first, second);
    }

    /// <summary>One step on a batch that the seed alone decides.</summary>
    public static void TrainStep(Module<Tensor, Tensor> model, optim.Optimizer optimizer, int seed)
    {
        using var scope = NewDisposeScope();
        optimizer.zero_grad();
        Loss(model, seed).backward();
        optimizer.step();
    }

    /// <summary>Of inputs of five features and outputs of three.</summary>
    public static Tensor Loss(Module<Tensor, Tensor> model, int seed)
    {
        using var generator = new Generator((ulong)seed);
        var dtype = model.parameters().First().dtype;
        var (x, y) = (randn(8, 5, generator: generator).to(dtype), randn(8, 3, generator: generator).to(dtype));
        return functional.mse_loss(model.forward(x), y);
    }

    public static void AssertClose(Module expected, Module actual, double relative)
    {
        foreach (var (mine, other) in actual.parameters().Zip(expected.parameters()))
        {
            var distance = (mine - other).norm().item<float>() / other.norm().item<float>();
            Assert.True(distance <= relative, $"{distance}");
        }
    }
}
