using System.Globalization;
using AuxCore.Interop;
using TorchSharp;
using Module = TorchSharp.torch.nn.Module;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>One snapshot's part in a synthesized average.</summary>
/// <param name="Path">The file.</param>
/// <param name="Step">The optimiser step of the snapshot.</param>
/// <param name="Sigma">The relative width of the average in it.</param>
/// <param name="Weight">Its coefficient; the coefficients of all add up to 1.</param>
public readonly record struct SnapshotWeight(string Path, long Step, double Sigma, double Weight);

/// <summary>An average that was made of snapshots, by <see cref="EmaModel.Synthesize"/>. Holds its tensors until it is disposed.</summary>
public sealed class SynthesizedEma : IDisposable
{
    private const double ReportedCondition = 1e10;

    private readonly Dictionary<string, Tensor> _tensors;
    private bool _disposed;

    private SynthesizedEma(Dictionary<string, Tensor> tensors, List<SnapshotWeight> weights, PostHocWeights solution)
    {
        _tensors = tensors;
        Weights = weights;
        Solution = solution;
    }

    /// <summary>The combination: file, step, width and coefficient of each snapshot.</summary>
    public IReadOnlyList<SnapshotWeight> Weights { get; }

    /// <summary>How good the combination is: its synthesis error, condition and gain of noise.</summary>
    public PostHocWeights Solution { get; }

    /// <summary>
    /// The averaged parameters in float32, and copied buffers from the last snapshot up to the step (else the first after it), by the
    /// module's names.
    /// </summary>
    /// <exception cref="ObjectDisposedException">It was disposed.</exception>
    public IReadOnlyDictionary<string, Tensor> StateDict()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return _tensors;
    }

    /// <summary>Copies the average into a module of the same names and shapes.</summary>
    /// <param name="target">Where to; its parameters keep their types.</param>
    /// <exception cref="ArgumentException">The module lacks a name, or has it with another shape. Nothing was written.</exception>
    /// <exception cref="ObjectDisposedException">It was disposed.</exception>
    public void CopyTo(Module target)
    {
        ArgumentNullException.ThrowIfNull(target);
        EmaModel.Copy(StateDict(), target);
    }

    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        _disposed = true;
        foreach (var tensor in _tensors.Values)
            tensor.Dispose();
    }

    internal static SynthesizedEma Of(EmaSnapshot[] snapshots, double sigma, long? atStep)
    {
        if (snapshots.Length == 0)
            throw new ArgumentException("snapshots: at least one", nameof(snapshots));
        foreach (var snapshot in snapshots.Skip(1))
            snapshot.RequireSameTraining(snapshots[0]);
        var step = atStep ?? snapshots.Max(snapshot => snapshot.Step);
        var parts = snapshots.SelectMany(file => file.Sigmas.Select(entry => (File: file, entry.Average, entry.Sigma))).ToArray();
        var solution = PostHocEma.Solve(
            [.. parts.Select(part => ((double)part.File.Time, part.Sigma))], sigma, step - snapshots[0].Origin);
        if (solution.Condition > ReportedCondition || solution.LeftOut > 0)
            AuxRuntime.Log?.Invoke(string.Create(CultureInfo.InvariantCulture,
                $"Synthesize: the snapshots are nearly dependent (condition {solution.Condition:0.0e0}, {solution.LeftOut} left out)."));

        var tensors = Combine(parts, solution.Weights, snapshots[0]);
        try
        {
            var buffersFrom = snapshots.Where(file => file.Step <= step).MaxBy(file => file.Step) ?? snapshots.MinBy(file => file.Step)!;
            ReadBuffers(buffersFrom, tensors);
            return new(tensors, [.. parts.Zip(solution.Weights, (part, weight) =>
                new SnapshotWeight(part.File.Path, part.File.Step, part.Sigma, weight))], solution);
        }
        catch
        {
            foreach (var tensor in tensors.Values)
                tensor.Dispose();
            throw;
        }
    }

    private static Dictionary<string, Tensor> Combine(
        (EmaSnapshot File, int Average, double Sigma)[] parts, IReadOnlyList<double> weights, EmaSnapshot first)
    {
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        var sums = first.Averaged.ToDictionary(entry => entry.Key, entry => torch.zeros(entry.Value, torch.float64, torch.CPU));
        var weighted = parts.Zip(weights, (part, weight) => (part.File.Path, part.Average, Weight: weight));
        foreach (var ofFile in weighted.Where(part => part.Weight != 0).GroupBy(part => part.Path))
        {
            using var file = SafetensorsFile.Open(ofFile.Key, verify: false); // that was done when its header was read
            foreach (var (_, average, weight) in ofFile)
            {
                foreach (var (name, sum) in sums)
                {
                    using var one = torch.NewDisposeScope();
                    sum.add_(file.Read(EmaSnapshot.AveragePrefix(average) + name).to(torch.float64), weight);
                }
            }
        }

        return sums.ToDictionary(entry => entry.Key, entry => entry.Value.to(torch.float32).DetachFromDisposeScope());
    }

    private static void ReadBuffers(EmaSnapshot snapshot, Dictionary<string, Tensor> tensors)
    {
        using var file = SafetensorsFile.Open(snapshot.Path, verify: false);
        foreach (var name in snapshot.Copied.Keys)
            tensors.Add(name, file.Read(EmaSnapshot.BufferPrefix + name).DetachFromDisposeScope());
    }
}
