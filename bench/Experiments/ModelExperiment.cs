using AuxCore.Bench.Output;

namespace AuxCore.Bench.Experiments;

/// <summary>How an experiment runs.</summary>
/// <param name="Backend">The AuxCore backend, in lower case.</param>
/// <param name="Threads">How many threads libtorch and AuxCore may use.</param>
/// <param name="Quick">Shorter training, to see that everything runs; its figures support no claim.</param>
/// <param name="Seeds">The seeds; all arms see each of them, with the same data order and initialisation.</param>
internal sealed record ModelSettings(string Backend, int Threads, bool Quick, IReadOnlyList<int> Seeds);

/// <summary>Trains models with and without an AuxCore objective or average, and compares them seed by seed.</summary>
internal abstract class ModelExperiment
{
    /// <summary>What <c>models NAME</c> takes: lower case, no spaces.</summary>
    public abstract string Name { get; }

    /// <summary>The sentence that the experiment tests.</summary>
    public abstract string Claim { get; }

    /// <summary>Whether the deciding metric is an accuracy (true) or an error (false).</summary>
    public virtual bool HigherIsBetter => true;

    /// <summary>Runs all arms on all seeds and reports the fraction done.</summary>
    public abstract ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation);

    /// <summary>
    /// Trains the checkpoints that <see cref="Run"/> evaluates; what was broken off goes on. Null where it trains by itself.
    /// </summary>
    public virtual Action<ModelSettings, IProgress<double>, CancellationToken>? Train => null;
}

/// <summary>Every experiment that the benchmark knows. A new one is one line here.</summary>
internal static class ModelCatalogue
{
    /// <summary>Creates the experiments; creating one is cheap.</summary>
    public static IReadOnlyList<Func<ModelExperiment>> All { get; } =
    [
        () => new EmaExperiment(),
        () => new EmaStorageExperiment(),
        () => new FusedStepExperiment(),
        () => new ForwardBackwardExperiment(),
        () => new FourRoomsExperiment(),
        () => new MinatarRandomExperiment(),
        () => new PvnExperiment(),
        () => new PredictionExperiment(),
        () => new ManExperiment(),
        () => new LaeExperiment(),
        () => new KvpExperiment(),
        () => new VlmPruningExperiment(),
        () => new TvcExperiment(),
        () => new PruningExperiment(),
        () => new HpmExperiment(),
    ];
}
