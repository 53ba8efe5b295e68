using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Ema;

namespace AuxCore.Tests.KvApproximation;

public sealed class KvWindowScoresTests : IDisposable
{
    private readonly PinnedArrays _pinned = new();

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Agrees_with_softmax_in_double(Runner runner)
    {
        foreach (var (heads, group, window, positions) in ((int, int, int, int)[])
            [(1, 1, 1, 1), (2, 3, 1, 7), (1, 2, 5, 5), (3, 2, 4, 33), (2, 1, 3, 1000), (1, 4, 16, 515)])
        {
            foreach (var causal in (bool[])[false, true])
            {
                var random = new Random(positions);
                float[] logits = [.. Enumerable.Range(0, heads * group * window * positions).Select(_ => random.NextSingle() * 60 - 30)];
                var scores = new float[heads * positions + 2];
                (scores[0], scores[^1]) = (9f, 9f);
                runner.Run(backend => KvWindowScores.Run(
                    _pinned.View(logits, heads, group, window, positions),
                    _pinned.View(scores, DType.Float32, 1, [heads, positions]), causal, 0.5, backend));

                Assert.Equal((9f, 9f), (scores[0], scores[^1]));
                for (var head = 0; head < heads; head++)
                {
                    var expected = new double[positions];
                    for (var row = 0; row < group * window; row++)
                    {
                        var seen = causal ? positions - window + row % window + 1 : positions;
                        var from = (head * group * window + row) * positions;
                        double[] weights = [.. logits.Skip(from).Take(seen).Select(x => Math.Exp(x * 0.5))];
                        var total = weights.Sum();
                        for (var j = 0; j < seen; j++)
                            expected[j] += weights[j] / total / (group * window);
                    }

                    for (var j = 0; j < positions; j++)
                        Assert.Equal(expected[j], scores[1 + head * positions + j], Tolerances.KvWindowScoresRelative * expected.Max());
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Large_logits_do_not_overflow_and_what_is_not_a_number_shows(Runner runner)
    {
        var (logits, scores) = (new float[2 * 2 * 40], new float[2 * 40]);
        logits[7] = logits[40 + 7] = 3e4f; // head 0 is certain of position 7
        for (var bad = 0; bad < 3; bad++)
        {
            logits[80 + 3] = bad switch { 0 => float.NaN, 1 => float.PositiveInfinity, _ => 0 };
            if (bad == 2)
                logits.AsSpan(80, 40).Fill(float.NegativeInfinity);
            runner.Run(backend => KvWindowScores.Run(
                _pinned.View(logits, 2, 1, 2, 40), _pinned.View(scores, 2, 40), causal: false, backend: backend));
            Assert.Equal(1, scores[7], 1e-6f);
            Assert.Equal(0, scores[8]);
            Assert.All(scores[40..], score => Assert.True(float.IsNaN(score)));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Queries_and_keys_agree_with_softmax_in_double(Runner runner)
    {
        foreach (var (heads, group, window, positions, depth) in ((int, int, int, int, int)[])
            [(1, 1, 1, 1, 1), (2, 3, 1, 7, 5), (1, 2, 5, 5, 16), (3, 2, 4, 130, 9), (2, 4, 16, 64, 33), (1, 3, 7, 515, 64)])
        {
            foreach (var causal in (bool[])[false, true])
            {
                var random = new Random(positions + depth);
                float[] queries = [.. Enumerable.Range(0, heads * group * window * depth).Select(_ => random.NextSingle() * 4 - 2)];
                // Keys have gaps between them and between heads, where nothing may be read.
                var (step, headStep) = (depth + 3, positions * (depth + 3) + 5);
                var keys = new float[heads * headStep];
                keys.AsSpan().Fill(float.NaN);
                for (var i = 0; i < heads * positions * depth; i++)
                {
                    var (head, position, k) = (i / depth / positions, i / depth % positions, i % depth);
                    keys[head * headStep + position * step + k] = random.NextSingle() * 4 - 2;
                }

                var scores = new float[heads * positions + 2];
                (scores[0], scores[^1]) = (9f, 9f);
                runner.Run(backend => KvWindowScores.Run(
                    _pinned.View(queries, heads, group, window, depth),
                    _pinned.Strided(keys, DType.Float32, 0, [heads, positions, depth], [headStep, step, 1]),
                    _pinned.View(scores, DType.Float32, 1, [heads, positions]), causal, 0.3, backend));

                Assert.Equal((9f, 9f), (scores[0], scores[^1]));
                for (var head = 0; head < heads; head++)
                {
                    var expected = new double[positions];
                    for (var row = 0; row < group * window; row++)
                    {
                        var query = queries.AsSpan((head * group * window + row) * depth, depth);
                        var weights = new double[causal ? positions - window + row % window + 1 : positions];
                        for (var j = 0; j < weights.Length; j++)
                            weights[j] = Math.Exp(0.3 * Product(query, keys.AsSpan(head * headStep + j * step, depth)));
                        var total = weights.Sum();
                        for (var j = 0; j < weights.Length; j++)
                            expected[j] += weights[j] / total / (group * window);
                    }

                    for (var j = 0; j < positions; j++)
                        Assert.Equal(expected[j], scores[1 + head * positions + j], Tolerances.KvWindowScoresRelative * expected.Max());
                }
            }
        }

        static double Product(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
        {
            var sum = 0.0;
            for (var k = 0; k < a.Length; k++)
                sum += (double)a[k] * b[k];
            return sum;
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void So_many_positions_that_rows_go_by_strips_give_the_scores_of_logits(Runner runner)
    {
        const int Group = 5, Window = 8, Positions = 70_000, Depth = 2; // strips of 16 rows, the last of 8
        var random = new Random(3);
        float[] queries = [.. Enumerable.Range(0, Group * Window * Depth).Select(_ => random.NextSingle() * 6 - 3)];
        float[] keys = [.. Enumerable.Range(0, Positions * Depth).Select(j => random.NextSingle() * 4 - 2 + j * 1e-5f)]; // ascending
        var logits = new float[Group * Window * Positions];
        for (var i = 0; i < logits.Length; i++)
        {
            var (row, j) = (i / Positions * Depth, i % Positions * Depth);
            logits[i] = (float)((double)queries[row] * keys[j] + (double)queries[row + 1] * keys[j + 1]);
        }

        var (expected, scores) = (new float[Positions], new float[Positions]);
        KvWindowScores.Run(
            _pinned.View(logits, 1, Group, Window, Positions), _pinned.View(expected, 1, Positions), backend: AuxBackend.Reference);
        runner.Run(backend => KvWindowScores.Run(
            _pinned.View(queries, 1, Group, Window, Depth), _pinned.View(keys, 1, Positions, Depth), _pinned.View(scores, 1, Positions),
            scale: 1, backend: backend));
        var tolerance = (float)Tolerances.KvWindowScoresRelative * expected.Max();
        for (var j = 0; j < Positions; j++)
            Assert.Equal(expected[j], scores[j], tolerance);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Products_may_be_large_or_fall_and_what_is_not_a_number_shows(Runner runner)
    {
        var (keys, scores) = (new float[2 * 200], new float[2 * 200]);
        keys[150] = 3e4f;                                  // head 0 is certain of position 150, in the third tile
        keys.AsSpan(0, 64).Fill(float.NegativeInfinity);   // and gives its first tile no weight
        for (var bad = 0; bad < 3; bad++)
        {
            keys.AsSpan(200).Clear();
            keys[200 + 3] = bad switch { 0 => float.NaN, 1 => float.PositiveInfinity, _ => 0 };
            if (bad == 2)
                keys.AsSpan(200).Fill(float.NegativeInfinity);
            runner.Run(backend => KvWindowScores.Run(
                _pinned.View([1f, 1f, 1f, 1f], 2, 1, 2, 1), _pinned.View(keys, 2, 200, 1), _pinned.View(scores, 2, 200), causal: false,
                scale: 1, backend: backend));
            Assert.Equal(1, scores[150], 1e-6f);
            Assert.All(scores[..150], score => Assert.Equal(0, score));
            Assert.All(scores[200..], score => Assert.True(float.IsNaN(score)));
        }
    }

    [Fact]
    public void Any_number_of_threads_gives_the_same_bits_from_queries_and_keys()
    {
        var random = new Random(1);
        float[] queries = [.. Enumerable.Range(0, 6 * 2 * 8 * 32).Select(_ => random.NextSingle() - 0.5f)];
        float[] keys = [.. Enumerable.Range(0, 6 * 1000 * 32).Select(_ => random.NextSingle() - 0.5f)];
        foreach (var width in (int[])[1, 4, 8, 16])
        {
            var expected = Scores(1);
            foreach (var threads in (int[])[2, 3, 7])
                Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(Scores(threads)));

            float[] Scores(int threads)
            {
                var scores = new float[6 * 1000];
                new Runner(AuxBackend.Cpu, width, threads).Run(backend => KvWindowScores.Run(
                    _pinned.View(queries, 6, 2, 8, 32), _pinned.View(keys, 6, 1000, 32), _pinned.View(scores, 6, 1000), backend: backend));
                return scores;
            }
        }
    }

    [Fact]
    public void Queries_and_keys_that_do_not_fit_are_refused_and_nothing_is_written()
    {
        var (queries, keys, scores) = (new float[2 * 2 * 3 * 4], new float[2 * 5 * 4], new float[2 * 5]);
        scores.AsSpan().Fill(5);
        var (q, k, s) = (_pinned.View(queries, 2, 2, 3, 4), _pinned.View(keys, 2, 5, 4), _pinned.View(scores, 2, 5));
        Refused<ArgumentException>("queries: float32[2, 6, 4] on cpu is not of rank 4", _pinned.View(queries, 2, 6, 4), k, s);
        Refused<ArgumentException>("queries: float64", _pinned.View(new double[48], 2, 2, 3, 4), k, s);
        Refused<ArgumentException>("keys: float64", q, _pinned.View(new double[40], 2, 5, 4), s);
        Refused<ArgumentException>("keys: float32[1, 10, 4] on cpu does not match shape [2, N, 4]", q, _pinned.View(keys, 1, 10, 4), s);
        Refused<ArgumentException>(
            "the elements of a key must be dense", q, _pinned.Strided(keys, DType.Float32, 0, [2, 5, 4], [20, 1, 5]), s);
        Refused<ArgumentException>("scores: float32[5, 2] on cpu does not match shape [2, 5]", q, k, _pinned.View(scores, 5, 2));
        Refused<ArgumentException>(
            "has more queries than the 5 positions", _pinned.View(queries, 2, 1, 6, 4), k, s);
        Refused<ArgumentException>("scores overlaps keys", q, k, _pinned.View(keys, 2, 5));
        Refused<ArgumentException>("scores overlaps queries", q, k, _pinned.View(queries, 2, 5));
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => KvWindowScores.Run(q, k, s, scale: double.PositiveInfinity));
        Assert.Contains("A scale is finite", error.Message, StringComparison.Ordinal);
        foreach (var backend in (AuxBackend[])[AuxBackend.Cuda, AuxBackend.Ilgpu])
            Assert.Throws<BackendUnavailableException>(() => KvWindowScores.Run(q, k, s, backend: backend));
        Assert.All(scores, score => Assert.Equal(5, score));

        void Refused<TException>(string text, TensorView a, TensorView b, TensorView c) where TException : ArgumentException
        {
            var error = Assert.Throws<TException>(() => KvWindowScores.Run(a, b, c));
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
            Assert.All(scores, score => Assert.Equal(5, score));
        }
    }

    [Fact]
    public void Any_number_of_threads_gives_the_same_bits()
    {
        var random = new Random(1);
        float[] logits = [.. Enumerable.Range(0, 6 * 2 * 8 * 1000).Select(_ => random.NextSingle() * 10)];
        foreach (var width in (int[])[1, 4, 8, 16])
        {
            var expected = Scores(1);
            foreach (var threads in (int[])[2, 3, 7])
                Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(Scores(threads)));

            float[] Scores(int threads)
            {
                var scores = new float[6 * 1000];
                new Runner(AuxBackend.Cpu, width, threads).Run(
                    backend => KvWindowScores.Run(_pinned.View(logits, 6, 2, 8, 1000), _pinned.View(scores, 6, 1000), backend: backend));
                return scores;
            }
        }
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_nothing_is_written()
    {
        var (logits, scores) = (new float[2 * 2 * 3 * 4], new float[2 * 4]);
        scores.AsSpan().Fill(5);
        var (fits, written) = (_pinned.View(logits, 2, 2, 3, 4), _pinned.View(scores, 2, 4));
        Refused<ArgumentException>("is not of rank 4", _pinned.View(logits, 2, 6, 4), written);
        Refused<ArgumentException>("logits: float64", _pinned.View(new double[48], 2, 2, 3, 4), written);
        Refused<ArgumentException>("scores: float32[4, 2] on cpu does not match shape [2, 4]", fits, _pinned.View(scores, 4, 2));
        Refused<ArgumentException>("has more queries than positions", _pinned.View(logits, 2, 1, 6, 4), written);
        Refused<ArgumentException>("scores overlaps logits", fits, _pinned.View(logits, 2, 4));
        Refused<ArgumentException>(
            "is not contiguous", _pinned.Strided(logits, DType.Float32, 0, [2, 2, 3, 4], [24, 12, 1, 3]), written);
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => KvWindowScores.Run(fits, written, scale: double.NaN));
        Assert.Contains("A scale is finite", error.Message, StringComparison.Ordinal);
        foreach (var backend in (AuxBackend[])[AuxBackend.Cuda, AuxBackend.Ilgpu])
            Assert.Throws<BackendUnavailableException>(() => KvWindowScores.Run(fits, written, backend: backend));

        void Refused<TException>(string text, TensorView l, TensorView s) where TException : ArgumentException
        {
            var error = Assert.Throws<TException>(() => KvWindowScores.Run(l, s));
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
            Assert.All(scores, score => Assert.Equal(5, score));
        }
    }

    public void Dispose() => _pinned.Dispose();
}
