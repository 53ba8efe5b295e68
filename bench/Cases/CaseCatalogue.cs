namespace AuxCore.Bench.Cases;

/// <summary>Every case that the benchmark knows. A new case is one line here.</summary>
internal static class CaseCatalogue
{
    /// <summary>Creates the cases one by one, in the order in which they are reported.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        .. EmaUpdateBenchmarks.All,
        .. AdamWUpdateBenchmarks.All,
        .. GradientNormBenchmarks.All,
        .. ScatterEmaBenchmarks.All,
        .. IndicatorTdBenchmarks.All,
        .. PvnHeadBenchmarks.All,
        .. TabularTdBenchmarks.All,
        .. IndicatorCalibrationBenchmarks.All,
        .. SuccessorSweepBenchmarks.All,
        .. SuccessorSolveBenchmarks.All,
        .. ForwardBackwardLossBenchmarks.All,
        .. InfoNceLossBenchmarks.All,
        .. TokenSelectBenchmarks.All,
        .. TokenCompactBenchmarks.All,
        .. TokenScoresBenchmarks.All,
        .. TokenPoolBenchmarks.All,
        .. TokenMergeBenchmarks.All,
        .. TokenDiversityBenchmarks.All,
        .. KeyRerotateBenchmarks.All,
        .. TokenPipelineBenchmarks.All,
        .. KvQuantiseBenchmarks.All,
        .. KvDecodeAttentionBenchmarks.All,
        .. KvAppendBenchmarks.All,
        .. KvWindowScoresBenchmarks.All,
        .. KvEvictBenchmarks.All,
        .. KvPredictWriteBenchmarks.All,
    ];

    /// <summary>
    /// The cases whose <c>path/name</c> contains <paramref name="filter"/>, whatever the letters' case; all of them for null.
    /// </summary>
    public static IReadOnlyList<Func<KernelCase>> Matching(string? filter) =>
        [.. All.Where(create => filter is null || FullName(create).Contains(filter, StringComparison.OrdinalIgnoreCase))];

    /// <summary>The case's <c>path/name</c>.</summary>
    public static string FullName(Func<KernelCase> create)
    {
        using KernelCase kernel = create();
        return FullName(kernel);
    }

    /// <inheritdoc cref="FullName(Func{KernelCase})"/>
    public static string FullName(KernelCase kernel) => $"{kernel.Path}/{kernel.Name}";
}
