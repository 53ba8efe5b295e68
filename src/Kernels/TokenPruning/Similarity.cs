using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What similarities of tokens are computed from. What reads it is for host memory.</summary>
internal readonly unsafe struct SimilarityWork
{
    public required DType DType { get; init; }

    public required void* Metric { get; init; }

    public required long Tokens { get; init; }

    public required int Depth { get; init; }

    public required int* Bounds { get; init; }

    public required long BoundCount { get; init; }

    public required int* Slots { get; init; }

    public int Segments => (int)BoundCount - 1;

    /// <summary>Refuses segments that do not divide the tokens; on a device what can be said without reading them.</summary>
    public void CheckSegments(AuxDevice device)
    {
        if (device.Kind == AuxDeviceKind.Host)
            TokenSegments.Check(Bounds, BoundCount, Tokens, "segments");
        else
            TokenSegments.RequireEnd(BoundCount, "segments");
    }
}

/// <summary>
/// The most similar of some candidates for each of some tokens, by cosine, tile by tile: no matrix of all pairs.
/// </summary>
internal sealed unsafe class Similarity : IDisposable
{
    private const int TileCandidates = 192;
    private const int TileSources = 32;

    // Below this many multiplications a thread, waking it is not worth the while.
    private const long MinimumWorkPerThread = 4 << 20;

    private readonly SimilarityWork _work;
    private readonly bool _reference;
    private readonly Scratch _scratch = new();
    private readonly int _threads, _tileStep;
    private readonly bool _keepsSources;
    private readonly Space[] _spaces;

    public Similarity(in SimilarityWork work, int longest, bool reference)
    {
        (_work, _reference) = (work, reference);
        _tileStep = BlockedProduct<float, Lanes1<float>>.RowStep(TileCandidates);
        _keepsSources = KeepsSources(longest, work.Depth);
        _threads = reference ? 1 : ThreadTeam.Count((long)longest * longest * work.Depth / 4, MinimumWorkPerThread);
        _spaces = new Space[_threads];
        for (var part = 0; part < _threads && !reference; part++)
            _spaces[part] = new Space(_scratch, work.Depth, _tileStep, KeepsSources(longest, work.Depth) ? longest : TileSources);
    }

    /// <summary>Finds for each source the place of the most similar candidate, and how similar it is.</summary>
    /// <param name="sources">Tokens.</param>
    /// <param name="candidates">Tokens, at least one if there is a source.</param>
    /// <param name="nearest">For each source a place among the candidates; the lowest of equals.</param>
    /// <param name="similarity">For each source the cosine; NaN where all are.</param>
    public void Nearest(ReadOnlySpan<int> sources, ReadOnlySpan<int> candidates, int[] nearest, float[] similarity)
    {
        if (_reference)
        {
            NearestReference(sources, candidates, nearest, similarity);
            return;
        }

        fixed (int* from = sources, to = candidates, best = nearest)
        fixed (float* values = similarity)
        {
            var job = new Job(from, sources.Length, to, candidates.Length, best, values);
            if (_threads == 1)
                Part(job, 0);
            else
                InParallel(job);
        }
    }

    public void Dispose() => _scratch.Dispose();

    // Unit vectors of all sources, made once; of a tile, made for each tile of candidates, where they would take more than 16 MB.
    private static bool KeepsSources(int longest, int depth) => (long)longest * depth <= 4 << 20;

    private readonly struct Job(int* sources, int count, int* candidates, int candidateCount, int* nearest, float* similarity)
    {
        public int* Sources => sources;

        public int Count => count;

        public int* Candidates => candidates;

        public int CandidateCount => candidateCount;

        public int* Nearest => nearest;

        public float* Similarity => similarity;
    }

    /// <summary>What a thread needs.</summary>
    private readonly struct Space
    {
        public Space(Scratch scratch, int depth, int tileStep, int sources)
        {
            Row = scratch.Take<float>((depth + RowSums.Lanes - 1) / RowSums.Lanes * RowSums.Lanes);
            Sources = scratch.Take<float>((long)Math.Max(1, sources) * depth);
            Candidates = scratch.Take<float>((long)depth * tileStep);
            Tile = scratch.Take<float>((long)TileSources * tileStep);
        }

        public float* Row { get; }

        /// <summary>Unit vectors, of a tile or of all sources.</summary>
        public float* Sources { get; }

        /// <summary>Transposed: [depth, step].</summary>
        public float* Candidates { get; }

        public float* Tile { get; }
    }

