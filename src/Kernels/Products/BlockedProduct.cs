using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace AuxCore.Kernels;

/// <summary>The left factor of a product by its strides: element [r, k] lies at address + r · rowStep + k · depthStep.</summary>
internal readonly unsafe struct Factor<T>(T* address, nint rowStep, nint depthStep)
    where T : unmanaged
{
    public T* Address => address;

    public nint RowStep => rowStep;

    public nint DepthStep => depthStep;

    /// <summary>A row-major block as it is.</summary>
    public static Factor<T> Rows(T* address, nint step) => new(address, step, 1);

    /// <summary>A row-major block transposed.</summary>
    public static Factor<T> Columns(T* address, nint step) => new(address, 1, step);
}

/// <summary>Which of every <see cref="Parts"/> bands of rows a thread does; each element of a product is one thread's.</summary>
internal readonly record struct RowShare(int Part, int Parts)
{
    public static RowShare Whole => new(0, 1);
}

/// <summary>
/// C += A · B in float or double, the one product of the CPU kernels: for Grams, and for tiles whose results are used where they lie in the
/// cache. Large plain products are libtorch's.
/// </summary>
/// <remarks>
/// <para>Twelve vectors of C stay in registers, four rows by three, and take one fused multiply-add each for every k. The right factor is
/// row-major and is read where it lies; the left one has any strides. So nothing is repacked: callers lay out their blocks, whose rows are
/// <see cref="RowStep"/> elements apart.</para>
/// <para>Each element is summed over k in blocks of <see cref="DepthBlock"/>, in order, from zero, and each block is added to C. That order
/// depends on neither the vector width nor the number of threads.</para>
/// </remarks>
internal static unsafe class BlockedProduct<T, TLanes>
    where T : unmanaged, IBinaryFloatingPointIeee754<T>
    where TLanes : struct, ILanes<TLanes, T>
{
    /// <summary>A panel of this many rows by three vectors of 64 bytes is 24 KB: it stays in the first-level cache.</summary>
    public const int DepthBlock = 128;

    private const int BandRows = 4;
    private const int CacheLine = 64;

    /// <summary>
    /// Elements from one row of a block to the next: whole cache lines, so that vectors may run over the end of a row, and an odd number of
    /// them, so that the rows of a panel do not all want the same few places of the cache.
    /// </summary>
    public static int RowStep(int columns) => ((columns * sizeof(T) + CacheLine - 1) / CacheLine | 1) * (CacheLine / sizeof(T));

    /// <summary>Whether rows of exactly this many columns can be a right factor or a result without padding.</summary>
    public static bool Fits(int columns) => columns % TLanes.Count == 0;

    /// <summary>C += A · B. Rows of B and C are padded to whole vectors; what lies in the padding of C afterwards means nothing.</summary>
    /// <param name="rows">Rows of A and C.</param>
    /// <param name="columns">Columns of B and C.</param>
    /// <param name="depth">Columns of A and rows of B.</param>
    /// <param name="a">The left factor.</param>
    /// <param name="b">The right factor, row-major.</param>
    /// <param name="bStep">Elements from one row of B to the next.</param>
    /// <param name="c">The result, row-major; it overlaps neither factor.</param>
    /// <param name="cStep">Elements from one row of C to the next.</param>
    public static void Add(int rows, int columns, int depth, Factor<T> a, T* b, nint bStep, T* c, nint cStep) =>
        Add(rows, columns, depth, a, b, bStep, c, cStep, upper: false, RowShare.Whole);

    /// <summary>A thread's share of the same.</summary>
    public static void Add(int rows, int columns, int depth, Factor<T> a, T* b, nint bStep, T* c, nint cStep, RowShare share) =>
        Add(rows, columns, depth, a, b, bStep, c, cStep, upper: false, share);

    /// <summary>
    /// A thread's share of C += XᵀX for a block X of <paramref name="depth"/> rows: the upper triangle is right, what is below is anything.
    /// </summary>
    public static void AddGram(int columns, int depth, T* x, nint step, T* c, nint cStep, RowShare share) =>
        Add(columns, columns, depth, Factor<T>.Columns(x, step), x, step, c, cStep, upper: true, share);

    private static void Add(
        int rows, int columns, int depth, Factor<T> a, T* b, nint bStep, T* c, nint cStep, bool upper, RowShare share)
    {
        for (var from = 0; from < depth; from += DepthBlock)
        {
            var block = Math.Min(DepthBlock, depth - from);
            var left = new Factor<T>(a.Address + from * a.DepthStep, a.RowStep, a.DepthStep);
            AddBlock(rows, columns, block, left, b + from * bStep, bStep, c, cStep, upper, share);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddBlock(
        int rows, int columns, int depth, Factor<T> a, T* b, nint bStep, T* c, nint cStep, bool upper, RowShare share)
    {
        var vectors = (columns + TLanes.Count - 1) / TLanes.Count;
        for (var at = 0; at < vectors;)
        {
            // Never one vector alone after three: it would wait for its own sums.
            var take = vectors - at == 4 ? 2 : Math.Min(3, vectors - at);
            var end = upper ? Math.Min(rows, (at + take) * TLanes.Count) : rows;
            for (var row = share.Part * BandRows; row < end; row += share.Parts * BandRows)
            {
                var band = Math.Min(BandRows, rows - row);
                var left = a.Address + row * a.RowStep;
                var right = b + at * TLanes.Count;
                var to = c + row * cStep + at * TLanes.Count;
                if (take == 3)
                    Tile<Three>(left, a.RowStep, a.DepthStep, right, bStep, depth, to, cStep, band);
                else if (take == 2)
                    Tile<Two>(left, a.RowStep, a.DepthStep, right, bStep, depth, to, cStep, band);
                else
                    Tile<One>(left, a.RowStep, a.DepthStep, right, bStep, depth, to, cStep, band);
            }

            at += take;
        }
    }

    private interface ISize
    {
        static abstract int Vectors { get; }
    }

    private readonly struct One : ISize
    {
        public static int Vectors => 1;
    }

    private readonly struct Two : ISize
    {
        public static int Vectors => 2;
    }

    private readonly struct Three : ISize
    {
        public static int Vectors => 3;
    }

    /// <summary>Four rows of up to three vectors. Rows beyond <paramref name="rows"/> repeat the first and are not stored.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile<TSize>(
        T* a, nint rowStep, nint depthStep, T* b, nint bStep, int depth, T* c, nint cStep, int rows)
        where TSize : struct, ISize
    {
        var a1 = rows > 1 ? a + rowStep : a;
        var a2 = rows > 2 ? a + 2 * rowStep : a;
        var a3 = rows > 3 ? a + 3 * rowStep : a;
        Prefetch<TSize>(c);
        Prefetch<TSize>(c + (rows > 1 ? cStep : 0));
        Prefetch<TSize>(c + (rows > 2 ? 2 * cStep : 0));
        Prefetch<TSize>(c + (rows > 3 ? 3 * cStep : 0));
        var zero = TLanes.Broadcast(T.Zero);
        TLanes c00 = zero, c01 = zero, c02 = zero, c10 = zero, c11 = zero, c12 = zero;
        TLanes c20 = zero, c21 = zero, c22 = zero, c30 = zero, c31 = zero, c32 = zero;
        for (nint k = 0, at = 0; k < depth; k++, at += depthStep)
        {
            var b0 = TLanes.Load(b);
            var b1 = TSize.Vectors > 1 ? TLanes.Load(b + TLanes.Count) : zero;
            var b2 = TSize.Vectors > 2 ? TLanes.Load(b + 2 * TLanes.Count) : zero;
            b += bStep;
            var x = TLanes.Broadcast(a[at]);
            c00 = TLanes.MultiplyAdd(x, b0, c00);
            if (TSize.Vectors > 1)
                c01 = TLanes.MultiplyAdd(x, b1, c01);
            if (TSize.Vectors > 2)
                c02 = TLanes.MultiplyAdd(x, b2, c02);
            x = TLanes.Broadcast(a1[at]);
            c10 = TLanes.MultiplyAdd(x, b0, c10);
            if (TSize.Vectors > 1)
                c11 = TLanes.MultiplyAdd(x, b1, c11);
            if (TSize.Vectors > 2)
                c12 = TLanes.MultiplyAdd(x, b2, c12);
            x = TLanes.Broadcast(a2[at]);
            c20 = TLanes.MultiplyAdd(x, b0, c20);
            if (TSize.Vectors > 1)
                c21 = TLanes.MultiplyAdd(x, b1, c21);
            if (TSize.Vectors > 2)
                c22 = TLanes.MultiplyAdd(x, b2, c22);
            x = TLanes.Broadcast(a3[at]);
            c30 = TLanes.MultiplyAdd(x, b0, c30);
            if (TSize.Vectors > 1)
                c31 = TLanes.MultiplyAdd(x, b1, c31);
            if (TSize.Vectors > 2)
                c32 = TLanes.MultiplyAdd(x, b2, c32);
        }

        AddRow<TSize>(c, c00, c01, c02);
        if (rows > 1)
            AddRow<TSize>(c + cStep, c10, c11, c12);
        if (rows > 2)
            AddRow<TSize>(c + 2 * cStep, c20, c21, c22);
        if (rows > 3)
            AddRow<TSize>(c + 3 * cStep, c30, c31, c32);
    }

    // The tile of C is on its way while its sums are formed; a large C comes from afar.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch<TSize>(T* c)
        where TSize : struct, ISize
    {
        if (!Sse.IsSupported)
            return;
        Sse.Prefetch0(c);
        if (TSize.Vectors > 1)
            Sse.Prefetch0(c + TLanes.Count);
        if (TSize.Vectors > 2)
            Sse.Prefetch0(c + 2 * TLanes.Count);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void AddRow<TSize>(T* c, TLanes first, TLanes second, TLanes third)
        where TSize : struct, ISize
    {
        (TLanes.Load(c) + first).Store(c);
        if (TSize.Vectors > 1)
            (TLanes.Load(c + TLanes.Count) + second).Store(c + TLanes.Count);
        if (TSize.Vectors > 2)
            (TLanes.Load(c + 2 * TLanes.Count) + third).Store(c + 2 * TLanes.Count);
    }
}
