using System.Runtime.InteropServices;
using AuxCore.Interop;
using TorchSharp;
using TorchSharp.Modules;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Where the gradients of parameters are at one moment. Reading them through TorchSharp takes an object and several calls each, more than
/// the step itself for small parameters; this goes by the native handles. A gradient that is not contiguous is copied, until this is
/// disposed.
/// </summary>
internal sealed class ParameterGradients : IDisposable
{
    private readonly List<Tensor> _copies = [];

    /// <summary>Looks up one gradient and checks that it fits.</summary>
    /// <param name="parameter">Not disposed.</param>
    /// <param name="name">What messages call it.</param>
    /// <param name="shape">The parameter's shape.</param>
    /// <param name="place">Where the parameter is.</param>
    /// <returns>Its address; 0 where there is none, or the parameter is frozen.</returns>
    /// <exception cref="ArgumentException">It is sparse, or of another type, size or device than it may be.</exception>
    public (nint Address, DType DType) Read(Parameter parameter, string name, long[] shape, Place place)
    {
        if (!TorchNative.THSTensor_requires_grad(parameter.Handle))
            return default;
        var handle = TorchNative.THSTensor_grad(parameter.Handle);
        if (handle == 0)
            return default;
        try
        {
            if (IsPlain(handle, place) && HasShape(handle, shape) && !TorchNative.THSTensor_is_neg(handle)
                && ToDType(TorchNative.THSTensor_type(handle)) is { } dtype)
                return (TorchNative.THSTensor_data(handle), dtype);
        }
        finally
        {
            TorchNative.THSTensor_dispose(handle); // the parameter holds it
        }

        return ReadUnusual(parameter, name);
    }

    /// <summary>Makes gradients zero: in place, or by taking them away.</summary>
    public static unsafe void Clear(Parameter parameter, Place place, bool setToNone)
    {
        if (setToNone)
        {
            TorchNative.THSTensor_set_grad(parameter.Handle, 0);
            return;
        }

        var handle = TorchNative.THSTensor_grad(parameter.Handle);
        if (handle == 0)
            return;
        var done = place.Type == DeviceType.CPU && IsPlain(handle, place) && ToDType(TorchNative.THSTensor_type(handle)) is { } dtype
            && Zero((void*)TorchNative.THSTensor_data(handle), TorchNative.THSTensor_numel(handle) * dtype.Size());
        TorchNative.THSTensor_dispose(handle);
        if (done)
            return;

        using var gradient = parameter.grad!;
        using var noGrad = torch.no_grad();
        if (gradient.is_sparse)
            parameter.grad = null;
        else
            gradient.fill_(0);

        static bool Zero(void* memory, long bytes)
        {
            NativeMemory.Clear(memory, (nuint)bytes);
            return true;
        }
    }

    /// <summary>A device, as TorchSharp counts them.</summary>
    public readonly record struct Place(DeviceType Type, int Index);

    public void Dispose()
    {
        foreach (var copy in _copies)
            copy.Dispose();
    }

    private (nint Address, DType DType) ReadUnusual(Parameter parameter, string name)
    {
        using var gradient = parameter.grad!;
        var what = $"the gradient of '{name}'";
        if (gradient.is_sparse)
            throw new ArgumentException($"{what} is sparse, which AdamW does not take; use a layer that gives dense gradients");
        if (!gradient.shape.AsSpan().SequenceEqual(parameter.shape))
            throw new ArgumentException(
                $"{what} has shape {TensorView.Format(gradient.shape)}, the parameter {TensorView.Format(parameter.shape)}");
        if (gradient.device_type != parameter.device_type || gradient.device_index != parameter.device_index)
            throw new ArgumentException($"{what} is on {gradient.device}, the parameter on {parameter.device}");
        if (ToDType((sbyte)gradient.dtype) is null)
            throw new ArgumentException($"{what} is of {gradient.dtype}; AdamW takes float32, bfloat16 and float16");

        using var noGrad = torch.no_grad();
        var dense = gradient.resolve_neg();
        if (!dense.is_contiguous())
        {
            using var strided = dense;
            dense = strided.contiguous();
        }

        _copies.Add(dense.DetachFromDisposeScope());
        var view = dense.ToTensorView(what);
        return (view.Address, view.DType);
    }

    // What is sparse has no layout to ask for.
    private static bool IsPlain(nint handle, Place place) =>
        !TorchNative.THSTensor_is_sparse(handle) && TorchNative.THSTensor_is_contiguous(handle)
        && TorchNative.THSTensor_device_type(handle) == (int)place.Type
        && (place.Type == DeviceType.CPU || TorchNative.THSTensor_device_index(handle) == place.Index);

    private static bool HasShape(nint handle, long[] shape)
    {
        if (TorchNative.THSTensor_ndimension(handle) != shape.Length)
            return false;
        for (var i = 0; i < shape.Length; i++)
        {
            if (TorchNative.THSTensor_size(handle, i) != shape[i])
                return false;
        }

        return true;
    }

    private static DType? ToDType(sbyte type) => (torch.ScalarType)type switch
    {
        torch.ScalarType.Float32 => DType.Float32,
        torch.ScalarType.BFloat16 => DType.BFloat16,
        torch.ScalarType.Float16 => DType.Float16,
        _ => null,
    };
}
