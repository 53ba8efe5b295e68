using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Ema;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

public class TabularTdTests
{
    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    public static TheoryData<Runner, TransitionOrder, Start> Matrix => new MatrixTheoryData<Runner, TransitionOrder, Start>(
        BackendMatrix.All, Enum.GetValues<TransitionOrder>(), Enum.GetValues<Start>());

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_formula_in_double(Runner runner, TransitionOrder order, Start start)
    {
        foreach (var states in (int[])[1, 2, 7, 8, 9, 16, 17, 33, 104, 131])
        {
            foreach (var (transitions, normalised) in ((int, bool)[])[(0, false), (1, true), (50, false), (700, true)])
            {
                var batch = new Transitions(states, transitions, seed: states + transitions);
                var memory = new float[states * states + 2];
                batch.Table.CopyTo(memory, 1);
                (memory[0], memory[^1]) = (777, 777);

                runner.Run(backend => TabularTd.Run(
                    memory.AsSpan(1, states * states), states, batch.Current, batch.Next, batch.Done, 0.3, 0.9, start, normalised, order,
                    backend));

                Assert.Equal((777f, 777f), (memory[0], memory[^1]));
                var expected = Formula(batch, 0.3, 0.9, start, normalised, order);
                for (var i = 0; i < states * states; i++)
                    Assert.True(
                        Math.Abs(memory[i + 1] - expected[i]) <= Tolerances.TabularTdAbsolute,
                        $"{runner} {order} {start} S={states} B={transitions} {i}: {memory[i + 1]:R}, not {expected[i]:R}");
            }
        }
    }

