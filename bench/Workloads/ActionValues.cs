using System.Numerics.Tensors;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>Action values of an arcade game that learn by double Q-learning (van Hasselt et al. 2016) from a replay.</summary>
internal interface IActionValues : IDisposable
{
    /// <summary>Greedy actions by what is seen; what was seen is remembered for <see cref="Update"/>.</summary>
    /// <param name="packed">The next frames of the replay, as bits.</param>
    /// <param name="index">Where the replay will hold the first of them.</param>
    /// <param name="actions">One a frame.</param>
    void Act(ReadOnlySpan<byte> packed, int index, Span<int> actions);

    /// <summary>Greedy actions by what is seen.</summary>
    void Act(ReadOnlySpan<byte> packed, Span<int> actions);

    /// <summary>A step of Adam on the Huber loss of some transitions.</summary>
    void Update(FrameReplay replay, ReadOnlySpan<int> indices, ReadOnlySpan<MultiStep> ahead);

    /// <summary>The target network becomes what is trained.</summary>
    void FollowTarget();
}

/// <summary>
/// Action values linear in frozen features. Features are computed once a frame and kept, so an update is a few hundred dot products, and
/// needs no libtorch.
/// </summary>
internal sealed class LinearActionValues : IActionValues
{
    private readonly FrozenFeatures _features;
    private readonly int _width;
    private readonly double _rate;
    private readonly float[] _cache, _weights, _target, _gradient, _first, _second;
    private long _steps;

    /// <param name="features">Makes features. They are disposed with the values.</param>
    /// <param name="capacity">How many frames the replay holds.</param>
    /// <param name="rate">Adam's learning rate.</param>
    public LinearActionValues(FrozenFeatures features, int capacity, double rate)
    {
        (_features, _width, _rate) = (features, features.Width, rate);
        _cache = new float[checked(capacity * _width)];
        int weights = ArcadeEnvironment.Actions * _width;
        (_weights, _target, _gradient) = (new float[weights], new float[weights], new float[weights]);
        (_first, _second) = (new float[weights], new float[weights]);
    }

    public void Act(ReadOnlySpan<byte> packed, int index, Span<int> actions)
    {
        Span<float> rows = _cache.AsSpan(index * _width, actions.Length * _width);
        _features.Encode(packed, rows);
        for (int i = 0; i < actions.Length; i++) actions[i] = Best(rows.Slice(i * _width, _width));
    }

    public void Act(ReadOnlySpan<byte> packed, Span<int> actions)
    {
        var rows = new float[actions.Length * _width];
        _features.Encode(packed, rows);
        for (int i = 0; i < actions.Length; i++) actions[i] = Best(rows.AsSpan(i * _width, _width));
    }

    public void Update(FrameReplay replay, ReadOnlySpan<int> indices, ReadOnlySpan<MultiStep> ahead)
    {
        Array.Clear(_gradient);
        for (int i = 0; i < indices.Length; i++)
        {
            ReadOnlySpan<float> now = Row(indices[i]);
            int action = replay.Actions[indices[i]];
            float target = ahead[i].Return;
            if (ahead[i].Discount != 0) target += ahead[i].Discount * (float)BestTarget(ahead[i].Next);
            float slope = Math.Clamp(Value(_weights, now, action) - target, -1, 1) / indices.Length;
            Span<float> gradient = _gradient.AsSpan(action * _width, _width);
            TensorPrimitives.MultiplyAdd(now, slope, gradient, gradient);
        }

        AdamWUpdate.Run(_weights, _gradient, _first, _second, new() { LearningRate = _rate, Step = ++_steps });
    }

    public void FollowTarget() => _weights.CopyTo(_target, 0);

    /// <summary>What the target network says of the best action in a frame that was seen: what updates add to a return.</summary>
    public double BestTarget(int index) => Value(_target, Row(index), Best(Row(index)));

    public void Dispose() => _features.Dispose();

    private ReadOnlySpan<float> Row(int index) => _cache.AsSpan(index * _width, _width);

