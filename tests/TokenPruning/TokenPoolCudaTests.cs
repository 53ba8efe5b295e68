using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

/// <summary>TokenPool on device memory: the CPU backend's bits, forwards and backwards.</summary>
public class TokenPoolCudaTests
{
    private static readonly PoolGrid[] Grids =
    [
        PoolGrid.Window(1, 1, 1, 1), PoolGrid.Window(4, 4, 2, 2), PoolGrid.Window(5, 7, 2, 3), PoolGrid.Window(9, 6, 4, 4),
        PoolGrid.Window(3, 3, 8, 8), PoolGrid.Window(2, 9, 1, 9), PoolGrid.ToGrid(4, 4, 4, 4), PoolGrid.ToGrid(5, 7, 2, 3),
        PoolGrid.ToGrid(7, 10, 3, 7), PoolGrid.ToGrid(6, 5, 1, 1),
    ];

    public TokenPoolCudaTests() => CudaDriver.Require();

    [Fact]
    public void Bits_are_the_Cpus()
    {
        foreach (var grid in Grids)
        {
            foreach (var (batch, channels) in ((int, int)[])[(0, 3), (1, 1), (2, 5), (1, 16), (3, 36), (2, 130)])
            {
                Check<float>(grid, batch, channels);
                Check<BFloat16>(grid, batch, channels);
                Check<Half>(grid, batch, channels);
            }
        }
    }

    [Fact]
    public void Any_grid_gives_the_Cpus_bits() => Gen
        .Select(Gen.Int[1, 12], Gen.Int[1, 12], Gen.Int[1, 12], Gen.Int[1, 12], Gen.Int[1, 20], Gen.Bool)
        .Sample(
            (height, width, rows, columns, channels, window) => Check<float>(
                window
                    ? PoolGrid.Window(height, width, rows, columns)
                    : PoolGrid.ToGrid(height, width, Math.Min(rows, height), Math.Min(columns, width)),
                2, channels),
            iter: 40);

    [Fact]
    public void NaN_infinity_and_the_sign_of_zero_are_the_Cpus()
    {
        float[] tokens = [-0f, float.PositiveInfinity, float.NaN, 1, -0f, float.NegativeInfinity, 4, 5];
        using var devices = new Devices();
        var pooled = devices.Add(new float[4], 1, 2, 2);
        TokenPool.Run(devices.Add(tokens, 1, 4, 2), PoolGrid.Window(2, 2, 2, 1), pooled);
        Assert.Equal(Devices.Bits([-0f, float.NaN, float.NaN, 3]), Devices.Bits(Devices.Read<float>(pooled)));
    }

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        var pooled = devices.Add(new float[2], 1, 1, 2);
        TokenPool.Run(devices.Add(new float[] { 1, 2, 3, 4 }, 1, 2, 2), PoolGrid.ToGrid(2, 1, 1, 1), pooled, stream: stream);
        Assert.Equal([2, 3], Devices.Read<float>(pooled, stream));
        var gradient = devices.Add(new float[4], 1, 2, 2);
        TokenPool.Backward(pooled, PoolGrid.ToGrid(2, 1, 1, 1), gradient, stream: stream);
        Assert.Equal([1, 1.5f, 1, 1.5f], Devices.Read<float>(gradient, stream));
    }

    [Fact]
    public unsafe void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var (grid, tokens) = (PoolGrid.Window(2, 2, 2, 2), devices.Add(new float[8], 1, 4, 2));
        var pooled = devices.Add(new float[] { -7, -7 }, 1, 1, 2);
        void Refused<TException>(string message, Action action) where TException : Exception
        {
            Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
            Assert.Equal([-7, -7], Devices.Read<float>(pooled));
        }

        Refused<ArgumentException>("pooled: float32[1, 4, 2]", () => TokenPool.Run(tokens, grid, tokens));
        Refused<ArgumentException>("overlaps", () => TokenPool.Run(tokens, PoolGrid.Window(2, 2, 1, 1), tokens));
        float* host = stackalloc float[8];
        var said = TensorView.FromPointer(host, DType.Float32, [1, 4, 2], device: tokens.Device);
        Refused<ArgumentException>("is not device memory", () => TokenPool.Run(said, grid, pooled));
        Refused<ArgumentException>("is not device memory", () => TokenPool.Backward(pooled, grid, said));
        Refused<BackendUnavailableException>("the tensors are on cuda:0", () => TokenPool.Run(tokens, grid, pooled, AuxBackend.Reference));
        Refused<BackendUnavailableException>("the tensors are on cpu",
            () => TokenPool.Run<float>(new float[8], 2, grid, new float[2], AuxBackend.Cuda));
        devices.CheckMargins();
    }

    private static void Check<T>(PoolGrid grid, int batch, int channels) where T : unmanaged
    {
        var random = new Random(channels);
        T[] Values(int count) => RandomScores.As<T>([.. Enumerable.Range(0, count).Select(_ => (float)random.NextDouble() * 2 - 1)]).Stored;
        var (tokens, above) = (Values(batch * grid.Tokens * channels), Values(batch * grid.Cells * channels));
        var (pooled, gradient) = (new T[above.Length], new T[tokens.Length]);
        TokenPool.Run<T>(tokens, channels, grid, pooled);
        TokenPool.Backward<T>(above, channels, grid, gradient);

        using var devices = new Devices();
        TensorView Add(T[] values, int count) => devices.Add(values, batch, count, channels);
        var (actual, spread) = (Add(new T[pooled.Length], grid.Cells), Add(new T[gradient.Length], grid.Tokens));
        TokenPool.Run(Add(tokens, grid.Tokens), grid, actual);
        TokenPool.Backward(Add(above, grid.Cells), grid, spread);
        Assert.Equal(pooled, Devices.Read<T>(actual));
        Assert.Equal(gradient, Devices.Read<T>(spread));

        // On addresses where vectors can be.
        var (whole, room) = (devices.Keep(DeviceBuffer.CopyOf<T>(tokens)), devices.Keep(DeviceBuffer.Allocate<T>(pooled.Length)));
        TokenPool.Run(whole.View(batch, grid.Tokens, channels), grid, room.View(batch, grid.Cells, channels));
        Assert.Equal(pooled, room.ToArray());
        devices.CheckMargins();
    }
}
