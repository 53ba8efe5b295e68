using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Averages the tokens of a grid cell by cell, channels apart, and its backward: the compression of an image's tokens in TVC (Sun et al.
/// 2025, arXiv 2503.13360), with windows of 4 × 4, and the baseline of every method that selects tokens.
/// </summary>
/// <remarks>
/// Sums are float32, row by row from the upper left, beginning with the first token; the mean is the sum divided by the number of tokens of
/// that cell, rounded to the dtype. The backward gives each token Σ g[cell] / tokens(cell) over the cells that it is in. NaN propagates to
/// its own channel of its own cells. Results depend on neither threads nor vector width. Thread-safe, as far as no two calls write one
/// output.
/// </remarks>
public static partial class TokenPool
{
    internal static readonly OpSupport Support = new(
        nameof(TokenPool),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, null));

    private static readonly DType[] Types = [DType.Float32, DType.BFloat16, DType.Float16];

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Pools the tokens of images.</summary>
    /// <typeparam name="T">float, <see cref="BFloat16"/> or <see cref="Half"/>.</typeparam>
    /// <param name="tokens">[B, grid.Tokens, channels], row-major; B follows from its length.</param>
    /// <param name="channels">At least 1.</param>
    /// <param name="grid">Which tokens belong together.</param>
    /// <param name="pooled">[B, grid.Cells, channels], written; overlaps nothing.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">
    /// Lengths do not fit, the grid is a default value, spans overlap, or T is another type. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Run<T>(
        ReadOnlySpan<T> tokens, int channels, PoolGrid grid, Span<T> pooled, AuxBackend backend = AuxBackend.Auto) where T : unmanaged
    {
        var batch = BatchOf(tokens.Length, channels, grid, nameof(tokens));
        TensorArguments.RequireLength(nameof(pooled), pooled.Length, [batch, grid.Cells, channels]);
        fixed (T* from = tokens, to = pooled)
        {
            Run(new(DTypes.Of<T>(), from, to, batch, channels, grid), nameof(tokens), nameof(pooled), AuxDevice.Host, backend,
                backward: false);
        }
    }

    /// <summary>Spreads the gradient of pooled tokens.</summary>
    /// <typeparam name="T">float, <see cref="BFloat16"/> or <see cref="Half"/>.</typeparam>
    /// <param name="pooledGradient">[B, grid.Cells, channels], row-major.</param>
    /// <param name="channels">At least 1.</param>
    /// <param name="grid">The grid of the forward.</param>
    /// <param name="gradient">[B, grid.Tokens, channels], all of it written; overlaps nothing.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">As for the forward. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Backward<T>(
        ReadOnlySpan<T> pooledGradient, int channels, PoolGrid grid, Span<T> gradient, AuxBackend backend = AuxBackend.Auto)
        where T : unmanaged
    {
        var batch = BatchOf(gradient.Length, channels, grid, nameof(gradient));
        TensorArguments.RequireLength(nameof(pooledGradient), pooledGradient.Length, [batch, grid.Cells, channels]);
        fixed (T* from = pooledGradient, to = gradient)
        {
            Run(new(DTypes.Of<T>(), from, to, batch, channels, grid), nameof(pooledGradient), nameof(gradient), AuxDevice.Host, backend,
                backward: true);
        }
    }

    /// <summary>Pools tokens in memory of any framework.</summary>
    /// <param name="tokens">float32, bfloat16 or float16 [B, grid.Tokens, C], contiguous.</param>
    /// <param name="grid">Which tokens belong together.</param>
    /// <param name="pooled">[B, grid.Cells, C] of that dtype, contiguous, written; overlaps nothing.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, or memory overlaps. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static void Run(
        in TensorView tokens, PoolGrid grid, in TensorView pooled, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null) =>
        Run(tokens, nameof(tokens), pooled, nameof(pooled), tokens, grid, backend, backward: false, stream);

    /// <summary>Spreads the gradient of pooled tokens, in memory of any framework.</summary>
    /// <param name="pooledGradient">float32, bfloat16 or float16 [B, grid.Cells, C], contiguous.</param>
    /// <param name="grid">The grid of the forward.</param>
    /// <param name="gradient">[B, grid.Tokens, C] of that dtype, contiguous, all of it written; overlaps nothing.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, or memory overlaps. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static void Backward(
        in TensorView pooledGradient, PoolGrid grid, in TensorView gradient, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null) =>
        Run(pooledGradient, nameof(pooledGradient), gradient, nameof(gradient), gradient, grid, backend, backward: true, stream);

    private static unsafe void Run(
        in TensorView source, string sourceName, in TensorView destination, string destinationName, in TensorView tokens, PoolGrid grid,
        AuxBackend backend, bool backward, CudaStream? stream)
    {
        var name = backward ? destinationName : sourceName;
        CheckGrid(grid);
        if (tokens.Shape.Length != 3)
            throw new ArgumentException($"{name}: {tokens} is not of rank 3, [batch, tokens, channels]", name);
        var (batch, channels, device) = (tokens.Shape[0], tokens.Shape[2], tokens.Device);
        TensorArguments.Require(tokens, name, Types, [batch, grid.Tokens, channels], device, name);
        var other = backward ? sourceName : destinationName;
        TensorArguments.Require(
            backward ? source : destination, other, [tokens.DType], [batch, grid.Cells, channels], device, other);
        TensorArguments.RequireAtLeastOne("channels", channels);
        Run(
            new(source.DType, (void*)source.Address, (void*)destination.Address, batch, checked((int)channels), grid), sourceName,
            destinationName, device, backend, backward, CudaStream.HandleOn(stream, device, nameof(stream)));
        TensorArguments.KeepAlive(source.Owner, destination.Owner, stream);
    }

    private static long BatchOf(int elements, int channels, PoolGrid grid, string name)
    {
        CheckGrid(grid);
        TensorArguments.RequireAtLeastOne(nameof(channels), channels);
        var (batch, rest) = Math.DivRem(elements, (long)grid.Tokens * channels);
        return rest == 0
            ? batch
            : throw new ArgumentException(
                $"{name}: {elements} elements are not images of {grid.Height} x {grid.Width} tokens of {channels}", name);
    }

    private static void CheckGrid(PoolGrid grid)
    {
        if (grid.Cells == 0)
            throw new ArgumentException("grid: a default value; make one by PoolGrid.Window or ToGrid", nameof(grid));
    }

    // Everything is checked before the first write.
    private static unsafe void Run(
        in TokenPoolWork work, string source, string destination, AuxDevice device, AuxBackend backend, bool backward, nint stream = 0)
    {
        if (!Types.Contains(work.DType))
            throw new ArgumentException($"{source}: {work.DType.Name()}, but float32, bfloat16 or float16 is needed", source);
        backend = Support.Resolve(backend, device);
        var (all, few) = (work.Batch * work.Grid.Tokens * work.Channels, work.Batch * work.Grid.Cells * work.Channels);
        var size = work.DType.Size();
        TensorArguments.RequireDisjoint(
            NamedMemory.Read(source, work.Source, (backward ? few : all) * size),
            NamedMemory.Written(destination, work.Destination, (backward ? all : few) * size));
        if (backend == AuxBackend.Reference)
            RunReference(work, backward);
        else if (backend == AuxBackend.Cuda)
            RunCuda(work, backward, device, stream);
        else if (backend == AuxBackend.Ilgpu && IlgpuShim.IsSupported)
            RunIlgpu(work, backward, device, stream);
        else
            RunCpu(work, backward);
        Support.Count(backend);
    }

    /// <summary>The operands of one call: from tokens to cells, or back.</summary>
    private readonly unsafe struct TokenPoolWork(DType type, void* source, void* destination, long batch, int channels, PoolGrid grid)
    {
        public DType DType => type;

        public void* Source => source;

        public void* Destination => destination;

        public long Batch => batch;

        public int Channels => channels;

        public PoolGrid Grid => grid;

        /// <summary>Where a token begins.</summary>
        public long TokenAt(long image, int row, int column) => ((image * grid.Height + row) * grid.Width + column) * channels;

        /// <summary>Where a cell begins.</summary>
        public long CellAt(long image, int row, int column) => ((image * grid.Rows + row) * grid.Columns + column) * channels;
    }
}
