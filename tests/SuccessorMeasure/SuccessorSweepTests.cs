using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Ema;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

public class SuccessorSweepTests
{
    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    public static TheoryData<Runner, SweepOrder, Start> Matrix => new MatrixTheoryData<Runner, SweepOrder, Start>(
        BackendMatrix.All, Enum.GetValues<SweepOrder>(), Enum.GetValues<Start>());

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_formula_in_double(Runner runner, SweepOrder order, Start start)
    {
        foreach (var states in (int[])[1, 2, 5, 15, 16, 17, 40, 129, 200])
        {
            foreach (var (sweeps, normalised) in ((int, bool)[])[(1, false), (2, true), (5, false)])
            {
                var world = Worlds.Random(states, 3, 0.1, seed: states);
                var random = new Random(states);
                float[] before = [.. Enumerable.Range(0, states * states).Select(_ => (float)random.NextDouble())];
                var memory = new float[before.Length + 2];
                before.CopyTo(memory, 1);
                (memory[0], memory[^1]) = (777, 777);
                var change = 0f;

                runner.Run(backend => change = SuccessorSweep.Run(
                    TransitionMatrix.FromDense(world, states), memory.AsSpan(1, before.Length), 0.9, start, normalised, sweeps, order,
                    backend));

                Assert.Equal((777f, 777f), (memory[0], memory[^1]));
                var (expected, expectedChange) = Formula(world, before, states, 0.9, start, normalised, sweeps, order);
                Assert.Equal(expectedChange, change, Tolerances.SuccessorSweepAbsolute);
                for (var i = 0; i < before.Length; i++)
                    Assert.True(
                        Math.Abs(memory[i + 1] - expected[i]) <= Tolerances.SuccessorSweepAbsolute,
                        $"{runner} {order} {start} S={states} k={sweeps} {i}: {memory[i + 1]:R}, not {expected[i]:R}");
            }
        }
    }

    private static (double[] Table, double Change) Formula(
        double[] world, float[] table, int states, double discount, Start start, bool normalised, int sweeps, SweepOrder order)
    {
        double[] now = [.. table.Select(value => (double)value)], before = now;
        for (var sweep = 0; sweep < sweeps; sweep++)
        {
            before = (double[])now.Clone();
            for (var s = 0; s < states; s++)
            {
                var row = new double[states];
                for (var k = 0; k < states; k++)
                {
                    var p = world[s * states + k];
                    for (var j = 0; j < states && p != 0; j++)
                        row[j] += discount * p * (order == SweepOrder.Jacobi ? before : now)[k * states + j];
                    row[k] += (start == Start.Next ? p : k == s ? 1 : 0) * (normalised ? 1 - discount : 1);
                }

                row.CopyTo(now, s * states);
            }
        }

        return (now, now.Zip(before, (x, y) => Math.Abs(x - y)).Max());
    }

    [Theory]
    [InlineData(0.9, 110)]
    [InlineData(0.99, 1375)]
    public void Sweeps_reach_the_exact_measure_in_the_number_that_the_discount_gives(double discount, int sweeps)
    {
        // γᵏ / (1 − γ) ≤ 1e-4, the bound of a row's distance.
        Assert.Equal(sweeps, (int)Math.Ceiling(Math.Log(1e-4 * (1 - discount)) / Math.Log(discount)));
        foreach (var (world, states) in ((double[], int)[])[(Worlds.FourRooms(), 104), (Worlds.Chain(30, 0.7), 30)])
        {
            foreach (var start in Enum.GetValues<Start>())
            {
                var matrix = TransitionMatrix.FromDense(world, states);
                var exact = new double[states * states];
                SuccessorSolve.Run(matrix, discount, start, false, exact);
                foreach (var order in Enum.GetValues<SweepOrder>())
                {
                    var table = new float[states * states];
                    SuccessorSweep.Run(matrix, table, discount, start, false, sweeps, order);
                    for (var s = 0; s < states; s++)
                    {
                        var distance = Enumerable.Range(s * states, states).Sum(i => Math.Abs(table[i] - exact[i]));
                        // The bound, and what rounding to float32 adds up to: an ulp of the row's sum in each sweep.
                        Assert.InRange(distance, 0, 1e-4 + 2e-7 / ((1 - discount) * (1 - discount)));
                        Assert.All(
                            Enumerable.Range(s * states, states), i => Assert.Equal(exact[i], table[i], 1e-4 * Math.Max(1, exact[i])));
                    }

                    // One sweep less than a tenth of them is not enough: the number is not idle.
                    var early = new float[states * states];
                    SuccessorSweep.Run(matrix, early, discount, start, false, sweeps / 10, SweepOrder.Jacobi);
                    Assert.True(early.Zip(exact, (x, y) => Math.Abs(x - y)).Max() > 1e-4);
                }
            }
        }
    }

