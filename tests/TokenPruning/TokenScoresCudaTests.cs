using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

/// <summary>TokenScores on device memory against the columns of the softmax in double.</summary>
public class TokenScoresCudaTests
{
    private static readonly (int Batch, int QueryHeads, int KeyHeads, int Rows, int Tokens, int Depth)[] Shapes =
    [
        (1, 1, 1, 1, 1, 1), (2, 3, 3, 1, 70, 31), (1, 8, 2, 1, 40, 64), (2, 4, 2, 3, 33, 33), (1, 2, 1, 9, 9, 128), (1, 2, 2, 40, 200, 16),
        (2, 6, 2, 50, 131, 33), (1, 1, 1, 70, 300, 8), (1, 4, 4, 0, 12, 8), (0, 2, 1, 3, 5, 4), (1, 2, 1, 2, 0, 4), (1, 7, 1, 3, 193, 20),
        (1, 1, 1, 1, 600, 5), (1, 2, 2, 1, 20, 300), (1, 1, 1, 24, 64, 17), (1, 1, 1, 23, 65, 17),
    ];

    public TokenScoresCudaTests() => CudaDriver.Require();

    [Fact]
    public void Agrees_with_the_columns_of_the_softmax()
    {
        foreach (var shape in Shapes)
        {
            foreach (var type in (DType[])[DType.Float32, DType.BFloat16, DType.Float16])
            {
                using var batch = new ScoreBatch(shape, type, seed: shape.Tokens);
                foreach (var causal in (bool[])[false, true])
                {
                    if (causal && shape.Rows > shape.Tokens)
                        continue;
                    Check(batch, causal, given: false, weighted: true);
                    Check(batch, causal, given: true, weighted: false);
                }
            }
        }
    }

    [Fact]
    public void The_same_batch_gives_the_same_bits_whatever_the_workspace_held()
    {
        foreach (var shape in Shapes)
        {
            using var batch = new ScoreBatch(shape, DType.Float32, seed: 2);
            Assert.Equal(
                batch.ScoreOnDevice(causal: false, given: false, weighted: true, fill: 0x00),
                batch.ScoreOnDevice(causal: false, given: false, weighted: true, fill: 0xff));
        }
    }

    [Fact]
    public void NaN_and_infinity_propagate_to_the_keys_that_the_row_sees()
    {
        foreach (var rows in (int[])[2, 30])
        {
            var (queries, keys) = (new float[rows * 4], new float[40 * 4]);
            keys.AsSpan().Fill(1);
            queries.AsSpan().Fill(1);
            queries[^1] = float.NaN; // the last row, which sees all
            Assert.All(Run(queries, keys, rows, causal: true), score => Assert.True(float.IsNaN(score)));

            queries[^1] = 1;
            queries[0] = float.NaN; // the first row, which sees all but the last rows − 1
            var scores = Run(queries, keys, rows, causal: true);
            Assert.All(scores[..(41 - rows)], score => Assert.True(float.IsNaN(score)));
            Assert.All(scores[(41 - rows)..], score => Assert.InRange(score, 1e-6f, 1));

            queries[0] = 1;
            keys[39 * 4] = float.PositiveInfinity;
            scores = Run(queries, keys, rows, causal: false);
            Assert.All(scores, score => Assert.True(score is 0 or 1 || float.IsNaN(score)));
            keys[39 * 4] = float.NaN;
            Assert.All(Run(queries, keys, rows, causal: false), score => Assert.True(float.IsNaN(score)));
        }
    }

