using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using ILGPU;

namespace AuxCore.Kernels;

/// <summary>
/// TokenPool's device code for ILGPU: a thread a channel of a cell, or backwards of a token. Sums are in the order of
/// <c>TokenPool.Cpu.cs</c>, so the bits are its.
/// </summary>
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal static class TokenPoolKernel
{
    /// <summary>Threads of a block; on a device with smaller ones, a warp.</summary>
    public const int Threads = 256;

    /// <summary>Averages the tokens of each cell.</summary>
    public static void Pool(TokenPoolViews views)
    {
        var at = (long)Grid.IdxX * Group.DimX + Group.IdxX;
        if (at >= views.Units)
            return;
        var place = PlaceOf(at, views.Channels, views.Rows, views.Columns);
        var rows = TokensOf(place.Row, views.Height, views.Rows, views.WindowHeight);
        var columns = TokensOf(place.Column, views.Width, views.Columns, views.WindowWidth);
        var sum = -0f; // which adds nothing, not even a sign
        for (var row = rows.From; row < rows.To; row++)
        {
            for (var column = columns.From; column < columns.To; column++)
                sum += Read(views, ((place.Image * views.Height + row) * views.Width + column) * views.Channels + place.Channel);
        }

        Write(views, at, sum / (int)((rows.To - rows.From) * (columns.To - columns.From)));
    }

    /// <summary>Gives each token its share of the gradients of its cells.</summary>
    public static void Spread(TokenPoolViews views)
    {
        var at = (long)Grid.IdxX * Group.DimX + Group.IdxX;
        if (at >= views.Units)
            return;
        var place = PlaceOf(at, views.Channels, views.Height, views.Width);
        var rows = CellsOf(place.Row, views.Height, views.Rows, views.WindowHeight);
        var columns = CellsOf(place.Column, views.Width, views.Columns, views.WindowWidth);
        var sum = -0f;
        for (var row = rows.From; row < rows.To; row++)
        {
            var high = TokensOf(row, views.Height, views.Rows, views.WindowHeight);
            for (var column = columns.From; column < columns.To; column++)
            {
                var wide = TokensOf(column, views.Width, views.Columns, views.WindowWidth);
                var cell = Read(views, ((place.Image * views.Rows + row) * views.Columns + column) * views.Channels + place.Channel);
                sum += cell / (int)((high.To - high.From) * (wide.To - wide.From));
            }
        }

        Write(views, at, sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Place PlaceOf(long at, long channels, long rows, long columns)
    {
        var cell = at / channels;
        var line = cell / columns;
        var image = line / rows;
        return new() { Image = image, Row = line - image * rows, Column = cell - line * columns, Channel = at - cell * channels };
    }

    // PoolGrid's ranges. Nothing here is negative, so ILGPU's division by shifting is none.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Range TokensOf(long cell, long tokens, long cells, long window)
    {
        var range = new Range();
        if (window > 0)
        {
            range.From = cell * window;
            range.To = Math.Min(tokens, range.From + window);
        }
        else
        {
            range.From = cell * tokens / cells;
            range.To = ((cell + 1) * tokens + cells - 1) / cells;
        }

        return range;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Range CellsOf(long token, long tokens, long cells, long window)
    {
        var range = new Range();
        if (window > 0)
        {
            range.From = token / window;
            range.To = range.From + 1;
        }
        else
        {
            range.From = token * cells / tokens;
            range.To = ((token + 1) * cells - 1) / tokens + 1;
        }

        return range;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Read(TokenPoolViews views, long at)
    {
        if (views.Kind == FloatKind.Float32)
            return views.Source[at];
        uint bits = views.NarrowSource[at];
        return views.Kind == FloatKind.BFloat16 ? KernelMath.FromBFloat16(bits) : KernelMath.FromFloat16(bits);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Write(TokenPoolViews views, long at, float value)
    {
        if (views.Kind == FloatKind.Float32)
            views.Destination[at] = value;
        else
            views.NarrowDestination[at] =
                (ushort)(views.Kind == FloatKind.BFloat16 ? KernelMath.ToBFloat16(value) : KernelMath.ToFloat16(value));
    }

    private struct Place
    {
        public long Image, Row, Column, Channel;
    }

    private struct Range
    {
        public long From, To;
    }
}

/// <summary>What the kernels work on; of the two views of a tensor one is empty.</summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct TokenPoolViews
{
    public ArrayView<float> Source;
    public ArrayView<ushort> NarrowSource;
    public ArrayView<float> Destination;
    public ArrayView<ushort> NarrowDestination;

    /// <summary>Threads: elements of the destination.</summary>
    public long Units;

    public int Height, Width, Channels, Rows, Columns;

    /// <summary>0 where cells are a share of the grid.</summary>
    public int WindowHeight, WindowWidth;

    public FloatKind Kind;
}
