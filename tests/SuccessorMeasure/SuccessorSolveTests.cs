using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

public class SuccessorSolveTests
{
    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Solves_the_equation(Runner runner)
    {
        foreach (var (world, states) in Samples())
        {
            foreach (var discount in (double[])[0, 0.5, 0.9, 0.99, 0.9999])
            {
                foreach (var (start, normalised) in ((Start, bool)[])[(Start.Current, false), (Start.Next, false), (Start.Current, true)])
                {
                    var measure = new double[states * states];
                    var residual = double.NaN;
                    runner.Run(backend => residual = SuccessorSolve.Run(
                        TransitionMatrix.FromDense(world, states), discount, start, normalised, measure, backend));
                    Assert.InRange(residual, 0, 1e-10);
                    Assert.Equal(residual, Residual(world, states, measure, discount, start, normalised), 1e-12);
                }
            }
        }
    }

    private static double Residual(double[] world, int states, double[] measure, double discount, Start start, bool normalised)
    {
        var largest = 0.0;
        for (var s = 0; s < states; s++)
        {
            for (var j = 0; j < states; j++)
            {
                var counted = (start == Start.Next ? world[s * states + j] : s == j ? 1 : 0) * (normalised ? 1 - discount : 1);
                var next = Enumerable.Range(0, states).Sum(k => world[s * states + k] * measure[k * states + j]);
                largest = Math.Max(largest, Math.Abs(measure[s * states + j] - discount * next - counted));
            }
        }

        return largest;
    }

    private static IEnumerable<(double[] World, int States)> Samples()
    {
        yield return ([1], 1);
        yield return (Worlds.Chain(30, 0.7), 30);
        yield return (Worlds.Random(33, 3, 0.05, 1), 33);
        yield return (Worlds.Random(65, 20, 0, 2), 65);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void The_two_measures_and_their_rows_are_related_as_documented(Runner runner)
    {
        var world = TransitionMatrix.FromDense(Worlds.Chain(17, 0.4), 17);
        var (current, next, normalised) = (new double[17 * 17], new double[17 * 17], new double[17 * 17]);
        runner.Run(backend =>
        {
            SuccessorSolve.Run(world, 0.8, Start.Current, false, current, backend);
            SuccessorSolve.Run(world, 0.8, Start.Next, false, next, backend);
            SuccessorSolve.Run(world, 0.8, Start.Next, true, normalised, backend);
        });
        for (var i = 0; i < current.Length; i++)
        {
            Assert.Equal((i % 18 == 0 ? 1 : 0) + 0.8 * next[i], current[i], 1e-12); // Ψ = I + γ M⁺
            Assert.Equal(0.2 * next[i], normalised[i], 1e-12);
        }

        Assert.All(current.Chunk(17), row => Assert.Equal(5, row.Sum(), 1e-12)); // 1 / (1 − γ)
        Assert.All(next.Chunk(17), row => Assert.Equal(5, row.Sum(), 1e-12));
        Assert.All(normalised.Chunk(17), row => Assert.Equal(1, row.Sum(), 1e-12));
    }

    [Fact]
    public void Two_states_that_alternate_have_the_closed_form()
    {
        var measure = new double[4];
        SuccessorSolve.Run(TransitionMatrix.FromDense([0, 1, 1, 0], 2), 0.5, Start.Current, false, measure);
        Assert.Equal([4 / 3.0, 2 / 3.0, 2 / 3.0, 4 / 3.0], measure.Select(value => Math.Round(value, 14)), Same);

        static bool Same(double left, double right) => Math.Abs(left - right) < 1e-14;
    }

    [Fact]
    public void Backends_and_threads_agree() => Gen.Select(Gen.Int[1, 90], Gen.Int[1, 6], Gen.Double[0, 0.999], Gen.Int[0, 99]).Sample(
        (states, successors, discount, seed) =>
        {
            var world = TransitionMatrix.FromDense(Worlds.Random(states, successors, 0.01, seed), states);
            var (one, many, reference) = (new double[states * states], new double[states * states], new double[states * states]);
            SuccessorSolve.Run(world, discount, Start.Current, false, one, AuxBackend.Cpu);
            new Runner(AuxBackend.Cpu, 8, Threads: 3).Run(
                backend => SuccessorSolve.Run(world, discount, Start.Current, false, many, backend));
            SuccessorSolve.Run(world, discount, Start.Current, false, reference, AuxBackend.Reference);
            return one.SequenceEqual(many)
                && one.Zip(reference).All(pair => Math.Abs(pair.First - pair.Second) <= Tolerances.SuccessorSolveRelative / (1 - discount));
        });

    [Fact]
    public void What_is_refused_is_named_and_changes_nothing()
    {
        var world = TransitionMatrix.FromDense([0, 1, 1, 0], 2);
        double[] measure = [7, 7, 7, 7];
        void Refused<TException>(string text, Action call) where TException : ArgumentException
        {
            Assert.Contains(text, Assert.Throws<TException>(call).Message, StringComparison.Ordinal);
            Assert.Equal([7, 7, 7, 7], measure);
        }

        Refused<ArgumentNullException>("transitions", () => SuccessorSolve.Run(null!, 0.5, Start.Current, false, measure));
        Refused<ArgumentException>("measure: 3 elements do not match shape [2, 2]",
            () => SuccessorSolve.Run(world, 0.5, Start.Current, false, measure.AsSpan(1)));
        foreach (var wrong in (double[])[double.NaN, -0.1, 1])
            Refused<ArgumentOutOfRangeException>("discount", () => SuccessorSolve.Run(world, wrong, Start.Current, false, measure));
        Refused<ArgumentOutOfRangeException>("start", () => SuccessorSolve.Run(world, 0.5, (Start)3, false, measure));
        foreach (var backend in (AuxBackend[])[AuxBackend.Cuda, AuxBackend.Ilgpu])
        {
            Assert.False(SuccessorSolve.IsSupported(backend, out var reason));
            var error = Assert.Throws<BackendUnavailableException>(
                () => SuccessorSolve.Run(world, 0.5, Start.Current, false, measure, backend));
            Assert.Equal((backend, reason, "SuccessorSolve"), (error.Backend, error.Reason, error.Operation));
        }

        Assert.Equal([7, 7, 7, 7], measure);
    }
}
