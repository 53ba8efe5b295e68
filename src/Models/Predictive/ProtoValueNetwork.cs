using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A proto-value network (Farebrother et al. 2023, arXiv 2304.12567; google-research, <c>pvn/</c>) for small pictures: an encoder, and for
/// each of T sets of states a linear head that learns the set's successor measure under the uniformly random policy. It learns from
/// transitions of any policy, without their rewards; its features then serve any task.
/// <code>
/// using var sets = RandomIndicators.CalibratePictures(replay.Observations(sample), tasks: 100, rate: 0.05);
/// using var network = new ProtoValueNetwork(new() { Channels = 4, Actions = 6 });
/// network.Update(batch, sets.Pack(batch.Observations));        // as often as there is time; bits can be packed once for all
/// using var features = network.Features(observations);
/// </code>
/// </summary>
/// <remarks>
/// <para>A step is the published one: the target network, a moving average, follows the parameters from before the step; the loss is that
/// of <see cref="SuccessorMeasureObjective"/>; Adam steps. Everything lies on the CPU, in float32. Not thread-safe.</para>
/// <para>Sets come as bits, of <see cref="RandomIndicators"/>, <see cref="HashIndicators"/> or of one's own.</para>
/// </remarks>
public sealed partial class ProtoValueNetwork : IDisposable
{
    private readonly ProtoValueSettings _settings;
    private readonly ConvolutionalEncoder _target;
    private readonly SuccessorMeasureObjective _objective;
    private readonly AdamW _optimizer; // without weight decay: Adam
    private bool _disposed;

    /// <summary>A network that has learned nothing yet.</summary>
    /// <param name="settings">Sizes and rates.</param>
    /// <exception cref="ArgumentException">A setting is out of range; the message names it.</exception>
    public ProtoValueNetwork(ProtoValueSettings settings)
    {
        ArgumentNullException.ThrowIfNull(settings);
        settings.Check(nameof(settings));
        _settings = settings;
        (Encoder, _target) = (MakeEncoder(), MakeEncoder());
        _objective = new(Encoder, settings.Tasks, settings.Objective, _target);
        IEnumerable<(string, TorchSharp.Modules.Parameter)> parameters =
            [.. Encoder.named_parameters().Select(entry => ("encoder." + entry.name, entry.parameter)), ("heads", _objective.Heads)];
        _optimizer = new(parameters, settings.LearningRate, eps: settings.Epsilon);
    }

    /// <summary>What is trained for its features. It belongs to the network.</summary>
    public ConvolutionalEncoder Encoder { get; }

    /// <summary>T.</summary>
    public int Tasks => _settings.Tasks;

    /// <summary>[T, A, F], float32: the heads. Live: do not dispose it.</summary>
    public Tensor Heads => _objective.Heads;

    /// <summary>Training steps so far.</summary>
    public long Steps { get; private set; }

    /// <summary>Where losses and steps run: Auto takes what fits the memory; a named backend runs or throws.</summary>
    public AuxBackend Backend
    {
        get => _objective.Backend;
        set => (_objective.Backend, _optimizer.Backend) = (value, value);
    }

    /// <summary>One training step.</summary>
    /// <param name="batch">Transitions of any policy: observations [B, C, H, W], actions [B], next observations, done [B].</param>
    /// <param name="bits">
    /// [B, <see cref="Indicators.BytesPerState"/>(T)], uint8: which sets each current state is in, or each next one
    /// (<see cref="ProtoValueSettings.Start"/>).
    /// </param>
    /// <returns>The loss before the step: mean ½ (Q − y)² over transitions and tasks.</returns>
    /// <exception cref="ArgumentException">A tensor does not fit; the message names it. No weight was changed.</exception>
    /// <exception cref="ObjectDisposedException">The network or a tensor was disposed.</exception>
    public double Update(TransitionBatch batch, Tensor bits)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        using var scope = torch.NewDisposeScope();
        var loss = _objective.Loss(batch, bits, _settings.Discount);
        _optimizer.zero_grad(set_to_none: true);
        loss.backward();
        _objective.UpdateTarget();
        _optimizer.step();
        Steps++;
        return loss.item<float>();
    }

    /// <summary>The encoder's features.</summary>
    /// <param name="observations">[n, C, H, W], float32.</param>
    /// <returns>[n, F], without history.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    /// <exception cref="ObjectDisposedException">The network or the observations were disposed.</exception>
    public Tensor Features(Tensor observations)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        using var noGrad = torch.no_grad();
        return Encoder.forward(observations);
    }

    /// <summary>What the heads predict: the successor measure of each set, for each action.</summary>
    /// <param name="observations">[n, C, H, W], float32.</param>
    /// <returns>[n, T, A], without history.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    /// <exception cref="ObjectDisposedException">The network or the observations were disposed.</exception>
    public Tensor Values(Tensor observations)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return _objective.Values(observations);
    }

    /// <summary>Frees everything.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _optimizer.Dispose();
        _objective.Dispose();
        _target.Dispose();
        Encoder.Dispose();
    }

    private ConvolutionalEncoder MakeEncoder() => new(
        _settings.Channels, _settings.Height, _settings.Width, _settings.Features, _settings.Filters, _settings.Seed);
}
