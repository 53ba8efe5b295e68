using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using ILGPU;

namespace AuxCore.Kernels;

/// <summary>
/// TokenCompact's device code for ILGPU, for elements of sixteen bytes and less: a launch a tensor. Nothing is computed. What is copied
/// elsewhere has a thread an element; in place, where rows move towards the beginning, a thread takes an element of all rows of a strip in
/// their order, so that whatever it overwrites, it has read.
/// </summary>
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal static class TokenCompactKernel
{
    /// <summary>Threads of a block; on a device with smaller ones, a warp.</summary>
    public const int Threads = 256;

    /// <summary>Rows into other memory; zero where the map names none.</summary>
    public static void Copy<T>(TokenRowsViews<T> views) where T : unmanaged
    {
        var at = (long)Grid.IdxX * Group.DimX + Group.IdxX;
        if (at >= views.Units)
            return;
        var rest = at / views.RowLength;
        var element = at - rest * views.RowLength;
        var number = rest / views.DestinationTokens;
        var row = (int)(rest - number * views.DestinationTokens);
        var strip = StripOf(views, number);
        if (row >= strip.Count && views.ClearsRest == 0)
            return;
        var from = SourceRow(views, strip, row);
        views.Destination[strip.Destination + row * views.DestinationStep + element] =
            from < 0 ? default : views.Source[strip.Source + from * views.SourceStep + element];
    }

    /// <summary>Rows within their own memory.</summary>
    public static void Move<T>(TokenRowsViews<T> views) where T : unmanaged
    {
        var at = (long)Grid.IdxX * Group.DimX + Group.IdxX;
        if (at >= views.Units)
            return;
        var number = at / views.RowLength;
        var element = at - number * views.RowLength;
        var strip = StripOf(views, number);
        var end = views.ClearsRest != 0 ? views.DestinationTokens : strip.Count;
        for (var row = 0; row < end; row++)
        {
            var from = SourceRow(views, strip, row);
            views.Destination[strip.Destination + row * views.DestinationStep + element] =
                from < 0 ? default : views.Source[strip.Source + from * views.SourceStep + element];
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static RowStrip StripOf<T>(TokenRowsViews<T> views, long number) where T : unmanaged
    {
        // The last dimension is the fastest.
        var rest = number / views.Last.Size;
        var last = number - rest * views.Last.Size;
        var first = rest / views.Middle.Size;
        var middle = rest - first * views.Middle.Size;
        var strip = new RowStrip
        {
            Source = first * views.First.SourceStep + middle * views.Middle.SourceStep + last * views.Last.SourceStep,
            Destination =
                first * views.First.DestinationStep + middle * views.Middle.DestinationStep + last * views.Last.DestinationStep,
        };

        // What device memory says is checked nowhere else: a strip's part of the map is held within it.
        var segment = (int)(views.SegmentDimension == 0 ? first : views.SegmentDimension == 1 ? middle : last);
        var hasSegments = views.SegmentDimension >= 0;
        var length = (int)views.Map.Length;
        strip.Begin = hasSegments ? Math.Max(0, Math.Min(views.Begins[segment], length)) : 0;
        var end = Math.Min(views.Begins[hasSegments ? segment + 1 : views.Segments], length);
        strip.Count = Math.Min(Math.Max(0, end - strip.Begin), views.DestinationTokens);
        strip.Base = hasSegments ? views.Bases[segment] : 0;
        return strip;
    }

    /// <summary>−1 where the row becomes zero.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static long SourceRow<T>(TokenRowsViews<T> views, RowStrip strip, int row) where T : unmanaged
    {
        if (row >= strip.Count)
            return -1;
        var from = (long)views.Map[strip.Begin + row] - strip.Base;
        return from >= 0 && from < views.SourceTokens ? from : -1;
    }

    private struct RowStrip
    {
        public long Source, Destination;
        public int Begin, Count, Base;
    }
}

/// <summary>A dimension of a tensor before its rows; steps in elements.</summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct RowDimension
{
    public long Size, SourceStep, DestinationStep;
}

/// <summary>
/// What the kernels work on. Destination row r of segment b is source row map[begins[b] + r] − bases[b]: the map is the indices, begins
/// are their offsets and bases the segments' bounds; backwards the slots, the bounds and the offsets. Steps are in elements.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct TokenRowsViews<T> where T : unmanaged
{
    public ArrayView<T> Source;
    public ArrayView<T> Destination;
    public ArrayView<int> Map;
    public ArrayView<int> Begins;
    public ArrayView<int> Bases;
    public RowDimension First, Middle, Last;

    /// <summary>From one token to the next.</summary>
    public long SourceStep, DestinationStep;

    /// <summary>Elements of a row.</summary>
    public long RowLength;

    /// <summary>Threads.</summary>
    public long Units;

    public int SourceTokens, DestinationTokens;
    public int Segments;

    /// <summary>−1 where segments have none.</summary>
    public int SegmentDimension;

    public int ClearsRest;
}
