using AuxCore.Interop;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>TorchSharp's tensors as <see cref="TensorView"/>s.</summary>
public static class TorchViews
{
    /// <summary>
    /// Views a tensor's memory: its address with the storage offset, its dtype, device, shape and strides. The view keeps the
    /// <see cref="Tensor"/> object alive, but it does not keep it from being disposed or resized.
    /// </summary>
    /// <param name="tensor">A dense tensor on the CPU or a CUDA device.</param>
    /// <param name="name">What messages call it.</param>
    /// <exception cref="ArgumentNullException"><paramref name="tensor"/> is null.</exception>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    /// <exception cref="ArgumentException">
    /// It is sparse or lazily negated, on a device that AuxCore does not know, or of a dtype that AuxCore does not have.
    /// </exception>
    /// <exception cref="AuxException">The application loaded a version of TorchSharp that AuxCore does not work with.</exception>
    public static unsafe TensorView ToTensorView(this Tensor tensor, string name = "tensor")
    {
        ArgumentNullException.ThrowIfNull(tensor, name);
        if (tensor.IsInvalid)
            throw new ObjectDisposedException(name, $"{name} was disposed");
        TorchVersion.Require();
        if (tensor.is_sparse) // it has no data_ptr()
            throw new ArgumentException($"{name} is sparse; pass a dense tensor", name);

        if (tensor.is_neg()) // its memory holds the values with the other sign
            throw new ArgumentException($"{name} is lazily negated; pass {name}.resolve_neg()", name);

        var device = tensor.device_type switch
        {
            DeviceType.CPU => AuxDevice.Host,
            DeviceType.CUDA => new AuxDevice(AuxDeviceKind.Cuda, tensor.device_index),
            var other => throw new ArgumentException($"{name} is on {other}; AuxCore knows the CPU and CUDA", name),
        };
        var view = TensorView.FromPointer(
            (void*)TorchNative.THSTensor_data(tensor.Handle), ToDType(tensor.dtype, name), tensor.shape, tensor.stride(),
            device, owner: tensor);
        GC.KeepAlive(tensor);
        return view;
    }

    private static DType ToDType(torch.ScalarType type, string name) => type switch
    {
        torch.ScalarType.Float32 => DType.Float32,
        torch.ScalarType.Float64 => DType.Float64,
        torch.ScalarType.Float16 => DType.Float16,
        torch.ScalarType.BFloat16 => DType.BFloat16,
        torch.ScalarType.Byte => DType.UInt8,
        torch.ScalarType.Int8 => DType.Int8,
        torch.ScalarType.Int16 => DType.Int16,
        torch.ScalarType.Int32 => DType.Int32,
        torch.ScalarType.Int64 => DType.Int64,
        torch.ScalarType.Bool => DType.Bool,
        _ => throw new ArgumentException($"{name} is of {type}, which AuxCore does not have", name),
    };
}
