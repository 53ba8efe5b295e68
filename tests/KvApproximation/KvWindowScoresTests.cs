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
