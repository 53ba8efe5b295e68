using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

public class TokenPoolTests
{
    private static readonly PoolGrid[] Grids =
    [
        PoolGrid.Window(1, 1, 1, 1), PoolGrid.Window(4, 4, 2, 2), PoolGrid.Window(5, 7, 2, 3), PoolGrid.Window(9, 6, 4, 4),
        PoolGrid.Window(3, 3, 8, 8), PoolGrid.Window(2, 9, 1, 5), PoolGrid.ToGrid(4, 4, 4, 4), PoolGrid.ToGrid(5, 7, 2, 3),
        PoolGrid.ToGrid(7, 10, 3, 7), PoolGrid.ToGrid(6, 5, 1, 1),
    ];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Every_cell_is_the_mean_of_its_tokens_and_the_gradient_comes_back(Runner runner)
    {
        foreach (var grid in Grids)
        {
            foreach (var (batch, channels) in ((int, int)[])[(0, 3), (1, 1), (2, 5), (1, 16), (3, 37)])
            {
                Check<float>(runner, grid, batch, channels, ulps: 0);
                Check<BFloat16>(runner, grid, batch, channels, ulps: 1 / 128.0);
                Check<Half>(runner, grid, batch, channels, ulps: 1 / 1024.0);
            }
        }
    }

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        const int Channels = 4200; // more than a tile
        var grid = PoolGrid.ToGrid(11, 13, 4, 5);
        var tokens = Values<float>(2 * grid.Tokens * Channels, 1).Stored;
        var (expected, gradient) = (new float[2 * grid.Cells * Channels], new float[tokens.Length]);
        BackendMatrix.Scalar.Run(backend =>
        {
            TokenPool.Run<float>(tokens, Channels, grid, expected, backend);
            TokenPool.Backward<float>(expected, Channels, grid, gradient, backend);
        });

        foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
        {
            var (actual, spread) = (new float[expected.Length], new float[tokens.Length]);
            runner.Run(backend =>
            {
                TokenPool.Run<float>(tokens, Channels, grid, actual, backend);
                TokenPool.Backward<float>(actual, Channels, grid, spread, backend);
            });
            Assert.Equal(expected, actual);
            Assert.Equal(gradient, spread);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Edges_average_the_tokens_that_are_there(Runner runner)
    {
        // 0 1 2 | 3    windows of 2 × 3        0 1 2 3 in two cells are [0, 1], [2, 3]; 0 1 2 in two are [0, 1], [1, 2]
        // 4 5 6 | 7
        // ------
        // 8 9 A | B
        float[] tokens = [.. Enumerable.Range(0, 12).Select(i => (float)i)], pooled = new float[4], shared = new float[2];
        runner.Run(backend =>
        {
            TokenPool.Run<float>(tokens, 1, PoolGrid.Window(3, 4, 2, 3), pooled, backend);
            TokenPool.Run<float>(tokens.AsSpan(0, 3), 1, PoolGrid.ToGrid(1, 3, 1, 2), shared, backend);
        });
        Assert.Equal([3, 5, 9, 11], pooled);
        Assert.Equal([0.5f, 1.5f], shared);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_window_of_one_token_is_the_identity_and_NaN_stays_in_its_cell_and_channel(Runner runner)
    {
        float[] tokens = [-0f, float.PositiveInfinity, float.NaN, 1, 2, float.Epsilon, 4, 5], same = new float[8], pooled = new float[4];
        runner.Run(backend =>
        {
            TokenPool.Run<float>(tokens, 2, PoolGrid.Window(2, 2, 1, 1), same, backend);
            TokenPool.Run<float>(tokens, 2, PoolGrid.Window(2, 2, 1, 2), pooled, backend);
        });
        Assert.Equal(tokens.Select(BitConverter.SingleToInt32Bits), same.Select(BitConverter.SingleToInt32Bits));
        Assert.Equal([float.NaN, float.PositiveInfinity, 3, 2.5f], pooled);
    }

    [Fact]
    public void The_backward_is_the_transpose_of_the_forward() => Gen
        .Select(Gen.Int[1, 9], Gen.Int[1, 9], Gen.Int[1, 9], Gen.Int[1, 9], Gen.Int[1, 20], Gen.Bool)
        .Sample((height, width, a, b, channels, window) =>
        {
            var grid = window ? PoolGrid.Window(height, width, a, b)
                : PoolGrid.ToGrid(height, width, Math.Min(a, height), Math.Min(b, width));
            var (x, dy) = (Values<float>(grid.Tokens * channels, a).Stored, Values<float>(grid.Cells * channels, b).Stored);
            var (y, dx) = (new float[dy.Length], new float[x.Length]);
            TokenPool.Run<float>(x, channels, grid, y);
            TokenPool.Backward<float>(dy, channels, grid, dx);
            var (left, right) = (y.Zip(dy, (p, q) => (double)p * q).Sum(), x.Zip(dx, (p, q) => (double)p * q).Sum());
            return Math.Abs(left - right) <= 1e-5 * grid.Cells * channels;
        });

    [Fact]
    public void Sizes_grids_types_and_memory_are_checked()
    {
        var pooled = new float[8];
        Array.Fill(pooled, Scene.Untouched);
        var grid = PoolGrid.Window(2, 2, 2, 2);

        Refused<ArgumentOutOfRangeException>("height", () => PoolGrid.Window(0, 1, 1, 1));
        Refused<ArgumentOutOfRangeException>("width", () => PoolGrid.ToGrid(1, 0, 1, 1));
        Refused<ArgumentOutOfRangeException>("windowHeight", () => PoolGrid.Window(1, 1, 0, 1));
        Refused<ArgumentOutOfRangeException>("windowWidth", () => PoolGrid.Window(1, 1, 1, -1));
        Refused<ArgumentOutOfRangeException>("rows", () => PoolGrid.ToGrid(2, 2, 3, 1));
        Refused<ArgumentOutOfRangeException>("rows", () => PoolGrid.ToGrid(2, 2, 0, 1));
        Refused<ArgumentOutOfRangeException>("columns", () => PoolGrid.ToGrid(2, 2, 1, 3));
        Refused<ArgumentOutOfRangeException>("columns", () => PoolGrid.ToGrid(2, 2, 1, 0));
        Assert.Throws<OverflowException>(() => PoolGrid.Window(100_000, 100_000, 2, 2));
        Refused<ArgumentException>("grid: a default value", () => TokenPool.Run<float>(new float[4], 1, default, pooled));
        Refused<ArgumentOutOfRangeException>("channels", () => TokenPool.Run<float>(new float[4], 0, grid, pooled));
        Refused<ArgumentException>("tokens: 5 elements are not images of 2 x 2 tokens of 1",
            () => TokenPool.Run<float>(new float[5], 1, grid, pooled));
        Refused<ArgumentException>("pooled: 8 elements do not match shape [1, 1, 1]",
            () => TokenPool.Run<float>(new float[4], 1, grid, pooled));
        Refused<ArgumentException>("pooledGradient: 3 elements do not match shape [2, 1, 1]",
            () => TokenPool.Backward<float>(new float[3], 1, grid, pooled));
        Refused<ArgumentException>("gradient: 8 elements are not images", () => TokenPool.Backward<float>(new float[3], 3, grid, pooled));
        Refused<ArgumentException>("tokens: int32", () => TokenPool.Run<int>(new int[4], 1, grid, new int[1]));
        Refused<ArgumentException>("pooled overlaps tokens", () => TokenPool.Run<float>(pooled.AsSpan(0, 4), 1, grid, pooled.AsSpan(3, 1)));
        Refused<ArgumentException>("gradient overlaps pooledGradient",
            () => TokenPool.Backward<float>(pooled.AsSpan(2, 2), 1, grid, pooled));
        foreach (var backend in (AuxBackend[])[AuxBackend.Cuda, AuxBackend.Ilgpu])
            Refused<BackendUnavailableException>("TokenPool", () => TokenPool.Run<float>(new float[32], 1, grid, pooled, backend));

        Assert.All(pooled, value => Assert.Equal(Scene.Untouched, value));
    }

    [Fact]
    public void Views_give_the_same_and_bad_ones_are_named()
    {
        using var scene = new Scene([0], [0], [], null);
        var grid = PoolGrid.Window(4, 4, 2, 2);
        var (tokens, pooled) = (scene.Tensor(DType.BFloat16, [2, 16, 3], 1), scene.Tensor(DType.BFloat16, [2, 4, 3], -1));

        Refused<ArgumentException>("tokens: bfloat16[2, 16] on cpu is not of rank 3",
            () => TokenPool.Run(scene.Tensor(DType.BFloat16, [2, 16], 1), grid, pooled));
        Refused<ArgumentException>("tokens: bfloat16[2, 15, 3] on cpu does not match shape [2, 16, 3]",
            () => TokenPool.Run(scene.Tensor(DType.BFloat16, [2, 15, 3], 1), grid, pooled));
        Refused<ArgumentException>(
            "pooled: float32[2, 4, 3]", () => TokenPool.Run(tokens, grid, scene.Tensor(DType.Float32, [2, 4, 3], 1)));
        Refused<ArgumentException>("pooled: bfloat16[2, 16, 3]", () => TokenPool.Run(tokens, grid, tokens));
        Refused<ArgumentException>("tokens: int32[1, 16, 3]",
            () => TokenPool.Run(scene.Tensor(DType.Int32, [1, 16, 3], 1), grid, scene.Tensor(DType.Int32, [1, 4, 3], 1)));
        Refused<ArgumentOutOfRangeException>("channels",
            () => TokenPool.Run(scene.Tensor(DType.Float32, [1, 16, 0], 1), grid, scene.Tensor(DType.Float32, [1, 4, 0], 1)));
        Refused<ArgumentException>("gradient: bfloat16[2, 4, 3]", () => TokenPool.Backward(pooled, grid, pooled));
        Assert.All(Scene.Read(pooled), value => Assert.Equal(Scene.Untouched, value));

        TokenPool.Run(tokens, grid, pooled);
        var (all, few) = (Scene.Read(tokens), new float[2 * 4 * 3]);
        TokenPool.Run<float>(all, 3, grid, few);
        Assert.Equal(few.Select(value => (float)(BFloat16)value), Scene.Read(pooled));
        TokenPool.Backward(pooled, grid, tokens);
        Assert.Equal((float)(BFloat16)(Scene.Read(pooled)[0] / 4), Scene.Read(tokens)[0]);
    }

    private static (T[] Stored, float[] Widened) Values<T>(int count, int seed)
    {
        var random = new Random(seed);
        return RandomScores.As<T>([.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() * 2 - 1))]);
    }

