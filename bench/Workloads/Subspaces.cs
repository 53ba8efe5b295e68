using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>Angles between subspaces, whose bases are orthonormal columns.</summary>
internal static class Subspaces
{
    /// <summary>The largest principal angle in degrees: 0 where the spaces are one.</summary>
    public static double LargestAngle(double[,] one, double[,] other)
    {
        using var scope = torch.NewDisposeScope();
        Tensor u = torch.tensor(one), v = torch.tensor(other);
        Tensor outside = v - u.matmul(u.t().matmul(v)); // its norm is the sine, which is exact for small angles
        return Math.Asin(Math.Min(1, torch.linalg.svd(outside).Item2.max().item<double>())) * 180 / Math.PI;
    }

    /// <summary>The second basis, turned within its space to come as near to the first one's columns as it can.</summary>
    public static double[,] Turned(double[,] basis, double[,] towards)
    {
        using var scope = torch.NewDisposeScope();
        Tensor v = torch.tensor(basis);
        (Tensor left, _, Tensor right) = torch.linalg.svd(v.t().matmul(torch.tensor(towards)));
        Tensor turned = v.matmul(left.matmul(right)).contiguous();
        double[] values = turned.data<double>().ToArray();
        var result = new double[turned.shape[0], turned.shape[1]];
        Buffer.BlockCopy(values, 0, result, 0, values.Length * sizeof(double));
        return result;
    }
}
