using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

/// <summary>How vectors are loaded from the rows of a cache in one format. A row's scales were widened before.</summary>
internal unsafe interface IKvRow
{
    /// <summary>Bytes of a row.</summary>
    static abstract long Bytes(int elements);

    /// <summary>Where, in a row, the vector from an element on begins.</summary>
    static abstract int Offset(int element);

    /// <summary>How many numbers <see cref="LoadScales"/> writes for a row.</summary>
    static abstract int Scales(int elements);

    /// <summary>Where the scale of an element is among those of its row.</summary>
    static abstract int ScaleOf(int element);

    /// <summary>Widens the scales of rows that follow each other.</summary>
    /// <param name="rows">The first row.</param>
    /// <param name="count">How many rows.</param>
    /// <param name="elements">Elements of a row.</param>
    /// <param name="headScale">The scale that the rows share, where the format has such a one.</param>
    /// <param name="scales">What is written.</param>
    static abstract void LoadScales(byte* rows, int count, int elements, float headScale, float* scales);

    /// <summary>A vector of elements of one group.</summary>
    /// <param name="at">Where it begins.</param>
    /// <param name="element">The first of them, within its row.</param>
    /// <param name="scale">Their scale.</param>
    static abstract TVector Load<TVector>(byte* at, int element, float* scale) where TVector : struct, IFloatVector<TVector>;
}

/// <summary>What the formats share.</summary>
internal static unsafe class KvRows
{
    /// <summary>Rows whose scales are widened at a time.</summary>
    public const int Tile = 64;

    /// <summary>The group that an element of a row is in. Without a sign, so that the division is a shift.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Group(int element) => (int)((uint)element / Q8Group.Elements);

    /// <summary>How many scales a row may have.</summary>
    public static int Groups(int elements) => (elements + Q8Group.Elements - 1) / Q8Group.Elements;

    /// <summary>
    /// How many floats hold the scales of a tile; more than there are, because whole vectors are stored. A group has two at most.
    /// </summary>
    public static long ScaleFloats(int elements) => 2L * Tile * Groups(elements) + FloatVector16.Count;

    /// <summary>Widens a binary16 at the head of each group.</summary>
    public static void LoadScales(byte* groups, int count, int groupBytes, float* scales)
    {
        const int Round = 64;
        var bits = stackalloc Half[Round];
        for (var from = 0; from < count; from += Round)
        {
            var some = Math.Min(Round, count - from);
            for (var i = 0; i < some; i++)
                ((ushort*)bits)[i] = *(ushort*)(groups + (long)(from + i) * groupBytes);
            for (var i = 0; i < some; i += FloatVector8.Count)
                FloatVector8.Load(bits + i).Store(scales + from + i);
        }
    }
}