    private float Value(float[] weights, ReadOnlySpan<float> features, int action) =>
        TensorPrimitives.Dot(weights.AsSpan(action * _width, _width), features);

    private int Best(ReadOnlySpan<float> features)
    {
        var (best, most) = (0, float.NegativeInfinity);
        for (int action = 0; action < ArcadeEnvironment.Actions; action++)
        {
            float value = Value(_weights, features, action);
            if (value > most) (best, most) = (action, value);
        }

        return best;
    }
}

/// <summary>A DQN from pixels: MinAtar's network, trained as a whole.</summary>
internal sealed class ConvolutionalActionValues : IActionValues
{
    private readonly ArcadeEnvironment _games; // for the shape of what is seen
    private readonly Network _online, _target;
    private readonly AdamW _optimizer;

    public ConvolutionalActionValues(ArcadeEnvironment games, int features, double rate, int seed)
    {
        _games = games;
        (_online, _target) = (new(games.Channels, features, seed), new(games.Channels, features, seed));
        _optimizer = new(_online.parameters(), rate);
        FollowTarget();
    }

    public void Act(ReadOnlySpan<byte> packed, int index, Span<int> actions) => Act(packed, actions);

    public void Act(ReadOnlySpan<byte> packed, Span<int> actions)
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var best = _online.forward(FrozenFeatures.Pictures(packed, actions.Length, _games.Channels)).argmax(1).data<long>();
        for (int i = 0; i < actions.Length; i++) actions[i] = (int)best[i];
    }

    public void Update(FrameReplay replay, ReadOnlySpan<int> indices, ReadOnlySpan<MultiStep> ahead)
    {
        int n = indices.Length;
        var (taken, next, rewards, discounts) = (new long[n], new int[n], new float[n], new float[n]);
        for (int i = 0; i < n; i++)
            (taken[i], next[i], rewards[i], discounts[i]) =
                (replay.Actions[indices[i]], ahead[i].Next, ahead[i].Return, ahead[i].Discount);

        using var scope = torch.NewDisposeScope();
        Tensor target;
        using (torch.no_grad())
        {
            Tensor seen = replay.Observations(next);
            Tensor best = _online.forward(seen).argmax(1, keepdim: true);
            target = torch.tensor(discounts) * _target.forward(seen).gather(1, best).squeeze(1) + torch.tensor(rewards);
        }

        Tensor value = _online.forward(replay.Observations(indices)).gather(1, torch.tensor(taken).unsqueeze(1)).squeeze(1);
        _optimizer.zero_grad(set_to_none: true);
        torch.nn.functional.smooth_l1_loss(value, target).backward();
        _optimizer.step();
    }

    public void FollowTarget()
    {
        using var noGrad = torch.no_grad();
        foreach (var (source, copy) in _online.parameters().Zip(_target.parameters())) copy.copy_(source);
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        _online.Dispose();
        _target.Dispose();
    }

    private sealed class Network : torch.nn.Module<Tensor, Tensor>
    {
        private readonly ConvolutionalEncoder _encoder;
        private readonly TorchSharp.Modules.Linear _values;

        public Network(int channels, int features, int seed) : base(nameof(Network))
        {
            _encoder = new(channels, ArcadeEnvironment.Size, ArcadeEnvironment.Size, features, seed: seed);
            _values = torch.nn.Linear(features, ArcadeEnvironment.Actions);
            using (torch.no_grad())
            using (var generator = new torch.Generator((ulong)seed, torch.CPU))
            {
                double bound = 1 / Math.Sqrt(features);
                using Tensor weights = torch.rand(_values.weight!.shape, generator: generator).mul_(2 * bound).sub_(bound);
                _values.weight.copy_(weights);
                _values.bias!.fill_(0);
            }

            RegisterComponents();
        }

        public override Tensor forward(Tensor input)
        {
            using Tensor features = _encoder.forward(input);
            return _values.forward(features);
        }
    }
}
