using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>The time during which a model holds one of its averages; disposing it restores the model. Made by <see cref="EmaModel.Swap"/>.</summary>
public sealed class EmaSwap : IDisposable
{
    private const long MaximumSpan = 1 << 30;

    private readonly EmaModel _ema;
    private readonly int _average;
    private readonly Tensor?[] _training; // what a parameter held, where it is not float32 and the average cannot hold it meanwhile
    private bool _disposed;

    internal EmaSwap(EmaModel ema, int average)
    {
        _ema = ema;
        _average = average;
        _training = new Tensor?[ema.AveragedTensors.Count];
        using var noGrad = torch.no_grad();
        for (var i = 0; i < _training.Length; i++)
        {
            var (parameter, own) = (ema.AveragedTensors[i].Tensor, ema.AveragedTensors[i].Averages[average]);
            if (parameter.dtype == torch.float32)
            {
                Exchange(parameter, own);
                continue;
            }

            _training[i] = parameter.clone().DetachFromDisposeScope();
            parameter.copy_(own);
        }

        ExchangeBuffers();
    }

    /// <summary>
    /// Gives the model its training weights back. What was written to float32 parameters meanwhile stays behind in the average; a parameter that
    /// was retyped meanwhile gives the average back rounded to that type.
    /// </summary>
    /// <exception cref="ArgumentException">The model's names or shapes changed meanwhile, so its weights cannot be given back.</exception>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _ema.EndSwap();
        _ema.Rebind();
        using var noGrad = torch.no_grad();
        for (var i = 0; i < _training.Length; i++)
        {
            var (parameter, own) = (_ema.AveragedTensors[i].Tensor, _ema.AveragedTensors[i].Averages[_average]);
            if (_training[i] is { } saved)
            {
                parameter.copy_(saved);
                saved.Dispose();
            }
            else
            {
                Exchange(parameter, own);
            }
        }

        ExchangeBuffers();
    }

    private void ExchangeBuffers()
    {
        foreach (var buffer in _ema.CopiedBuffers)
            Exchange(buffer.Tensor, buffer.Copy);
    }

    private static unsafe void Exchange(Tensor left, Tensor right)
    {
        var (l, r) = (left.ToTensorView(), right.ToTensorView());
        if (l.DType != r.DType || !l.IsContiguous || !r.IsContiguous)
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

    // libtorch did not see the exchange. An in-place operation on a view without elements costs nothing and tells autograd, so that a graph which
    // saved the old values refuses its backward pass.
    private static void RaiseVersion(Tensor tensor)
    {
        using var flat = tensor.view(-1);
        using var none = flat.narrow(0, 0, 0);
        none.copy_(none);
    }
}
