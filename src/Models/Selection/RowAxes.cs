using AuxCore.Interop;
using AuxCore.Kernels;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>Where images and tokens are among the dimensions of a tensor.</summary>
internal readonly record struct RowAxes(bool IsPadded, int TokenAxis, int ImageAxis)
{
    public TokenRows Of(in TensorView source, in TensorView destination, bool clearRest) => IsPadded
        ? TokenRows.Padded(source, destination, ImageAxis, TokenAxis, clearRest)
        : TokenRows.Ragged(source, destination, TokenAxis, clearRest);

    /// <summary>The tensor, or a copy whose rows have no gaps.</summary>
    public Tensor Dense(Tensor tensor)
    {
        var (shape, strides, step) = (tensor.shape, tensor.stride(), 1L);
        for (var axis = shape.Length - 1; axis > Math.Max(TokenAxis, IsPadded ? ImageAxis : -1); axis--)
        {
            if (shape[axis] != 1 && strides[axis] != step)
                return tensor.contiguous();
            step *= shape[axis];
        }

        return tensor;
    }
}
