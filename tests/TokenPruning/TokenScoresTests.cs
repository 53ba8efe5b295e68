using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

public class TokenScoresTests
{
    private static readonly (int Batch, int QueryHeads, int KeyHeads, int Rows, int Tokens, int Depth)[] Shapes =
    [
        (1, 1, 1, 1, 1, 1), (2, 3, 3, 1, 70, 31), (1, 8, 2, 1, 40, 64), (2, 4, 2, 3, 33, 33), (1, 2, 1, 9, 9, 128), (1, 2, 2, 40, 200, 16),
        (2, 6, 2, 50, 211, 33), (1, 1, 1, 70, 400, 8), (1, 4, 4, 0, 12, 8), (0, 2, 1, 3, 5, 4), (1, 2, 1, 2, 0, 4), (1, 7, 1, 4, 193, 20),
        (1, 1, 1, 25, 4100, 5), // too many keys for a strip
    ];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Agrees_with_the_columns_of_the_softmax(Runner runner)
    {
        foreach (var shape in Shapes)
        {
            foreach (var type in (DType[])[DType.Float32, DType.BFloat16, DType.Float16])
            {
                foreach (var causal in (bool[])[false, true])
                {
                    if (causal && shape.Rows > shape.Tokens)
                        continue;
                    using var batch = new ScoreBatch(shape, type, seed: shape.Tokens);
                    foreach (var (given, weighted) in ((bool, bool)[])[(false, false), (true, true)])
                        Check(runner, batch, causal, given, weighted);
                }
            }
        }
    }

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        foreach (var shape in Shapes)
        {
            using var batch = new ScoreBatch(shape, DType.BFloat16, seed: 3);
            var expected = batch.Score(BackendMatrix.Scalar, causal: false, given: false, weighted: true);
            foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
            {
                var actual = batch.Score(runner, causal: false, given: false, weighted: true);
                Assert.Equal(expected.Select(BitConverter.SingleToInt32Bits), actual.Select(BitConverter.SingleToInt32Bits));
            }
        }
    }

    [Fact]
    public void Threads_share_large_work_to_the_same_bits()
    {
        foreach (var shape in ((int, int, int, int, int, int)[])[(1, 16, 8, 1, 1500, 96), (1, 4, 2, 64, 700, 64)])
        {
            using var batch = new ScoreBatch(shape, DType.Float32, seed: 4);
            foreach (var given in (bool[])[false, true])
            {
                var one = batch.Score(new(AuxBackend.Cpu, 8), true, given, true);
                Assert.Equal(one, batch.Score(new(AuxBackend.Cpu, 8, Threads: 3), true, given, true));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Spans_give_the_mean_attention_of_the_last_row(Runner runner)
    {
        // Two heads, keys of depth 1: softmaxes of (0, ln 3) and (ln 3, 0) times ½.
        float[] queries = [1, 2], keys = [0, MathF.Log(3), MathF.Log(3), 0], scores = [7, 7, 7];
        runner.Run(backend => TokenScores.Run(queries, keys, 2, 2, 1, scores.AsSpan(0, 2), scale: 1, backend: backend));
        Assert.Equal(0.125f + 0.45f, scores[0], 1e-6f);
        Assert.Equal(0.375f + 0.05f, scores[1], 1e-6f);
        Assert.Equal(7, scores[2]);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void NaN_and_infinity_propagate_to_the_keys_that_the_row_sees(Runner runner)
    {
        foreach (var rows in (int[])[2, 30])
        {
            var (queries, keys, scores) = (new float[rows * 4], new float[40 * 4], new float[40]);
            keys.AsSpan().Fill(1);
            queries.AsSpan().Fill(1);
            queries[^1] = float.NaN; // the last row, which sees all
            runner.Run(backend => TokenScores.Run(queries, keys, 1, 1, 4, scores, causal: true, backend: backend));
            Assert.All(scores, score => Assert.True(float.IsNaN(score)));

            queries[^1] = 1;
            queries[0] = float.NaN; // the first row, which sees all but the last rows − 1
            runner.Run(backend => TokenScores.Run(queries, keys, 1, 1, 4, scores, causal: true, backend: backend));
            Assert.All(scores[..(41 - rows)], score => Assert.True(float.IsNaN(score)));
            Assert.All(scores[(41 - rows)..], score => Assert.InRange(score, 1e-6f, 1));

            queries[0] = 1;
            keys[39 * 4] = float.PositiveInfinity;
            runner.Run(backend => TokenScores.Run(queries, keys, 1, 1, 4, scores, causal: false, backend: backend));
            Assert.All(scores, score => Assert.True(score == 0 || float.IsNaN(score)));
            Assert.True(float.IsNaN(scores[39]));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public unsafe void Padding_gets_no_attention_whatever_it_holds(Runner runner)
    {
        foreach (var (rows, causal) in ((int, bool)[])[(1, false), (3, true), (30, false)])
        {
            const int Heads = 2, Tokens = 40, Depth = 4;
            int[] lengths = [37, 40, 3];
            var queries = TokenMergeTests.Values(3 * Heads * rows * Depth, 1);
            var keys = TokenMergeTests.Values(3 * Heads * Tokens * Depth, 2);
            var (scores, alone) = (new float[3 * Tokens], new float[3 * Tokens]);
            for (var b = 0; b < 3; b++)
            {
                var own = new float[Heads * lengths[b] * Depth];
                for (var head = 0; head < Heads; head++)
                {
                    var all = keys.AsSpan((b * Heads + head) * Tokens * Depth, Tokens * Depth);
                    all[..(lengths[b] * Depth)].CopyTo(own.AsSpan(head * lengths[b] * Depth));
                    all[(lengths[b] * Depth)..].Fill(float.NaN);
                }

                runner.Run(backend => TokenScores.Run(
                    queries.AsSpan(b * Heads * rows * Depth, Heads * rows * Depth), own, Heads, Heads, Depth,
                    alone.AsSpan(b * Tokens, lengths[b]), causal, backend: backend));
            }

            fixed (float* q = queries, k = keys, s = scores)
            fixed (int* l = lengths)
            {
                var tensors = new ScoreTensors
                {
                    Queries = TensorView.FromPointer(q, DType.Float32, [3, Heads, rows, Depth]),
                    Keys = TensorView.FromPointer(k, DType.Float32, [3, Heads, Tokens, Depth]),
                    Lengths = TensorView.FromPointer(l, DType.Int32, [3]),
                    Scores = TensorView.FromPointer(s, DType.Float32, [3, Tokens]),
                };
                scores.AsSpan().Fill(7);
                runner.Run(backend => TokenScores.Run(tensors, causal, backend: backend));
            }

            Assert.Equal(alone, scores);
        }
    }

    [Fact]
    public void Mean_scores_are_a_distribution() => Gen
        .Select(Gen.Int[1, 6], Gen.Int[1, 60], Gen.Int[1, 300], Gen.Int[1, 70], Gen.Bool)
        .Sample((heads, rows, tokens, depth, causal) =>
        {
            using var batch = new ScoreBatch((1, 2 * heads, heads, Math.Min(rows, tokens), tokens, depth), DType.Float32, seed: rows);
            var scores = batch.Score(new(AuxBackend.Cpu, 8), causal, given: false, weighted: false);
            return Math.Abs(scores.Sum(score => (double)score) - 1) < 1e-5 && scores.All(score => score >= 0);
        });

    private static void Check(Runner runner, ScoreBatch batch, bool causal, bool given, bool weighted)
    {
        var actual = batch.Score(runner, causal, given, weighted);
        var expected = batch.Expected(causal, weighted);
        Assert.Equal(expected.Length, actual.Length);
        var largest = expected.DefaultIfEmpty().Max();
        for (var j = 0; j < actual.Length; j++)
            Assert.Equal(expected[j], actual[j], Tolerances.TokenScoresRelative * (expected[j] + largest));
    }
}
