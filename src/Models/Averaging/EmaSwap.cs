using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// The time during which a model holds one of its averages; disposing it restores the model. Made by <see cref="EmaModel.Swap"/>.
/// </summary>
public sealed class EmaSwap : IDisposable
{
    private const long MaximumSpan = 1 << 30;

    private readonly EmaModel _ema;
    private readonly int _average;
    private readonly Tensor?[] _training; // what a parameter held, where the average is of another type and cannot hold it meanwhile
    private int _exchanged;               // parameters, then copied buffers, that the model holds in their averaged form
    private bool _disposed;

    internal EmaSwap(EmaModel ema, int average)
    {
        _ema = ema;
        _average = average;
        _training = new Tensor?[ema.AveragedTensors.Count];
        using var noGrad = torch.no_grad();
        try
        {
            for (var i = 0; i < _training.Length; i++)
            {
                if (ema.AveragedTensors[i].Tensor.dtype != ema.AveragedTensors[i].Averages[average].dtype)
                    _training[i] = ema.AveragedTensors[i].Tensor.clone().DetachFromDisposeScope();
            }

            for (; _exchanged < _training.Length + ema.CopiedBuffers.Count; _exchanged++)
                Enter(_exchanged);
        }
        catch
        {
            Restore();
            throw;
        }
    }

    /// <summary>
    /// Gives the model its training weights back. What was written meanwhile to parameters of the averages' type stays behind in the
    /// average; a parameter that was retyped meanwhile gives the average back rounded to that type.
    /// </summary>
    /// <exception cref="ArgumentException">
    /// The model's names, shapes or types changed meanwhile so that its weights cannot be given back. The swap stays active: undo the
    /// change and dispose it again.
    /// </exception>
    public void Dispose()
    {
        if (_disposed)
            return;
        _ema.Rebind();
        _disposed = true;
        _ema.EndSwap();
        using var noGrad = torch.no_grad();
        Restore();
    }

    private void Enter(int i)
    {
        if (i >= _training.Length)
            Exchange(_ema.CopiedBuffers[i - _training.Length]);
        else if (_training[i] is null)
            Exchange(_ema.AveragedTensors[i].Tensor, _ema.AveragedTensors[i].Averages[_average]);
        else
            _ema.AveragedTensors[i].Tensor.copy_(_ema.AveragedTensors[i].Averages[_average]);
    }

    // In reverse, so that memory which two names share comes back as it was.
    private void Restore()
    {
        while (_exchanged > 0)
        {
            var i = --_exchanged;
            if (i < _training.Length && _training[i] is { } saved)
                _ema.AveragedTensors[i].Tensor.copy_(saved);
            else
                Enter(i); // an exchange undoes itself
        }

        foreach (var saved in _training)
            saved?.Dispose();
    }

    private static void Exchange(EmaModel.CopiedBuffer buffer) => Exchange(buffer.Tensor, buffer.Copy);

    private static unsafe void Exchange(Tensor left, Tensor right)
    {
        var (l, r) = (left.ToTensorView(), right.ToTensorView());
        if (l.DType != r.DType || !l.IsContiguous || !r.IsContiguous || (l.Device, r.Device) != (AuxDevice.Host, AuxDevice.Host))
        {
            using var held = left.clone();
            left.copy_(right);
            right.copy_(held);
            return;
        }

        for (var at = 0L; at < l.ByteCount; at += MaximumSpan)
        {
            var count = (int)Math.Min(MaximumSpan, l.ByteCount - at);
            MemoryExchange.Run(new Span<byte>((byte*)l.Address + at, count), new Span<byte>((byte*)r.Address + at, count));
        }

        RaiseVersion(left);
        RaiseVersion(right);
    }

    // libtorch did not see the exchange. An in-place operation on a view without elements costs nothing and tells autograd, so that a graph
    // which saved the old values refuses its backward pass.
    private static void RaiseVersion(Tensor tensor)
    {
        using var flat = tensor.view(-1);
        using var none = flat.narrow(0, 0, 0);
        none.copy_(none);
    }
}