    private static void Check<T>(Runner runner, PoolGrid grid, int batch, int channels, double ulps) where T : unmanaged
    {
        var (tokens, values) = Values<T>(batch * grid.Tokens * channels, channels);
        var (output, gradients) = Values<T>(batch * grid.Cells * channels, channels + 1);
        T[] offset = [default, .. tokens], pooled = new T[output.Length + 1], gradient = new T[tokens.Length + 1];
        runner.Run(backend =>
        {
            TokenPool.Run(offset.AsSpan(1), channels, grid, pooled.AsSpan(1), backend);
            TokenPool.Backward<T>(output, channels, grid, gradient.AsSpan(1), backend);
        });

        var (mean, spread) = (new double[output.Length], new double[tokens.Length]);
        for (var at = 0; at < mean.Length; at++)
        {
            var (cell, channel, image) = (at / channels % grid.Cells, at % channels, at / channels / grid.Cells);
            var (top, bottom) = grid.RowsOf(cell / grid.Columns);
            var (left, right) = grid.ColumnsOf(cell % grid.Columns);
            var count = (bottom - top) * (right - left);
            for (var i = top; i < bottom; i++)
            {
                for (var j = left; j < right; j++)
                {
                    var token = ((image * grid.Tokens) + i * grid.Width + j) * channels + channel;
                    mean[at] += (double)values[token] / count;
                    spread[token] += (double)gradients[at] / count;
                }
            }
        }

        Assert.Equal(default, pooled[0]);
        Assert.Equal(default, gradient[0]);
        Near(mean, RandomScores.Widen(pooled[1..]));
        Near(spread, RandomScores.Widen(gradient[1..]));

        void Near(double[] expected, float[] actual)
        {
            for (var i = 0; i < expected.Length; i++)
                Assert.Equal(expected[i], actual[i], Tolerances.TokenPoolAbsolute + ulps * Math.Abs(expected[i]) / 2);
        }
    }

    private static void Refused<TException>(string message, Action action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
}