/// <summary>Elements that stand for themselves.</summary>
internal readonly unsafe struct ElementRow<T> : IKvRow where T : unmanaged
{
    public static long Bytes(int elements) => (long)elements * sizeof(T);

    public static int Offset(int element) => element * sizeof(T);

    public static int Scales(int elements) => KvRows.Groups(elements);

    public static int ScaleOf(int element) => KvRows.Group(element);

    public static void LoadScales(byte* rows, int count, int elements, float headScale, float* scales)
    {
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TVector Load<TVector>(byte* at, int element, float* scale) where TVector : struct, IFloatVector<TVector> =>
        TVector.Load((T*)at);
}

/// <summary>FP8 E4M3, of a scale that a head's rows share.</summary>
internal readonly unsafe struct E4M3Row : IKvRow
{
    public static long Bytes(int elements) => elements;

    public static int Offset(int element) => element;

    public static int Scales(int elements) => KvRows.Groups(elements);

    public static int ScaleOf(int element) => KvRows.Group(element);

    public static void LoadScales(byte* rows, int count, int elements, float headScale, float* scales) =>
        new Span<float>(scales, count * KvRows.Groups(elements)).Fill(headScale);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TVector Load<TVector>(byte* at, int element, float* scale) where TVector : struct, IFloatVector<TVector> =>
        TVector.LoadE4M3(at) * TVector.Broadcast(*scale);
}

/// <summary>Groups of q8_0.</summary>
internal readonly unsafe struct Q8Row : IKvRow
{
    public static long Bytes(int elements) => (long)(elements / Q8Group.Elements) * Q8Group.Bytes;

    public static int Offset(int element) =>
        KvRows.Group(element) * Q8Group.Bytes + sizeof(ushort) + (int)((uint)element % Q8Group.Elements);

    public static int Scales(int elements) => KvRows.Groups(elements);

    public static int ScaleOf(int element) => KvRows.Group(element);

    public static void LoadScales(byte* rows, int count, int elements, float headScale, float* scales) =>
        KvRows.LoadScales(rows, count * (elements / Q8Group.Elements), Q8Group.Bytes, scales);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TVector Load<TVector>(byte* at, int element, float* scale) where TVector : struct, IFloatVector<TVector> =>
        TVector.LoadInt8((sbyte*)at) * TVector.Broadcast(*scale);
}

/// <summary>Groups of q4_0. The lower halves of the bytes are the first elements of a group, the upper ones the last.</summary>
internal readonly unsafe struct Q4Row : IKvRow
{
    private const int Half = Q4Group.Elements / 2;

    public static long Bytes(int elements) => (long)(elements / Q4Group.Elements) * Q4Group.Bytes;

    public static int Offset(int element) => KvRows.Group(element) * Q4Group.Bytes + sizeof(ushort) + (int)((uint)element % Half);

    public static int Scales(int elements) => KvRows.Groups(elements);

    public static int ScaleOf(int element) => KvRows.Group(element);

    public static void LoadScales(byte* rows, int count, int elements, float headScale, float* scales) =>
        KvRows.LoadScales(rows, count * (elements / Q4Group.Elements), Q4Group.Bytes, scales);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TVector Load<TVector>(byte* at, int element, float* scale) where TVector : struct, IFloatVector<TVector> =>
        TVector.LoadHalves(at, (int)((uint)element / Half % 2) * 4) * TVector.Broadcast(*scale);
}

/// <summary>Groups of KIVI-4, of a scale and a least element each.</summary>
internal readonly unsafe struct KiviRow : IKvRow
{
    private const int Half = KiviGroup.Elements / 2;

    public static long Bytes(int elements) => (long)(elements / KiviGroup.Elements) * KiviGroup.Bytes;

    public static int Offset(int element) => KvRows.Group(element) * KiviGroup.Bytes + 2 * sizeof(ushort) + (int)((uint)element % Half);

    public static int Scales(int elements) => 2 * KvRows.Groups(elements);

    public static int ScaleOf(int element) => 2 * KvRows.Group(element);

    public static void LoadScales(byte* rows, int count, int elements, float headScale, float* scales)
    {
        var groups = count * (elements / KiviGroup.Elements);
        var bits = stackalloc System.Half[KvRows.Tile];
        const int Round = KvRows.Tile / 2;
        for (var from = 0; from < groups; from += Round)
        {
            var some = Math.Min(Round, groups - from);
            for (var i = 0; i < some; i++)
                ((uint*)bits)[i] = *(uint*)(rows + (long)(from + i) * KiviGroup.Bytes);
            for (var i = 0; i < 2 * some; i += FloatVector8.Count)
                FloatVector8.Load(bits + i).Store(scales + 2 * from + i);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TVector Load<TVector>(byte* at, int element, float* scale) where TVector : struct, IFloatVector<TVector> =>
        TVector.MultiplyAdd(
            TVector.LoadHalves(at, (int)((uint)element / Half % 2) * 4) + TVector.Broadcast(8), TVector.Broadcast(scale[0]),
            TVector.Broadcast(scale[1]));
}
