using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Least squares from frozen features to targets: the probe that tells what features hold. It is fitted in closed form, in float64, so a
/// probe has no learning rate, no seed and no number of steps that could favour one encoder.
/// <code>
/// using var readout = LinearReadout.Fit(features, positions);
/// var explained = readout.Explained(testFeatures, testPositions);
/// </code>
/// </summary>
/// <remarks>
/// Minimises Σ ‖φ W + b − y‖² + ridge · ‖W‖² by the singular value decomposition of the centred features. Without a ridge, directions whose
/// singular value is below ε · max(n, d) of the largest are left out, which gives the solution of least norm; <see cref="Rank"/> tells how
/// many are left.
/// </remarks>
public sealed class LinearReadout : IDisposable
{
    private const double Epsilon = 1.0 / (1L << 52); // of float64

    private LinearReadout(Tensor weights, Tensor intercept, int rank) => (Weights, Intercept, Rank) = (weights, intercept, rank);

    /// <summary>[d, k], float64: W.</summary>
    public Tensor Weights { get; }

    /// <summary>[k], float64: b; zeros where it was not wanted.</summary>
    public Tensor Intercept { get; }

    /// <summary>The numerical rank of the features, centred where there is an intercept.</summary>
    public int Rank { get; }

    /// <summary>Fits a readout.</summary>
    /// <param name="features">φ [n, d], of any floating-point type.</param>
    /// <param name="targets">y [n, k], of any floating-point type, on the features' device.</param>
    /// <param name="ridge">The penalty, at least 0.</param>
    /// <param name="intercept">Whether b is fitted; it is not penalised.</param>
    /// <returns>A readout that is the caller's to dispose; it is in no dispose scope. Neither has it history.</returns>
    /// <exception cref="ArgumentException">
    /// Ranks, shapes, dtypes or devices do not fit, there are no rows or columns, or an element is not finite; the message names the tensor
    /// and, for the latter, the row.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The ridge is negative or not finite.</exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    public static LinearReadout Fit(Tensor features, Tensor targets, double ridge = 0, bool intercept = true)
    {
        RequireMatrix(features, nameof(features));
        RequireTargets(targets, features, columns: null);
        if (!(ridge >= 0 && double.IsFinite(ridge)))
            throw new ArgumentOutOfRangeException(nameof(ridge), ridge, "A ridge is finite and not negative.");
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var (x, y) = (Wide(features), Wide(targets));
        NonFiniteRows.Refuse(x, nameof(features));
        NonFiniteRows.Refuse(y, nameof(targets));
        var (meanX, meanY) = (x.mean([0]), y.mean([0]));
        if (intercept)
            (x, y) = (x - meanX, y - meanY);

        var (u, s, v) = torch.linalg.svd(x, fullMatrices: false);
        var singular = s.cpu().data<double>().ToArray();
        var least = singular[0] * Math.Max(x.shape[0], x.shape[1]) * Epsilon;
        var rank = singular.Count(value => value > least);
        var inverse = singular.Select(value => value > least ? value / (value * value + ridge) : 0).ToArray();
        var weights = v.t().mm(torch.tensor(inverse, device: x.device).unsqueeze(1) * u.t().mm(y));
        var offset = intercept ? meanY - meanX.unsqueeze(0).mm(weights).squeeze(0) : torch.zeros_like(meanY);
        return new(weights.DetachFromDisposeScope(), offset.DetachFromDisposeScope(), rank);
    }

    /// <summary>The readout of features.</summary>
    /// <param name="features">[m, d], of any floating-point type, on the device of those that it was fitted to.</param>
    /// <returns>[m, k], float64, without history.</returns>
    /// <exception cref="ArgumentException">The tensor does not fit.</exception>
    /// <exception cref="ObjectDisposedException">The tensor, or the readout, was disposed.</exception>
    public Tensor Predict(Tensor features)
    {
        ObjectDisposedException.ThrowIf(Weights.IsInvalid, this);
        RequireMatrix(features, nameof(features));
        if (features.shape[1] != Weights.shape[0])
            throw new ArgumentException($"features: {Batches.Describe(features)} does not match [m, {Weights.shape[0]}]", nameof(features));
        RequireDevice(features, Weights, nameof(features));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        return (Wide(features).mm(Weights) + Intercept).MoveToOuterDisposeScope();
    }

    /// <summary>The mean squared error, over rows and columns.</summary>
    /// <param name="features">[m, d].</param>
    /// <param name="targets">[m, k].</param>
    /// <returns>NaN where an element is.</returns>
    /// <exception cref="ArgumentException">A tensor does not fit.</exception>
    /// <exception cref="ObjectDisposedException">A tensor, or the readout, was disposed.</exception>
    public double MeanSquaredError(Tensor features, Tensor targets)
    {
        using var scope = torch.NewDisposeScope();
        return Residuals(features, targets).square().mean().item<double>();
    }

    /// <summary>
    /// R²: which share of the targets' variance the readout explains, over all columns together. 1 is all of it, 0 what their mean
    /// explains; on other data than it was fitted to, it may be negative.
    /// </summary>
    /// <param name="features">[m, d].</param>
    /// <param name="targets">[m, k].</param>
    /// <returns>NaN where an element is, or where the targets do not vary.</returns>
    /// <exception cref="ArgumentException">A tensor does not fit.</exception>
    /// <exception cref="ObjectDisposedException">A tensor, or the readout, was disposed.</exception>
    public double Explained(Tensor features, Tensor targets)
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var left = Residuals(features, targets).square().sum().item<double>();
        var y = Wide(targets);
        var all = (y - y.mean([0])).square().sum().item<double>();
        return all == 0 ? double.NaN : 1 - left / all;
    }

    /// <summary>Frees weights and intercept.</summary>
    public void Dispose()
    {
        Weights.Dispose();
        Intercept.Dispose();
    }

    private Tensor Residuals(Tensor features, Tensor targets)
    {
        var predicted = Predict(features);
        RequireTargets(targets, features, Weights.shape[1]);
        using var noGrad = torch.no_grad();
        return predicted - Wide(targets);
    }

    private static Tensor Wide(Tensor tensor) => tensor.detach().to(torch.float64);

    private static void RequireTargets(Tensor targets, Tensor features, long? columns)
    {
        RequireMatrix(targets, nameof(targets));
        if (targets.shape[0] != features.shape[0] || (columns is { } k && targets.shape[1] != k))
        {
            throw new ArgumentException(
                $"targets: {Batches.Describe(targets)} does not match [{features.shape[0]}, {columns?.ToString() ?? "k"}]",
                nameof(targets));
        }

        RequireDevice(targets, features, nameof(targets));
    }

    private static void RequireMatrix(Tensor tensor, string name)
    {
        ArgumentNullException.ThrowIfNull(tensor, name);
        if (tensor.IsInvalid)
            throw new ObjectDisposedException(name, $"{name} was disposed");
        if (!tensor.is_floating_point() || tensor.shape.Length != 2)
            throw new ArgumentException($"{name}: {Batches.Describe(tensor)} is no matrix of a floating-point type", name);
        if (tensor.shape.Contains(0))
            throw new ArgumentException($"{name}: {Batches.Describe(tensor)} has no elements", name);
    }

    private static void RequireDevice(Tensor tensor, Tensor other, string name)
    {
        if (tensor.device_type != other.device_type || tensor.device_index != other.device_index)
            throw new ArgumentException($"{name}: on {tensor.device}, but the other tensors are on {other.device}", name);
    }
}
