using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What a call of <see cref="KvEvict"/> keeps, found by <see cref="TokenSelect"/> with a segment for each head.</summary>
internal sealed unsafe class KvEvictChoice : IDisposable
{
    private readonly Scratch _scratch = new();
    private readonly float* _scores;
    private readonly byte* _always;
    private readonly int[] _offsets;

    public KvEvictChoice(in KvEvictWork work)
    {
        Bounds = work.Bounds();
        _offsets = new int[Bounds.Length];
        _scores = _scratch.Take<float>(Bounds[^1]);
        _always = _scratch.Take<byte>(Bounds[^1]);
        Indices = _scratch.Take<int>(Bounds[^1]);
    }

    /// <summary>Where each head's positions begin, were all of them side by side, and the end.</summary>
    public int[] Bounds { get; }

    /// <summary>The kept positions of all heads, numbered by the bounds, ascending.</summary>
    public int* Indices { get; }

    /// <summary>Where a head's kept positions begin among the indices, and how many they are.</summary>
    public (int First, int Count) Kept(int head) => (_offsets[head], _offsets[head + 1] - _offsets[head]);

    /// <summary>The means of a head's scores, and which positions are always kept.</summary>
    public void Smooth(in KvEvictWork work, int head)
    {
        var (length, options) = (work.Lengths[head], work.Options);
        var source = work.Scores + head * work.ScorePositions;
        var destination = _scores + Bounds[head];
        var half = options.PoolWidth / 2;
        var end = Math.Max(0, length - options.Recent); // the mean does not reach into what is recent
        for (var t = 0; t < length; t++)
        {
            _always[Bounds[head] + t] = (byte)(work.IsAlways(t, length) ? 1 : 0);
            destination[t] = half == 0 || t >= end ? source[t] : Mean(source, Math.Max(0, t - half), Math.Min(end, t + half + 1), options);
        }
    }

    /// <summary>Chooses, by one of the selection's implementations.</summary>
    public void Select(in KvEvictWork work, bool byReference)
    {
        var options = work.Options;
        if (options.HeadFloor is not { } floor)
        {
            Select(0, work.Heads, isJoint: false, options.Budget, work.Counts, Indices, byReference);
            return;
        }

        // What a head keeps by its floor, it keeps in the joint selection whatever the scores of other heads.
        var own = options.Budget.Rule == BudgetRule.Ratio
            ? Budget.Ratio(floor * options.Budget.Value)
            : Budget.Count((int)(floor * options.Budget.Tokens));
        var floors = work.Counts == null ? null : _scratch.Take<int>(work.Heads);
        for (var head = 0; head < work.Heads && floors != null; head++)
            floors[head] = (int)(floor * work.Counts[head]);
        Select(0, work.Heads, isJoint: false, own, floors, Indices, byReference);
        for (var i = 0; i < _offsets[^1]; i++)
            _always[Indices[i]] = 1;

        var (heads, place) = (work.Cache.KvHeads, 0);
        for (var first = 0; first < work.Heads; first += heads)
        {
            var total = 0L;
            for (var head = first; head < first + heads; head++)
                total += work.ShareOf(head);
            total = Math.Min(total, Bounds[first + heads] - Bounds[first]);
            place += Select(first, heads, isJoint: true, Budget.Count((int)total), null, Indices + place, byReference);
        }

        for (var (head, i) = (0, 0); head < work.Heads; _offsets[++head] = i)
        {
            while (i < place && Indices[i] < Bounds[head + 1])
                i++;
        }
    }

    public void Dispose() => _scratch.Dispose();

    private static float Mean(float* source, int from, int to, KvEvictOptions options)
    {
        var sum = 0.0;
        for (var i = from; i < to; i++)
            sum += source[i];
        return (float)(sum / options.PoolWidth);
    }

    // Some heads, each for itself or as one segment. Returns how many are kept; indices are by the bounds of all.
    private int Select(int first, int heads, bool isJoint, Budget budget, int* counts, int* indices, bool byReference)
    {
        var from = Bounds[first];
        int[] bounds = isJoint
            ? [0, Bounds[first + heads] - from]
            : [.. Bounds.AsSpan(first, heads + 1)];
        var offsets = new int[bounds.Length];
        fixed (int* b = bounds, o = offsets)
        {
            var work = new TokenSelectWork
            {
                ScoreType = DType.Float32,
                Scores = _scores + from,
                Tokens = bounds[^1],
                Bounds = b,
                BoundCount = bounds.Length,
                Always = _always + from,
                Budget = budget,
                Counts = counts,
                Indices = indices,
                IndexCapacity = bounds[^1],
                Offsets = o,
                Slots = null,
                NaNCounts = null,
            };
            if (byReference)
                TokenSelect.RunReference(work);
            else
                TokenSelect.RunCpu(work);
        }

        if (!isJoint)
            offsets.CopyTo(_offsets, 0);
        for (var i = 0; i < offsets[^1] && from > 0; i++)
            indices[i] += from;
        return offsets[^1];
    }
}
