using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// F(s, ·, z) for discrete actions: observation and z through a common trunk (LayerNorm and tanh after its first layer), then a small
/// network a head, as in <c>controllable_agent</c>'s <c>discrete_fb.py</c>.
/// </summary>
public sealed class ForwardMap : Module<Tensor, Tensor, Tensor>
{
    private readonly Module<Tensor, Tensor> _trunk;
    private readonly TorchSharp.Modules.ModuleList<Module<Tensor, Tensor>> _heads;
    private readonly long _observationSize, _dimension, _actions;

    /// <param name="observationSize">The length of an observation.</param>
    /// <param name="actions">A: the number of actions.</param>
    /// <param name="dimension">d: the length of z and of F.</param>
    /// <param name="heads">E: how many F there are.</param>
    /// <param name="hidden">The width of the hidden layers.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public ForwardMap(long observationSize, long actions, long dimension, int heads, long hidden) : base(nameof(ForwardMap))
    {
        Sizes.RequirePositive(
            (nameof(observationSize), observationSize), (nameof(actions), actions), (nameof(dimension), dimension), (nameof(heads), heads),
            (nameof(hidden), hidden));
        (_observationSize, _dimension, _actions) = (observationSize, dimension, actions);
        _trunk = Sequential(Linear(observationSize + dimension, hidden), LayerNorm(hidden), Tanh(), Linear(hidden, hidden), ReLU());
        _heads = ModuleList([.. Enumerable.Range(0, heads).Select(_ =>
            (Module<Tensor, Tensor>)Sequential(Linear(hidden, hidden), ReLU(), Linear(hidden, actions * dimension)))]);
        RegisterComponents();
    }

    /// <summary>F of a batch.</summary>
    /// <param name="observations">[n, observation size], float32.</param>
    /// <param name="z">[n, d], float32.</param>
    /// <returns>[E, n, A, d].</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public override Tensor forward(Tensor observations, Tensor z)
    {
        Sizes.RequireRows(observations, _observationSize, nameof(observations));
        Sizes.RequireRows(z, _dimension, nameof(z));
        if (observations.shape[0] != z.shape[0])
            throw new ArgumentException($"z: {z.shape[0]} rows do not match observations' {observations.shape[0]}", nameof(z));
        using var scope = torch.NewDisposeScope();
        var trunk = _trunk.forward(torch.cat([observations, z], 1));
        return torch.stack([.. _heads.Select(head => head.forward(trunk).view(-1, _actions, _dimension))]).MoveToOuterDisposeScope();
    }
}

/// <summary>B(s), scaled to length √d.</summary>
public sealed class BackwardMap : Module<Tensor, Tensor>
{
    private readonly Module<Tensor, Tensor> _layers;
    private readonly long _observationSize;

    /// <param name="observationSize">The length of an observation.</param>
    /// <param name="dimension">d.</param>
    /// <param name="hidden">The width of the hidden layers.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public BackwardMap(long observationSize, long dimension, long hidden) : base(nameof(BackwardMap))
    {
        Sizes.RequirePositive(
            (nameof(observationSize), observationSize), (nameof(dimension), dimension), (nameof(hidden), hidden));
        _observationSize = observationSize;
        _layers = Sequential(
            Linear(observationSize, hidden), LayerNorm(hidden), Tanh(), Linear(hidden, hidden), ReLU(), Linear(hidden, dimension));
        RegisterComponents();
    }

    /// <summary>B of a batch.</summary>
    /// <param name="observations">[n, observation size], float32.</param>
    /// <returns>[n, d], each row of length √d.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public override Tensor forward(Tensor observations)
    {
        Sizes.RequireRows(observations, _observationSize, nameof(observations));
        using var scope = torch.NewDisposeScope();
        return Spheres.Project(_layers.forward(observations)).MoveToOuterDisposeScope();
    }
}

/// <summary>Vectors on the sphere of radius √d, where z and B live.</summary>
internal static class Spheres
{
    /// <summary>Each row, scaled to length √d.</summary>
    public static Tensor Project(Tensor rows) =>
        functional.normalize(rows, p: 2, dim: 1).mul(Math.Sqrt(rows.shape[1]));
}

/// <summary>Weights from a generator: libtorch's own belongs to the whole process.</summary>
internal static class Initialisation
{
    /// <summary>The weights and biases of all linear layers, uniform within ±1/√inputs, as libtorch's are.</summary>
    public static void Apply(Module module, torch.Generator generator)
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        foreach (var layer in module.modules().OfType<TorchSharp.Modules.Linear>())
        {
            var bound = 1 / Math.Sqrt(layer.weight!.shape[1]);
            Fill(layer.weight, bound);
            if (layer.bias is { } bias)
                Fill(bias, bound);
        }

        void Fill(Tensor values, double bound) => values.copy_(torch.rand(values.shape, generator: generator).mul(2 * bound).sub(bound));
    }
}
