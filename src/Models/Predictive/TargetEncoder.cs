using AuxCore.Interop;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// An encoder's moving average, which encodes next states. Either its weights are swapped in for the time of a forward pass, so that any
/// module will do, or they live in a second module of the caller's.
/// </summary>
internal sealed class TargetEncoder : IDisposable
{
    private readonly Module<Tensor, Tensor> _online;
    private readonly Module<Tensor, Tensor>? _twin;
    private readonly EmaModel? _swapped;
    private readonly EmaMixer? _mixer;
    private readonly double _decay;

    public TargetEncoder(Module<Tensor, Tensor> online, Module<Tensor, Tensor>? twin, double decay)
    {
        ArgumentNullException.ThrowIfNull(online);
        if (!(decay is >= 0 and < 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(decay), decay, "A decay lies within [0, 1).");
        (_online, _twin, _decay) = (online, twin, decay);
        if (twin is null)
        {
            _swapped = new EmaModel(online, EmaSchedule.Constant(decay));
            return;
        }

        RequireTwin(online, twin);
        var pairs = online.parameters().Zip(
            twin.parameters(), (source, average) => ((Tensor)source, (Tensor)average.requires_grad_(false)));
        _mixer = new EmaMixer([.. pairs]);
        Follow(0);
    }

    /// <summary>Encodes without history.</summary>
    public Tensor Forward(Tensor observations)
    {
        using var noGrad = torch.no_grad();
        if (_twin is not null)
            return _twin.forward(observations);
        using var swap = _swapped!.Swap();
        return _online.forward(observations);
    }

    /// <summary>Moves the average towards the encoder.</summary>
    public void Update()
    {
        if (_swapped is not null)
            _swapped.Update();
        else
            Follow(_decay);
    }

    public void Dispose()
    {
        _swapped?.Dispose();
        _mixer?.Dispose();
    }

    private void Follow(double decay)
    {
        _mixer!.Update(decay);
        using var noGrad = torch.no_grad();
        foreach (var (source, copy) in _online.buffers().Zip(_twin!.buffers()))
            copy.copy_(source);
    }

    private static void RequireTwin(Module online, Module twin)
    {
        if (ReferenceEquals(online, twin))
            throw new ArgumentException("target: the encoder itself; it takes a second module, or none", nameof(twin));
        Same("parameters", [.. online.named_parameters().Select(p => (p.name, (Tensor)p.parameter))],
            [.. twin.named_parameters().Select(p => (p.name, (Tensor)p.parameter))]);
        Same("buffers", [.. online.named_buffers().Select(b => (b.name, b.buffer))],
            [.. twin.named_buffers().Select(b => (b.name, b.buffer))]);

        static void Same(string what, (string Name, Tensor Tensor)[] online, (string Name, Tensor Tensor)[] twin)
        {
            if (online.Length != twin.Length)
                throw new ArgumentException($"target: {twin.Length} {what}, but the encoder has {online.Length}", nameof(twin));
            foreach (var (left, right) in online.Zip(twin))
            {
                if (left.Name != right.Name || !left.Tensor.shape.AsSpan().SequenceEqual(right.Tensor.shape))
                {
                    throw new ArgumentException(
                        $"target: '{right.Name}' {TensorView.Format(right.Tensor.shape)} does not match the encoder's '{left.Name}' "
                        + TensorView.Format(left.Tensor.shape),
                        nameof(twin));
                }
            }
        }
    }
}