    private void InParallel(Job job) => ThreadTeam.Run(_threads, part => Part(job, part));

    private void Part(Job job, int part)
    {
        switch (CpuSimd.ProductWidth)
        {
            case SimdWidth.Bits512:
                Part<Lanes512<float>>(job, part);
                break;
            case SimdWidth.Bits256:
                Part<Lanes256<float>>(job, part);
                break;
            case SimdWidth.Bits128:
                Part<Lanes128<float>>(job, part);
                break;
            default:
                Part<Lanes1<float>>(job, part);
                break;
        }
    }

    // A source is one thread's, and meets the candidates in their order.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private void Part<TLanes>(in Job job, int part) where TLanes : struct, ILanes<TLanes, float>
    {
        var space = _spaces[part];
        var (begin, end) = ((int)((long)job.Count * part / _threads), (int)((long)job.Count * (part + 1) / _threads));
        for (var i = begin; i < end; i++)
            (job.Nearest[i], job.Similarity[i]) = (0, float.NaN);
        for (var first = 0; first < job.CandidateCount; first += TileCandidates)
        {
            var candidates = Math.Min(TileCandidates, job.CandidateCount - first);
            for (var j = 0; j < candidates; j++)
                Unit(job.Candidates[first + j], space.Row, space.Candidates + j, _tileStep);
            for (var k = 0; k < _work.Depth; k++)
                new Span<float>(space.Candidates + (long)k * _tileStep + candidates, _tileStep - candidates).Clear();
            for (var at = begin; at < end; at += TileSources)
            {
                var rows = Math.Min(TileSources, end - at);
                var units = space.Sources + (_keepsSources ? (long)(at - begin) * _work.Depth : 0);
                for (var i = 0; i < rows && (first == 0 || !_keepsSources); i++)
                    Unit(job.Sources[at + i], space.Row, units + (long)i * _work.Depth, 1);
                new Span<float>(space.Tile, rows * _tileStep).Clear();
                BlockedProduct<float, TLanes>.Add(
                    rows, candidates, _work.Depth, Factor<float>.Rows(units, _work.Depth), space.Candidates, _tileStep, space.Tile,
                    _tileStep);
                for (var i = 0; i < rows; i++)
                    Better(space.Tile + (long)i * _tileStep, candidates, first, job.Nearest + at + i, job.Similarity + at + i);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Unit(int token, float* row, float* destination, int step)
    {
        UnitVectors.Normalise(row, _work.Depth, UnitVectors.Norm(_work, token, row));
        for (var k = 0; k < _work.Depth; k++)
            destination[(long)k * step] = row[k];
    }

    /// <summary>Takes the largest of a row of similarities if it exceeds the best so far, which is NaN where there is none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Better(float* row, int count, int first, int* nearest, float* similarity)
    {
        var (best, at, from) = (*similarity, *nearest, 0);
        for (; from <= count - Vector256<float>.Count; from += Vector256<float>.Count)
        {
            // Not (x <= best): also where best is NaN.
            var values = Vector256.Load(row + from);
            if (Vector256.LessThanOrEqualAll(values, Vector256.Create(best)))
                continue;
            for (var lane = 0; lane < Vector256<float>.Count; lane++)
                Take(values[lane], first + from + lane, ref best, ref at);
        }

        for (; from < count; from++)
            Take(row[from], first + from, ref best, ref at);
        (*similarity, *nearest) = (best, at);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Take(float value, int place, ref float best, ref int at)
    {
        if (value > best || (float.IsNaN(best) && !float.IsNaN(value)))
            (best, at) = (value, place);
    }

    // The formula in double, pair by pair.
    private void NearestReference(ReadOnlySpan<int> sources, ReadOnlySpan<int> candidates, int[] nearest, float[] similarity)
    {
        for (var i = 0; i < sources.Length; i++)
        {
            var (best, at) = (double.NaN, 0);
            for (var j = 0; j < candidates.Length; j++)
            {
                var value = UnitVectors.Cosine(_work, sources[i], candidates[j]);
                if (value > best || (double.IsNaN(best) && !double.IsNaN(value)))
                    (best, at) = (value, j);
            }

            (nearest[i], similarity[i]) = (at, (float)best);
        }
    }
}
