using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The keys or the values of a cache: where each row lies. Steps are in bytes.</summary>
internal readonly unsafe struct KvPlane
{
    public required KvFormat Format { get; init; }

    public required byte* First { get; init; }

    /// <summary>From one sequence, or page, to the next.</summary>
    public required long OuterStep { get; init; }

    /// <summary>From one head to the next; 0 where a page holds one head.</summary>
    public required long HeadStep { get; init; }

    public required long RowBytes { get; init; }

    public required long OuterCount { get; init; }

    public required int KvHeads { get; init; }

    public required int HeadDim { get; init; }

    /// <summary>Positions of a head that lie side by side: Nmax, or those of a page.</summary>
    public required int Positions { get; init; }

    /// <summary>Null for a contiguous cache.</summary>
    public int* PageOffsets { get; init; }

    public int* Pages { get; init; }

    public bool PagesAreOfHeads { get; init; }

    /// <summary>
    /// For <see cref="KvFormat.Kivi4"/>, null for the others: float32 [B, Hkv, <see cref="RingPositions"/>, d], the rows of the latest
    /// positions, each at its remainder.
    /// </summary>
    public float* Ring { get; init; }

    public int RingPositions { get; init; }

    /// <summary>Whether groups go over positions rather than over the elements of a row: KIVI's keys.</summary>
    public bool IsBlocked { get; init; }

    public float* Scales { get; init; }

    /// <summary>0 for formats without, 1 for all heads, or one a head.</summary>
    public int ScaleCount { get; init; }

    /// <summary>Bytes between the first and the last of one sequence or page, both counted.</summary>
    public long InnerExtent => (PagesAreOfHeads ? 0 : KvHeads - 1) * HeadStep + Positions * RowBytes;

    /// <summary>The stretches that sequences or pages are.</summary>
    public StridedMemory Memory => new(First, OuterStep, OuterCount, InnerExtent);

    /// <summary>Bytes between the first and the last of all, both counted.</summary>
    public long Extent => (OuterCount - 1) * OuterStep + InnerExtent;

    public static KvPlane Of(
        in KvCacheViews cache, in TensorView rows, KvFormat format, in TensorView scales, in TensorView residual, int kvHeads,
        int headDim, bool isKeys)
    {
        var (strides, size) = (rows.Strides(), rows.DType.Size());
        var ofHeads = cache.IsPaged && kvHeads > 1 && rows.Shape[1] == 1;
        return new()
        {
            Format = format,
            First = (byte*)rows.Address,
            OuterStep = strides[0] * size,
            HeadStep = ofHeads ? 0 : strides[1] * size,
            RowBytes = format.ByteCount(headDim),
            OuterCount = rows.Shape[0],
            KvHeads = kvHeads,
            HeadDim = headDim,
            Positions = (int)rows.Shape[2],
            PageOffsets = (int*)cache.PageOffsets.Address,
            Pages = (int*)cache.Pages.Address,
            PagesAreOfHeads = ofHeads,
            Ring = (float*)residual.Address,
            RingPositions = TensorArguments.IsWanted(residual) ? (int)residual.Shape[2] : 0,
            IsBlocked = isKeys && format == KvFormat.Kivi4,
            Scales = (float*)scales.Address,
            ScaleCount = TensorArguments.IsWanted(scales) ? (int)scales.ElementCount : 0,
        };
    }

    /// <summary>Positions that are never quantised, counted from the latest: the window of KIVI.</summary>
    public int Window => RingPositions - KiviGroup.Elements;

    /// <summary>How many of a head's first positions are stored in the format; those after them are in the ring.</summary>
    public int Quantised(int length) => Ring == null ? length : KiviRing.Quantised(length, Window, IsBlocked);

    /// <summary>The row of a position in the ring, and how many lie side by side from there on.</summary>
    public float* RingRows(int b, int kvHead, int position, out int count)
    {
        position %= RingPositions;
        count = RingPositions - position;
        return Ring + (((long)b * KvHeads + kvHead) * RingPositions + position) * HeadDim;
    }

    public float Scale(int kvHead) => ScaleCount == 0 ? 1 : Scales[ScaleCount == 1 ? 0 : kvHead];

    public int Capacity(int b, int kvHead)
    {
        if (PageOffsets == null)
            return Positions;
        var table = Table(b, kvHead);
        return (int)Math.Min((long)(PageOffsets[table + 1] - PageOffsets[table]) * Positions, int.MaxValue);
    }

    /// <summary>The row of a position.</summary>
    public byte* Row(int b, int kvHead, int position) => Rows(b, kvHead, position, out _);

    /// <summary>The row of a position, and how many positions lie side by side from there on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* Rows(int b, int kvHead, int position, out int count)
    {
        long outer = b;
        if (PageOffsets != null)
        {
            var (page, within) = Math.DivRem(position, Positions);
            (outer, position) = (Pages[PageOffsets[Table(b, kvHead)] + page], within);
        }

        count = Positions - position;
        return First + outer * OuterStep + kvHead * HeadStep + position * RowBytes;
    }

    private int Table(int b, int kvHead) => PagesAreOfHeads ? b * KvHeads + kvHead : b;
}