    [Fact]
    public void Mean_scores_are_a_distribution() => Gen
        .Select(Gen.Int[1, 4], Gen.Int[1, 40], Gen.Int[1, 150], Gen.Int[1, 40], Gen.Bool)
        .Sample(
            (heads, rows, tokens, depth, causal) =>
            {
                using var batch = new ScoreBatch(
                    (1, 2 * heads, heads, Math.Min(rows, tokens), tokens, depth), DType.Float32, seed: rows);
                var scores = batch.ScoreOnDevice(causal, given: false, weighted: false);
                return Math.Abs(scores.Sum(score => (double)score) - 1) < 1e-5 && scores.All(score => score >= 0);
            },
            iter: 20);

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        var tensors = Tensors(devices, [1, 2], [3, 4, 5, 6], 1);
        TokenScores.Run(tensors, stream: stream);
        Assert.Equal(1, Devices.Read<float>(tensors.Scores, stream).Sum(), 1e-6f);
    }

    [Fact]
    public unsafe void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var good = Tensors(devices, [1, 2], [3, 4, 5, 6], 1) with { Scores = devices.Add(new float[] { -7, -7 }, 1, 2) };
        void Refused<TException>(string message, ScoreTensors tensors, AuxBackend backend = AuxBackend.Auto) where TException : Exception
        {
            var error = Assert.ThrowsAny<TException>(() => TokenScores.Run(tensors, backend: backend));
            Assert.Contains(message, error.Message, StringComparison.Ordinal);
            Assert.Equal([-7, -7], Devices.Read<float>(good.Scores));
        }

        Refused<ArgumentException>("Workspace: missing; uint8[", good with { Workspace = default });
        var small = devices.Keep(DeviceBuffer.Allocate<byte>(64));
        Refused<ArgumentException>("or more is needed on cuda:0", good with { Workspace = small.View(64) });
        Refused<ArgumentException>("Scores overlaps Keys", good with
        {
            Scores = TensorView.FromPointer((void*)good.Keys.Address, DType.Float32, [1, 2], device: good.Keys.Device),
        });
        float* host = stackalloc float[4];
        Refused<ArgumentException>("is not device memory", good with
        {
            Keys = TensorView.FromPointer(host, DType.Float32, [1, 1, 2, 2], device: good.Keys.Device),
        });
        Refused<BackendUnavailableException>("the tensors are on cuda:0", good, AuxBackend.Reference);
        devices.CheckMargins();
    }

    [Fact]
    public unsafe void The_workspace_is_as_large_as_the_library_says()
    {
        foreach (var (batch, heads, keyHeads, rows, tokens) in ((int, int, int, int, int)[])
            [(1, 32, 32, 1, 640), (1, 28, 4, 1, 16384), (2, 16, 16, 577, 577), (0, 1, 1, 1, 1), (3, 8, 2, 6, 100), (1, 2, 1, 0, 9),
                (1, 6, 2, 8, 65), (7, 3, 1, 8, 0)])
        {
            var native = new Native.TokenScoresBatch
            {
                StructSize = (uint)sizeof(Native.TokenScoresBatch), Batch = batch, QueryHeads = heads, KeyHeads = keyHeads, Rows = rows,
                Tokens = tokens, Depth = 64,
            };
            NativeStatus.Check(Native.TokenScoresWorkspace(&native, out var bytes), "test");
            Assert.Equal(bytes, TokenScores.WorkspaceBytes(batch, heads, keyHeads, rows, tokens));
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => TokenScores.WorkspaceBytes(1, 1, 0, 1, 1));
    }

    private static float[] Run(float[] queries, float[] keys, int rows, bool causal)
    {
        using var devices = new Devices();
        var tensors = Tensors(devices, queries, keys, rows);
        TokenScores.Run(tensors, causal);
        return Devices.Read<float>(tensors.Scores);
    }

    // One head.
    private static ScoreTensors Tensors(Devices devices, float[] queries, float[] keys, int rows)
    {
        var depth = queries.Length / rows;
        var tokens = keys.Length / depth;
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(TokenScores.WorkspaceBytes(1, 1, 1, rows, tokens)));
        return new()
        {
            Queries = devices.Add(queries, 1, 1, rows, depth), Keys = devices.Add(keys, 1, 1, tokens, depth),
            Scores = devices.Add(new float[tokens], 1, tokens), Workspace = workspace.View(workspace.Length),
        };
    }

    private static void Check(ScoreBatch batch, bool causal, bool given, bool weighted)
    {
        var (actual, expected) = (batch.ScoreOnDevice(causal, given, weighted), batch.Expected(causal, weighted));
        Assert.Equal(expected.Length, actual.Length);
        var largest = expected.DefaultIfEmpty().Max();
        for (var j = 0; j < actual.Length; j++)
            Assert.Equal(expected[j], actual[j], Tolerances.TokenScoresRelative * (expected[j] + largest));
    }
}
