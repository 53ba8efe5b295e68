using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenPool
{
    // A thread gets at least so many elements: some 20 us of work, which waking it must be worth.
    private const long MinimumElementsPerThread = 64 * 1024;

    // Sums of so many channels stay in the first-level cache.
    private const int TileChannels = 4096;

    private static void RunCpu(in TokenPoolWork work, bool backward)
    {
        var loops = Loops.For(CpuSimd.Width, work.DType, backward);
        var units = work.Batch * (backward ? work.Grid.Height : work.Grid.Rows);
        var threads = (int)Math.Min(
            ThreadTeam.Count(work.Batch * work.Grid.Tokens * work.Channels, MinimumElementsPerThread), Math.Max(1, units));
        if (threads == 1)
            loops.Run(work, 0, units);
        else
            RunInParallel(work, loops, units, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunInParallel(TokenPoolWork work, Loops loops, long units, int threads) =>
        ThreadTeam.Run(threads, part => loops.Run(work, units * part / threads, units * (part + 1) / threads));

    /// <summary>The loop over rows of cells, or of tokens, for one vector width and dtype.</summary>
    private readonly unsafe struct Loops(delegate*<in TokenPoolWork, long, long, void> run)
    {
        private readonly delegate*<in TokenPoolWork, long, long, void> _run = run;

        public static Loops For(SimdWidth width, DType type, bool backward) => width switch
        {
            SimdWidth.Bits512 => For<FloatVector16>(type, backward),
            SimdWidth.Bits256 => For<FloatVector8>(type, backward),
            SimdWidth.Bits128 => For<FloatVector4>(type, backward),
            _ => For<FloatVector1>(type, backward),
        };

        public void Run(in TokenPoolWork work, long from, long to) => _run(work, from, to);

        private static Loops For<TVector>(DType type, bool backward) where TVector : struct, IFloatVector<TVector> => type switch
        {
            DType.Float32 => backward ? new(&SpreadRows<TVector, float>) : new(&PoolRows<TVector, float>),
            DType.BFloat16 => backward ? new(&SpreadRows<TVector, BFloat16>) : new(&PoolRows<TVector, BFloat16>),
            _ => backward ? new(&SpreadRows<TVector, Half>) : new(&PoolRows<TVector, Half>),
        };
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void PoolRows<TVector, T>(in TokenPoolWork work, long from, long to)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var sums = stackalloc float[Math.Min(TileChannels, work.Channels)];
        for (var unit = from; unit < to; unit++)
        {
            var (image, row) = (unit / work.Grid.Rows, (int)(unit % work.Grid.Rows));
            var (top, bottom) = work.Grid.RowsOf(row);
            for (var column = 0; column < work.Grid.Columns; column++)
            {
                var (left, right) = work.Grid.ColumnsOf(column);
                var cell = (T*)work.Destination + work.CellAt(image, row, column);
                for (var first = 0; first < work.Channels; first += TileChannels)
                {
                    var channels = Math.Min(TileChannels, work.Channels - first);
                    for (var i = top; i < bottom; i++)
                    {
                        var tokens = (T*)work.Source + work.TokenAt(image, i, left) + first;
                        AddTokens<TVector, T>(tokens, right - left, work.Channels, channels, sums, begin: i == top);
                    }

                    Divide<TVector, T>(sums, channels, (bottom - top) * (right - left), cell + first);
                }
            }
        }
    }

    /// <summary>Adds tokens that lie side by side, four at a time, to sums that begin with the first of them all.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void AddTokens<TVector, T>(T* tokens, int count, int step, int channels, float* sums, bool begin)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        for (var at = 0; at < count;)
        {
            var together = count - at >= 4 ? 4 : 1;
            var token = tokens + (long)at * step;
            var k = 0;
            for (; k <= channels - TVector.Count; k += TVector.Count)
                Add<TVector, T>(token + k, step, together, sums + k, begin && at == 0);
            for (; k < channels; k++)
                Add<FloatVector1, T>(token + k, step, together, sums + k, begin && at == 0);
            at += together;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Add<TVector, T>(T* token, int step, int together, float* sums, bool begin)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var first = TVector.Load(token);
        var sum = begin ? first : TVector.Load(sums) + first;
        if (together == 4)
            sum = sum + TVector.Load(token + step) + TVector.Load(token + 2L * step) + TVector.Load(token + 3L * step);
        sum.Store(sums);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Divide<TVector, T>(float* sums, int channels, int count, T* cell)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var k = 0;
        for (var divisor = TVector.Broadcast(count); k <= channels - TVector.Count; k += TVector.Count)
            (TVector.Load(sums + k) / divisor).StoreAs(cell + k);
        for (; k < channels; k++)
            (FloatVector1.Load(sums + k) / FloatVector1.Broadcast(count)).StoreAs(cell + k);
    }

    private static unsafe void SpreadRows<TVector, T>(in TokenPoolWork work, long from, long to)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        for (var unit = from; unit < to; unit++)
        {
            var (image, row) = (unit / work.Grid.Height, (int)(unit % work.Grid.Height));
            for (var column = 0; column < work.Grid.Width; column++)
                SpreadToken<TVector, T>(work, image, row, column, (T*)work.Destination + work.TokenAt(image, row, column));
        }
    }

    private static unsafe void SpreadToken<TVector, T>(in TokenPoolWork work, long image, int row, int column, T* token)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        const int MostCells = 4; // cells are no smaller than tokens, so two along each side
        var cells = stackalloc T*[MostCells];
        var counts = stackalloc float[MostCells];
        var count = 0;
        for (var (i, lastRow) = work.Grid.CellRowsOf(row); i < lastRow; i++)
        {
            var (top, bottom) = work.Grid.RowsOf(i);
            for (var (j, lastColumn) = work.Grid.CellColumnsOf(column); j < lastColumn; j++)
            {
                var (left, right) = work.Grid.ColumnsOf(j);
                cells[count] = (T*)work.Source + work.CellAt(image, i, j);
                counts[count++] = (bottom - top) * (right - left);
            }
        }

        Spread<TVector, T>(cells, counts, count, token, work.Channels);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Spread<TVector, T>(T** cells, float* counts, int count, T* token, int channels)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var k = 0;
        for (; k <= channels - TVector.Count; k += TVector.Count)
            Sum<TVector, T>(cells, counts, count, k).StoreAs(token + k);
        for (; k < channels; k++)
            Sum<FloatVector1, T>(cells, counts, count, k).StoreAs(token + k);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe TVector Sum<TVector, T>(T** cells, float* counts, int count, int channel)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var sum = TVector.Load(cells[0] + channel) / TVector.Broadcast(counts[0]);
        for (var i = 1; i < count; i++)
            sum += TVector.Load(cells[i] + channel) / TVector.Broadcast(counts[i]);
        return sum;
    }
}