    // Row by row, on a table of rows, in double.
    private static double[] Formula(Transitions batch, double alpha, double gamma, Start start, bool normalised, TransitionOrder order)
    {
        var rows = batch.Table.Chunk(batch.States).Select(row => row.Select(value => (double)value).ToArray()).ToArray();
        var before = rows.Select(row => (double[])row.Clone()).ToArray();
        for (var i = 0; i < batch.Current.Length; i++)
        {
            var target = batch.Done[i] ? new double[batch.States]
                : (order == TransitionOrder.Snapshot ? before : rows)[batch.Next[i]].Select(value => gamma * value).ToArray();
            target[start == Start.Current ? batch.Current[i] : batch.Next[i]] += normalised ? 1 - gamma : 1;
            rows[batch.Current[i]] = [.. rows[batch.Current[i]].Zip(target, (m, y) => m + alpha * (y - m))];
        }

        return [.. rows.SelectMany(row => row)];
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Duplicates_of_a_state_apply_from_left_to_right(Runner runner)
    {
        foreach (var order in Enum.GetValues<TransitionOrder>())
        {
            // One state, three visits with α = ½: 0 → ½ (counts) → ¼ + … what each of them sees is what the ones before left.
            var table = new float[4];
            runner.Run(backend => TabularTd.Run(
                table, 2, [0, 0, 0], [1, 0, 1], [true, true, true], 0.5, 0.5, Start.Next, false, order, backend));
            Assert.Equal([0.25f, 0.625f, 0, 0], table); // columns: next was 1, 0, 1

            var reversed = new float[4];
            runner.Run(backend => TabularTd.Run(
                reversed, 2, [0, 0, 0], [1, 1, 0], [true, true, true], 0.5, 0.5, Start.Next, false, order, backend));
            Assert.Equal([0.5f, 0.375f, 0, 0], reversed);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_sequential_batch_sees_its_own_changes_and_a_snapshot_does_not(Runner runner)
    {
        // 1 → 2 first, then 0 → 1: only in sequence does state 0 hear of state 1's visit.
        foreach (var (order, heard) in ((TransitionOrder, float)[])[(TransitionOrder.Sequential, 0.5f), (TransitionOrder.Snapshot, 0)])
        {
            var table = new float[9];
            runner.Run(backend => TabularTd.Run(
                table, 3, [1, 0], [2, 1], [false, false], 1, 0.5, Start.Current, false, order, backend));
            Assert.Equal([1, heard, 0, 0, 1, 0, 0, 0, 0], table);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_batch_equals_its_transitions_one_by_one(Runner runner)
    {
        var batch = new Transitions(37, 300, seed: 5);
        var (whole, single) = ((float[])batch.Table.Clone(), (float[])batch.Table.Clone());
        runner.Run(backend =>
        {
            TabularTd.Run(whole, 37, batch.Current, batch.Next, batch.Done, 0.2, 0.95, Start.Next, true, backend: backend);
            for (var i = 0; i < 300; i++)
                TabularTd.Run(
                    single, 37, batch.Current.AsSpan(i, 1), batch.Next.AsSpan(i, 1), batch.Done.AsSpan(i, 1), 0.2, 0.95, Start.Next, true,
                    backend: backend);
        });
        for (var i = 0; i < whole.Length; i++)
            Assert.Equal(single[i], whole[i], runner.Backend == AuxBackend.Reference ? 1e-5 : 0); // it rounds once a call
    }

    [Fact]
    public void A_cut_anywhere_changes_no_bit() => Gen.Select(Gen.Int[1, 40], Gen.Int[0, 60], Gen.Int[0, 60], Gen.Int[0, 99]).Sample(
        (states, transitions, cut, seed) =>
        {
            var batch = new Transitions(states, transitions, seed);
            var (whole, parts) = ((float[])batch.Table.Clone(), (float[])batch.Table.Clone());
            cut = Math.Min(cut, transitions);
            ReadOnlySpan<int> current = batch.Current, next = batch.Next;
            ReadOnlySpan<bool> done = batch.Done;
            TabularTd.Run(whole, states, batch.Current, batch.Next, batch.Done, 0.3, 0.9, Start.Current, false);
            TabularTd.Run(parts, states, current[..cut], next[..cut], done[..cut], 0.3, 0.9, Start.Current, false);
            TabularTd.Run(parts, states, current[cut..], next[cut..], done[cut..], 0.3, 0.9, Start.Current, false);
            return EmaUpdateTests.Bits(whole).SequenceEqual(EmaUpdateTests.Bits(parts));
        });

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        foreach (var states in (int[])[1, 5, 33, 104, 300])
        {
            var batch = new Transitions(states, 900, seed: states);
            foreach (var order in Enum.GetValues<TransitionOrder>())
            {
                var expected = Result(BackendMatrix.Scalar);
                foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
                    Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(Result(runner)));

                float[] Result(Runner runner)
                {
                    var table = (float[])batch.Table.Clone();
                    runner.Run(backend => TabularTd.Run(
                        table, states, batch.Current, batch.Next, batch.Done, 0.1, 0.97, Start.Next, false, order, backend));
                    return table;
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_NaN_stays_in_its_column_and_reaches_those_that_read_it(Runner runner)
    {
        var table = new float[9];
        table[3 + 2] = float.NaN; // M[1, 2]
        runner.Run(backend => TabularTd.Run(
            table, 3, [0, 2], [1, 1], [false, true], 0.5, 0.5, Start.Current, false, backend: backend));
        Assert.True(float.IsNaN(table[2]));
        Assert.Equal([0.5f, 0], table[..2]);
        Assert.Equal([0, 0, 0.5f], table[6..]); // a terminal transition reads nothing
    }

    [Fact]
    public void A_step_size_of_zero_changes_nothing_and_of_one_takes_the_target()
    {
        var batch = new Transitions(11, 40, seed: 1);
        var table = (float[])batch.Table.Clone();
        TabularTd.Run(table, 11, batch.Current, batch.Next, batch.Done, 0, 0.9, Start.Current, false);
        Assert.Equal(batch.Table, table);
        TabularTd.Run(table, 11, [3], [4], [true], 1, 0.9, Start.Current, false);
        for (var j = 0; j < 11; j++)
            Assert.Equal(j == 3 ? 1 : 0, table[33 + j], 1e-7);
    }

    [Fact]
    public void What_is_refused_is_named_and_changes_nothing()
    {
        var table = new float[] { 1, 2, 3, 4 };
        void Refused<TException>(string text, Action call) where TException : ArgumentException
        {
            Assert.Contains(text, Assert.Throws<TException>(call).Message, StringComparison.Ordinal);
            Assert.Equal([1, 2, 3, 4], table);
        }

        Refused<ArgumentOutOfRangeException>("current[1] is not within 0 and 1",
            () => TabularTd.Run(table, 2, [0, 2], [0, 0], [false, false], 0.5, 0.5, Start.Current, false));
        Refused<ArgumentOutOfRangeException>("next[0] is not within 0 and 1",
            () => TabularTd.Run(table, 2, [0, 1], [-1, 0], [true, false], 0.5, 0.5, Start.Current, false));
        Refused<ArgumentException>("next: 1 elements do not match shape [2]",
            () => TabularTd.Run(table, 2, [0, 1], [0], [false, false], 0.5, 0.5, Start.Current, false));
        Refused<ArgumentException>("done: 3 elements do not match shape [2]",
            () => TabularTd.Run(table, 2, [0, 1], [0, 1], [false, false, false], 0.5, 0.5, Start.Current, false));
        Refused<ArgumentException>("measure: 4 elements do not match shape [3, 3]",
            () => TabularTd.Run(table, 3, [0], [0], [false], 0.5, 0.5, Start.Current, false));
        Refused<ArgumentOutOfRangeException>("states must be at least 1",
            () => TabularTd.Run(table, 0, [0], [0], [false], 0.5, 0.5, Start.Current, false));
        foreach (var wrong in (double[])[double.NaN, -0.1, 1.1])
            Refused<ArgumentOutOfRangeException>("stepSize",
                () => TabularTd.Run(table, 2, [0], [0], [false], wrong, 0.5, Start.Current, false));
        foreach (var wrong in (double[])[double.NaN, -0.1, 1])
            Refused<ArgumentOutOfRangeException>("discount",
                () => TabularTd.Run(table, 2, [0], [0], [false], 0.5, wrong, Start.Current, false));
        Refused<ArgumentOutOfRangeException>("start", () => TabularTd.Run(table, 2, [0], [0], [false], 0.5, 0.5, (Start)7, false));
        Refused<ArgumentOutOfRangeException>("order",
            () => TabularTd.Run(table, 2, [0], [0], [false], 0.5, 0.5, Start.Next, false, (TransitionOrder)2));
    }

    [Fact]
    public void The_table_has_memory_of_its_own()
    {
        var table = new float[4];
        Assert.Contains("current overlaps measure", Assert.Throws<ArgumentException>(() => TabularTd.Run(
            table, 2, MemoryMarshal.Cast<float, int>(table.AsSpan(3)), [0], [false], 0.5, 0.5, Start.Current, false)).Message,
            StringComparison.Ordinal);
        Assert.Equal(new float[4], table);
    }

    [Fact]
    public unsafe void Views_are_checked_and_give_what_spans_give()
    {
        var batch = new Transitions(6, 20, seed: 3);
        var (expected, actual) = ((float[])batch.Table.Clone(), (float[])batch.Table.Clone());
        TabularTd.Run(expected, 6, batch.Current, batch.Next, batch.Done, 0.4, 0.8, Start.Next, true, TransitionOrder.Snapshot);
        fixed (float* m = actual)
        fixed (int* from = batch.Current, to = batch.Next)
        fixed (bool* ended = batch.Done)
        {
            var measure = TensorView.FromPointer(m, DType.Float32, [6, 6]);
            var (current, next) = (TensorView.FromPointer(from, DType.Int32, [20]), TensorView.FromPointer(to, DType.Int32, [20]));
            var done = TensorView.FromPointer(ended, DType.Bool, [20]);
            void Refused<TException>(string text, TensorView? table = null, TensorView? s = null, TensorView? n = null,
                TensorView? d = null)
                where TException : ArgumentException
            {
                Assert.Contains(text, Assert.Throws<TException>(() => TabularTd.Run(
                    table ?? measure, s ?? current, n ?? next, d ?? done, 0.4, 0.8, Start.Next, true)).Message, StringComparison.Ordinal);
                Assert.Equal(batch.Table, actual);
            }

            Refused<ArgumentException>("measure: float32[36] on cpu is not of rank 2", TensorView.FromPointer(m, DType.Float32, [36]));
            Refused<ArgumentException>("measure: float32[9, 4] on cpu is not a square", TensorView.FromPointer(m, DType.Float32, [9, 4]));
            Refused<ArgumentException>("measure: float64[3, 3]", TensorView.FromPointer(m, DType.Float64, [3, 3]));
            Refused<ArgumentOutOfRangeException>("states must be at least 1", TensorView.FromPointer(m, DType.Float32, [0, 0]));
            Refused<ArgumentException>("current: int32[4, 5] on cpu is not a vector", s: TensorView.FromPointer(from, DType.Int32, [4, 5]));
            Refused<ArgumentException>("current: int64[10]", s: TensorView.FromPointer(from, DType.Int64, [10]));
            Refused<ArgumentException>("next: int32[19] on cpu does not match shape [20]",
                n: TensorView.FromPointer(to, DType.Int32, [19]));
            Refused<ArgumentException>("done: int32[20]", d: TensorView.FromPointer(to, DType.Int32, [20]));
            var last = batch.Next[19];
            batch.Next[19] = 6;
            Refused<ArgumentOutOfRangeException>("next[19] is not within 0 and 5");
            batch.Next[19] = last;

            TabularTd.Run(measure, current, next, done, 0.4, 0.8, Start.Next, true, TransitionOrder.Snapshot);
        }

        Assert.Equal(expected, actual);
    }

    [Theory]
    [InlineData(AuxBackend.Cuda)]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_that_is_not_there_or_not_for_host_memory_is_never_replaced_silently(AuxBackend backend)
    {
        var expected = TabularTd.IsSupported(backend, out var reason) ? "the tensors are on cpu" : reason;

        var error = Assert.Throws<BackendUnavailableException>(
            () => TabularTd.Run(new float[1], 1, [0], [0], [false], 0.5, 0.5, Start.Current, false, backend: backend));

        Assert.Equal((backend, expected, "TabularTd"), (error.Backend, error.Reason, error.Operation));
    }

    /// <summary>Random transitions, and a random table.</summary>
    internal sealed class Transitions
    {
        public Transitions(int states, int count, int seed)
        {
            var random = new Random(seed);
            States = states;
            Table = [.. Enumerable.Range(0, states * states).Select(_ => (float)random.NextDouble() * 2)];
            Current = [.. Enumerable.Range(0, count).Select(_ => random.Next(states))];
            Next = [.. Enumerable.Range(0, count).Select(_ => random.Next(states))];
            Done = [.. Enumerable.Range(0, count).Select(_ => random.Next(5) == 0)];
        }

        public int States { get; }

        public float[] Table { get; }

        public int[] Current { get; }

        public int[] Next { get; }

        public bool[] Done { get; }
    }
}
