using AuxCore.Bench.Data;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;

namespace AuxCore.Bench.Experiments;

/// <summary>KV Prediction (S41) on real text.</summary>
internal sealed class KvpExperiment : ModelExperiment
{
    public override string Name => "kvp";

    public override string Claim => "Predicted keys and values recover part of what a smaller model loses.";

    public override Action<ModelSettings, IProgress<double>, CancellationToken> Train => (settings, progress, cancellation) =>
        new KvpRecipe(AustenNovels.LoadFull(DataStore.Default), Path.Combine("bench", "checkpoints", "kvp"))
            .Train([.. settings.Seeds.Take(3)], progress, cancellation);

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation) =>
        throw new NotSupportedException();
}
