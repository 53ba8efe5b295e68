using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Random networks of a convolution and two linear layers, with a few outputs each, as the published indicators have them. Glorot's uniform
/// initialisation from a generator of its own; no biases; the last layer is linear.
/// </summary>
internal sealed class RandomConvolutions : Module<Tensor, Tensor>
{
    private const long Filters = 16, Kernel = 3, Hidden = 64;

    private readonly Tensor _filters, _first, _second; // [G · filters, C, 3, 3], [G, inputs, hidden], [G, hidden, outputs]
    private readonly long _networks, _tasks;

    public RandomConvolutions(long[] observation, long tasks, long tasksPerNetwork, int seed, torch.Device device)
        : base(nameof(RandomConvolutions))
    {
        (_networks, _tasks) = ((tasks - 1) / tasksPerNetwork + 1, tasks);
        var (channels, area) = (observation[0], Kernel * Kernel);
        var inputs = Filters * (observation[1] - Kernel + 1) * (observation[2] - Kernel + 1);
        using var generator = new torch.Generator((uint)seed, torch.CPU);
        register_buffer("filters", _filters = Glorot(channels * area, Filters * area, _networks * Filters, channels, Kernel, Kernel));
        register_buffer("first", _first = Glorot(inputs, Hidden, _networks, inputs, Hidden));
        register_buffer("second", _second = Glorot(Hidden, tasksPerNetwork, _networks, Hidden, tasksPerNetwork));

        Tensor Glorot(long fanIn, long fanOut, params long[] shape)
        {
            using var scope = torch.NewDisposeScope();
            var bound = Math.Sqrt(6.0 / (fanIn + fanOut));
            return torch.rand(shape, generator: generator).mul(2 * bound).sub(bound).to(device).DetachFromDisposeScope();
        }
    }

    public override Tensor forward(Tensor observations)
    {
        using var scope = torch.NewDisposeScope();
        var n = observations.shape[0];
        var seen = functional.conv2d(observations, _filters).relu_().view(n, _networks, -1).transpose(0, 1); // [G, n, inputs]
        var outputs = torch.bmm(torch.bmm(seen, _first).relu_(), _second);                                   // [G, n, outputs]
        return outputs.transpose(0, 1).reshape(n, -1).narrow(1, 0, _tasks).contiguous().MoveToOuterDisposeScope();
    }
}