    [Fact]
    public void Gauss_and_Seidels_order_needs_fewer_sweeps()
    {
        var matrix = TransitionMatrix.FromDense(Worlds.FourRooms(), 104);
        Assert.True(Sweeps(SweepOrder.GaussSeidel) < 0.75 * Sweeps(SweepOrder.Jacobi));

        int Sweeps(SweepOrder order)
        {
            var table = new float[104 * 104];
            for (var sweeps = 1; ; sweeps++)
            {
                if (SuccessorSweep.Run(matrix, table, 0.9, Start.Current, false, 1, order) < 1e-5f)
                    return sweeps;
            }
        }
    }

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        foreach (var states in (int[])[1, 7, 104, 300])
        {
            var matrix = TransitionMatrix.FromDense(Worlds.Random(states, 4, 0, seed: 1), states);
            foreach (var order in Enum.GetValues<SweepOrder>())
            {
                var expected = Result(BackendMatrix.Scalar);
                foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
                    Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(Result(runner)));

                float[] Result(Runner runner)
                {
                    var table = new float[states * states];
                    runner.Run(backend => SuccessorSweep.Run(matrix, table, 0.97, Start.Next, false, 7, order, backend));
                    return table;
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_NaN_stays_in_its_column_and_shows_in_the_change(Runner runner)
    {
        var matrix = TransitionMatrix.FromDense([0, 1, 0, 0, 0, 1, 1, 0, 0], 3);
        foreach (var order in Enum.GetValues<SweepOrder>())
        {
            var table = new float[9];
            table[2 * 3 + 1] = float.NaN;
            var change = 0f;
            runner.Run(backend => change = SuccessorSweep.Run(matrix, table, 0.5, Start.Current, false, 3, order, backend));
            Assert.True(float.IsNaN(change));
            int[] spoiled = [.. Enumerable.Range(0, 9).Where(i => float.IsNaN(table[i]))];
            Assert.Equal(order == SweepOrder.Jacobi ? [7] : [4], spoiled); // it goes round the ring, and further in an order of rows
        }
    }

    [Fact]
    public void Sweeps_one_by_one_are_sweeps_together() => Gen.Select(Gen.Int[1, 40], Gen.Int[1, 9], Gen.Int[0, 99]).Sample(
        (states, sweeps, seed) =>
        {
            var matrix = TransitionMatrix.FromDense(Worlds.Random(states, 3, 0.1, seed), states);
            foreach (var order in Enum.GetValues<SweepOrder>())
            {
                var (together, single) = (new float[states * states], new float[states * states]);
                SuccessorSweep.Run(matrix, together, 0.9, Start.Next, false, sweeps, order);
                for (var i = 0; i < sweeps; i++)
                    SuccessorSweep.Run(matrix, single, 0.9, Start.Next, false, 1, order);
                if (!EmaUpdateTests.Bits(together).SequenceEqual(EmaUpdateTests.Bits(single)))
                    return false;
            }

            return true;
        });

    [Fact]
    public unsafe void What_is_refused_is_named_and_changes_nothing()
    {
        var world = TransitionMatrix.FromDense([0, 1, 1, 0], 2);
        float[] table = [7, 7, 7, 7];
        void Refused<TException>(string text, Action call) where TException : ArgumentException
        {
            Assert.Contains(text, Assert.Throws<TException>(call).Message, StringComparison.Ordinal);
            Assert.Equal([7, 7, 7, 7], table);
        }

        Refused<ArgumentNullException>("transitions", () => SuccessorSweep.Run(null!, table, 0.5, Start.Current, false));
        Refused<ArgumentException>("measure: 3 elements do not match shape [2, 2]",
            () => SuccessorSweep.Run(world, table.AsSpan(1), 0.5, Start.Current, false));
        Refused<ArgumentOutOfRangeException>("sweeps must be at least 1", () =>
            SuccessorSweep.Run(world, table, 0.5, Start.Current, false, 0));
        foreach (var wrong in (double[])[double.NaN, -0.1, 1])
            Refused<ArgumentOutOfRangeException>("discount", () => SuccessorSweep.Run(world, table, wrong, Start.Current, false));
        Refused<ArgumentOutOfRangeException>("start", () => SuccessorSweep.Run(world, table, 0.5, (Start)3, false));
        Refused<ArgumentOutOfRangeException>("order", () => SuccessorSweep.Run(world, table, 0.5, Start.Next, false, 1, (SweepOrder)2));

        fixed (float* address = table)
        {
            var measure = TensorView.FromPointer(address, DType.Float32, [2, 2]);
            Refused<ArgumentException>("measure: float32[4] on cpu does not match shape [2, 2]", () => SuccessorSweep.Run(
                world, TensorView.FromPointer((void*)measure.Address, DType.Float32, [4]), 0.5, Start.Current, false));
            Refused<ArgumentException>("measure: float64[2, 2]", () => SuccessorSweep.Run(
                world, TensorView.FromPointer((void*)measure.Address, DType.Float64, [2, 2]), 0.5, Start.Current, false));
            Refused<ArgumentException>("columnChanges: float32[4]", () => SuccessorSweep.Run(
                world, measure, 0.5, Start.Current, false,
                columnChanges: TensorView.FromPointer((void*)measure.Address, DType.Float32, [4])));
            Refused<ArgumentException>("columnChanges overlaps measure", () => SuccessorSweep.Run(
                world, measure, 0.5, Start.Current, false,
                columnChanges: TensorView.FromPointer((void*)measure.Address, DType.Float32, [2])));

            var changes = stackalloc float[2];
            SuccessorSweep.Run(
                world, measure, 0.5, Start.Current, false, columnChanges: TensorView.FromPointer(changes, DType.Float32, [2]));
            Assert.Equal([4.5f, 3.5f, 3.5f, 4.5f], table);
            Assert.Equal((3.5f, 3.5f), (changes[0], changes[1]));
        }
    }

    [Theory]
    [InlineData(AuxBackend.Cuda)]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_that_is_not_there_or_not_for_host_memory_is_never_replaced_silently(AuxBackend backend)
    {
        var expected = SuccessorSweep.IsSupported(backend, out var reason) ? "the tensors are on cpu" : reason;

        var error = Assert.Throws<BackendUnavailableException>(() => SuccessorSweep.Run(
            TransitionMatrix.FromDense([1], 1), new float[1], 0.5, Start.Current, false, backend: backend));

        Assert.Equal((backend, expected, "SuccessorSweep"), (error.Backend, error.Reason, error.Operation));
    }
}
