using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class TabularTd
{
    private const long MinimumElementsPerThread = 64 * 1024;
    private const int CacheLineFloats = 16;

    /// <summary>Threads share the columns: each of them takes all transitions in order, on columns of its own.</summary>
    private static unsafe void RunCpu(in TabularTdWork work)
    {
        var snapshot = work.Order == TransitionOrder.Snapshot ? new RowSnapshot(work) : null;
        var loop = LoopFor(CpuSimd.Width);
        var blocks = (work.States + CacheLineFloats - 1) / CacheLineFloats;
        var threads = Math.Min(ThreadTeam.Count((long)work.States * work.Transitions, MinimumElementsPerThread), blocks);
        if (threads == 1)
            loop(work, snapshot, 0, work.States);
        else
            RunThreads(work, snapshot, loop, blocks, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static unsafe void RunThreads(
        TabularTdWork work, RowSnapshot? snapshot, delegate*<in TabularTdWork, RowSnapshot?, int, int, void> loop, int blocks,
        int threads) =>
        ThreadTeam.Run(threads, part => loop(
            work, snapshot,
            (int)((long)blocks * part / threads) * CacheLineFloats,
            Math.Min(work.States, (int)((long)blocks * (part + 1) / threads) * CacheLineFloats)));

    private static unsafe delegate*<in TabularTdWork, RowSnapshot?, int, int, void> LoopFor(SimdWidth width) => width switch
    {
        SimdWidth.Bits512 => &Columns<FloatVector16>,
        SimdWidth.Bits256 => &Columns<FloatVector8>,
        SimdWidth.Bits128 => &Columns<FloatVector4>,
        _ => &Columns<FloatVector1>,
    };

    private static unsafe void Columns<TVector>(in TabularTdWork work, RowSnapshot? snapshot, int from, int to)
        where TVector : struct, IFloatVector<TVector>
    {
        snapshot?.Take(work, from, to);
        fixed (float* saved = snapshot?.Rows)
        {
            for (var i = 0; i < work.Transitions; i++)
            {
                var next = work.Done[i] != 0 ? null
                    : snapshot is not null && snapshot.Slot(work.Next[i]) is var slot and >= 0 ? saved + (long)slot * work.States
                    : work.Measure + (long)work.Next[i] * work.States;
                Update<TVector>(work, work.Measure + (long)work.Current[i] * work.States, next, work.Counted(i), from, to);
            }
        }
    }

    private static unsafe void Update<TVector>(in TabularTdWork work, float* row, float* next, int counted, int from, int to)
        where TVector : struct, IFloatVector<TVector>
    {
        // The column that counts is worked out beside the loop, from what the loop is about to overwrite.
        var counts = counted >= from && counted < to;
        var atCounted = counts
            ? Updated<FloatVector1>(
                row + counted, next == null ? null : next + counted, work, (float)SuccessorArguments.Height(work.Discount, work.Normalised))
            : default;
        var t = from;
        for (; t <= to - TVector.Count; t += TVector.Count)
            Updated<TVector>(row + t, next == null ? null : next + t, work, 0).Store(row + t);
        for (; t < to; t++)
            Updated<FloatVector1>(row + t, next == null ? null : next + t, work, 0).Store(row + t);
        if (counts)
            atCounted.Store(row + counted);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe TVector Updated<TVector>(float* row, float* next, in TabularTdWork work, float counted)
        where TVector : struct, IFloatVector<TVector>
    {
        var old = TVector.Load(row);
        var target = TVector.Broadcast(counted);
        if (next != null)
            target = TVector.MultiplyAdd(TVector.Broadcast((float)work.Discount), TVector.Load(next), target);
        return TVector.MultiplyAdd(TVector.Broadcast((float)work.StepSize), target - old, old);
    }

    /// <summary>The rows that a batch both changes and reads as next states, as they were before it.</summary>
    private sealed unsafe class RowSnapshot
    {
        private readonly int[] _slots; // one a state; -1 where the table itself holds what it held
        private readonly int[] _states; // one a slot

        public RowSnapshot(in TabularTdWork work)
        {
            var changed = new bool[work.States];
            for (var i = 0; i < work.Transitions; i++)
                changed[work.Current[i]] = true;
            _slots = new int[work.States];
            Array.Fill(_slots, -1);
            var states = new List<int>();
            for (var i = 0; i < work.Transitions; i++)
            {
                var next = work.Next[i];
                if (work.Done[i] != 0 || !changed[next] || _slots[next] >= 0)
                    continue;
                _slots[next] = states.Count;
                states.Add(next);
            }

            _states = [.. states];
            Rows = new float[(long)_states.Length * work.States];
        }

        public float[] Rows { get; }

        public int Slot(int state) => _slots[state];

        /// <summary>Copies some columns, before their first change.</summary>
        public void Take(in TabularTdWork work, int from, int to)
        {
            for (var slot = 0; slot < _states.Length; slot++)
            {
                var row = new ReadOnlySpan<float>(work.Measure + (long)_states[slot] * work.States, work.States);
                fixed (float* saved = Rows)
                    row[from..to].CopyTo(new Span<float>(saved + (long)slot * work.States + from, to - from));
            }
        }
    }
}
