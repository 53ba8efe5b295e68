using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>Checks of shapes before libtorch sees them: a wrong product would end the process.</summary>
internal static class Sizes
{
    /// <summary>Refuses a size below 1, by its name.</summary>
    public static void RequirePositive(params ReadOnlySpan<(string Name, long Size)> sizes)
    {
        foreach (var (name, size) in sizes)
            ArgumentOutOfRangeException.ThrowIfLessThan(size, 1, name);
    }

    /// <summary>Refuses what is no float32 matrix of so many columns.</summary>
    public static void RequireRows(Tensor tensor, long columns, string name)
    {
        Batches.Require(tensor, name);
        if (tensor.dtype != torch.ScalarType.Float32 || tensor.shape.Length != 2 || tensor.shape[1] != columns)
        {
            throw new ArgumentException(
                $"{name}: {tensor.dtype}[{string.Join(", ", tensor.shape)}] is not Float32[n, {columns}]", name);
        }

        RequireHost(tensor, name);
    }

    /// <summary>Refuses what is not one element a row, of one of some dtypes.</summary>
    public static void RequireColumn(Tensor tensor, long rows, string name, params ReadOnlySpan<torch.ScalarType> types)
    {
        Batches.Require(tensor, name);
        if (!types.Contains(tensor.dtype) || tensor.shape.Length != 1 || tensor.shape[0] != rows)
        {
            throw new ArgumentException(
                $"{name}: {tensor.dtype}[{string.Join(", ", tensor.shape)}] is not {string.Join(" or ", types.ToArray())}[{rows}]", name);
        }

        RequireHost(tensor, name);
    }

    private static void RequireHost(Tensor tensor, string name)
    {
        if (tensor.device_type != DeviceType.CPU)
            throw new ArgumentException($"{name}: it is on {tensor.device}, and these models are on the CPU", name);
    }
}
