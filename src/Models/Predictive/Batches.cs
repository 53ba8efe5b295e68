using AuxCore.Interop;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>Checks of a batch whose observations may be of any shape, before an encoder sees them.</summary>
internal static class Batches
{
    /// <summary>Refuses a batch whose parts do not go together.</summary>
    public static void Check(TransitionBatch batch, int actions)
    {
        ArgumentNullException.ThrowIfNull(batch);
        Require(batch.Observations, nameof(batch.Observations));
        Require(batch.NextObservations, nameof(batch.NextObservations));
        var n = batch.Observations.shape.Length == 0 ? 0 : batch.Observations.shape[0];
        if (n < 1)
            throw new ArgumentException($"Observations: {Describe(batch.Observations)} has no rows", nameof(batch));
        if (batch.NextObservations.dtype != batch.Observations.dtype
            || !batch.NextObservations.shape.AsSpan().SequenceEqual(batch.Observations.shape))
        {
            throw new ArgumentException(
                $"NextObservations: {Describe(batch.NextObservations)} does not match Observations' {Describe(batch.Observations)}",
                nameof(batch));
        }

        RequireActions(batch.Actions, n, actions, nameof(batch.Actions));
        Sizes.RequireColumn(batch.Done, n, nameof(batch.Done), torch.ScalarType.Bool, torch.ScalarType.Byte);
    }

    /// <summary>Refuses what are no n actions.</summary>
    public static void RequireActions(Tensor actions, long n, int count, string name)
    {
        Sizes.RequireColumn(actions, n, name, torch.ScalarType.Int64);
        using var scope = torch.NewDisposeScope();
        var (least, most) = (actions.min().item<long>(), actions.max().item<long>());
        if (least < 0 || most >= count)
            throw new ArgumentOutOfRangeException(name, least < 0 ? least : most, $"{name}: an action is not within 0 and {count - 1}.");
    }

    /// <summary>Refuses null and what was disposed.</summary>
    public static void Require(Tensor tensor, string name)
    {
        ArgumentNullException.ThrowIfNull(tensor, name);
        if (tensor.IsInvalid)
            throw new ObjectDisposedException(name, $"{name} was disposed");
    }

    /// <summary>Dtype and shape, for messages.</summary>
    public static string Describe(Tensor tensor) => $"{tensor.dtype}{TensorView.Format(tensor.shape)}";
}

/// <summary>Finds values that are not finite.</summary>
internal static class NonFiniteRows
{
    /// <summary>Refuses a matrix that holds one, naming it and the row.</summary>
    public static void Refuse(Tensor matrix, string name)
    {
        using var scope = torch.NewDisposeScope();
        var bad = matrix.isfinite().all(1).logical_not();
        if (bad.any().item<bool>())
            throw new ArgumentException($"{name}: row {bad.to(torch.int64).argmax().item<long>()} holds a value that is not finite", name);
    }
}
