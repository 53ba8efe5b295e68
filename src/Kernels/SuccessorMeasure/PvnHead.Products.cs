using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

/// <summary>
/// The products of <see cref="PvnHead"/>, for rows that are picked by index and weights that lie an action apart: what a plain matrix
/// product would need copies for. Twelve vectors of results stay in registers, four rows by three.
/// </summary>
internal static unsafe class HeadProducts<TVector> where TVector : struct, IFloatVector<TVector>
{
    /// <summary>Columns of a packed panel.</summary>
    public static int PanelColumns => 3 * TVector.Count;

    private const int TileRows = 4;
    private const int TileHeads = 3;

    // A block of heads, and four rows, stay in the first-level cache: 12 · 512 and 4 · 512 floats.
    private const int BlockHeads = 12;
    private const int BlockFeatures = 512;

    /// <summary>result[i, t] = x[rows[i]] · heads[t].</summary>
    /// <param name="x">[…, features].</param>
    /// <param name="rows">Which rows of x; null for 0, 1, ….</param>
    /// <param name="count">How many.</param>
    /// <param name="heads">The first head.</param>
    /// <param name="headStep">Floats from one head to the next.</param>
    /// <param name="headCount">How many.</param>
    /// <param name="features">Floats of a row and of a head.</param>
    /// <param name="result">[count, headCount], row-major.</param>
    public static void Project(float* x, int* rows, int count, float* heads, long headStep, int headCount, int features, float* result)
    {
        var places = stackalloc float*[TileRows];
        for (var from = 0; from < features; from += BlockFeatures)
        {
            var length = Math.Min(BlockFeatures, features - from);
            for (var block = 0; block < headCount; block += BlockHeads)
            {
                var blockEnd = Math.Min(headCount, block + BlockHeads);
                for (var i = 0; i < count; i += TileRows)
                {
                    var tileRows = Math.Min(TileRows, count - i);
                    for (var r = 0; r < TileRows; r++)
                    {
                        var row = i + Math.Min(r, tileRows - 1); // what is missing repeats the last row, and is not stored
                        places[r] = x + (long)(rows == null ? row : rows[row]) * features + from;
                    }

                    for (var t = block; t < blockEnd; t += TileHeads)
                        Dots(
                            places, tileRows, heads + t * headStep + from, headStep, Math.Min(TileHeads, blockEnd - t), length,
                            result + (long)i * headCount + t, headCount, isFirst: from == 0);
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Dots(
        float** rows, int rowCount, float* head, long headStep, int headCount, int length, float* result, long resultStep, bool isFirst)
    {
        float* x0 = rows[0], x1 = rows[1], x2 = rows[2], x3 = rows[3];
        float* w0 = head, w1 = headCount > 1 ? head + headStep : head, w2 = headCount > 2 ? head + 2 * headStep : head;
        var zero = TVector.Broadcast(0);
        TVector s00 = zero, s01 = zero, s02 = zero, s10 = zero, s11 = zero, s12 = zero;
        TVector s20 = zero, s21 = zero, s22 = zero, s30 = zero, s31 = zero, s32 = zero;
        nint f = 0;
        for (; f <= length - TVector.Count; f += TVector.Count)
        {
            var (a, b, c) = (TVector.Load(w0 + f), TVector.Load(w1 + f), TVector.Load(w2 + f));
            var x = TVector.Load(x0 + f);
            s00 = TVector.MultiplyAdd(x, a, s00);
            s01 = TVector.MultiplyAdd(x, b, s01);
            s02 = TVector.MultiplyAdd(x, c, s02);
            x = TVector.Load(x1 + f);
            s10 = TVector.MultiplyAdd(x, a, s10);
            s11 = TVector.MultiplyAdd(x, b, s11);
            s12 = TVector.MultiplyAdd(x, c, s12);
            x = TVector.Load(x2 + f);
            s20 = TVector.MultiplyAdd(x, a, s20);
            s21 = TVector.MultiplyAdd(x, b, s21);
            s22 = TVector.MultiplyAdd(x, c, s22);
            x = TVector.Load(x3 + f);
            s30 = TVector.MultiplyAdd(x, a, s30);
            s31 = TVector.MultiplyAdd(x, b, s31);
            s32 = TVector.MultiplyAdd(x, c, s32);
        }

        var rest = (int)(length - f);
        Store(s00, s01, s02, x0 + f, w0 + f, w1 + f, w2 + f, rest, result, headCount, isFirst);
        if (rowCount > 1)
            Store(s10, s11, s12, x1 + f, w0 + f, w1 + f, w2 + f, rest, result + resultStep, headCount, isFirst);
        if (rowCount > 2)
            Store(s20, s21, s22, x2 + f, w0 + f, w1 + f, w2 + f, rest, result + 2 * resultStep, headCount, isFirst);
        if (rowCount > 3)
            Store(s30, s31, s32, x3 + f, w0 + f, w1 + f, w2 + f, rest, result + 3 * resultStep, headCount, isFirst);
    }

    // The lanes' sum, then what is too short for a vector, then what earlier blocks of features gave.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(
        TVector a, TVector b, TVector c, float* x, float* w0, float* w1, float* w2, int rest, float* result, int count, bool isFirst)
    {
        result[0] = (isFirst ? 0 : result[0]) + (TVector.Sum(a) + Dot(x, w0, rest));
        if (count > 1)
            result[1] = (isFirst ? 0 : result[1]) + (TVector.Sum(b) + Dot(x, w1, rest));
        if (count > 2)
            result[2] = (isFirst ? 0 : result[2]) + (TVector.Sum(c) + Dot(x, w2, rest));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Dot(float* left, float* right, int count)
    {
        var sum = 0f;
        for (var i = 0; i < count; i++)
            sum = MathF.FusedMultiplyAdd(left[i], right[i], sum);
        return sum;
    }

    /// <summary>Copies some columns of some rows side by side into a panel; columns that are missing become 0.</summary>
    /// <param name="source">The first column of row 0.</param>
    /// <param name="step">Floats from one row to the next.</param>
    /// <param name="rows">Which rows; null for 0, 1, ….</param>
    /// <param name="count">How many.</param>
    /// <param name="columns">At most <see cref="PanelColumns"/>.</param>
    /// <param name="panel">[count, <see cref="PanelColumns"/>].</param>
    public static void Pack(float* source, long step, int* rows, int count, int columns, float* panel)
    {
        for (var k = 0; k < count; k++, panel += PanelColumns)
        {
            var from = source + (rows == null ? k : rows[k]) * step;
            if (columns == PanelColumns)
            {
                TVector.Load(from).Store(panel);
                TVector.Load(from + TVector.Count).Store(panel + TVector.Count);
                TVector.Load(from + 2 * TVector.Count).Store(panel + 2 * TVector.Count);
                continue;
            }

            for (var i = 0; i < PanelColumns; i++)
                panel[i] = i < columns ? from[i] : 0;
        }
    }

    /// <summary>result[i, j] = Σ over k of left[i, k] · panel[k, j], one fused multiply-add after the other.</summary>
    /// <param name="left">Element [i, k] lies at left + i · leftRowStep + k · leftDepthStep.</param>
    /// <param name="leftRowStep">See left.</param>
    /// <param name="leftDepthStep">See left.</param>
    /// <param name="rows">Rows of the result.</param>
    /// <param name="panel">A packed panel.</param>
    /// <param name="depth">Its rows.</param>
    /// <param name="columns">How many of the panel's columns there are.</param>
    /// <param name="result">The first of the panel's columns in row 0 of the result.</param>
    /// <param name="resultRows">Where row i of the result lies, counted in rows; null for 0, 1, ….</param>
    /// <param name="resultStep">Floats from one row of the result to the next.</param>
    public static void Multiply(
        float* left, long leftRowStep, long leftDepthStep, int rows, float* panel, int depth, int columns,
        float* result, int* resultRows, long resultStep)
    {
        var partial = stackalloc float[TileRows * 3 * 16];
        var places = stackalloc float*[TileRows];
        for (var i = 0; i < rows; i += TileRows)
        {
            var tileRows = Math.Min(TileRows, rows - i);
            for (var r = 0; r < TileRows; r++)
                places[r] = columns < PanelColumns || r >= tileRows
                    ? partial + r * PanelColumns
                    : result + (resultRows == null ? i + r : resultRows[i + r]) * resultStep;
            Tile(left + i * leftRowStep, leftRowStep, leftDepthStep, tileRows, panel, depth, places);
            for (var r = 0; columns < PanelColumns && r < tileRows; r++)
                new ReadOnlySpan<float>(places[r], columns).CopyTo(
                    new(result + (resultRows == null ? i + r : resultRows[i + r]) * resultStep, columns));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile(float* left, long rowStep, long depthStep, int rows, float* panel, int depth, float** places)
    {
        float* a0 = left, a1 = rows > 1 ? left + rowStep : left;
        float* a2 = rows > 2 ? left + 2 * rowStep : left, a3 = rows > 3 ? left + 3 * rowStep : left;
        var zero = TVector.Broadcast(0);
        TVector s00 = zero, s01 = zero, s02 = zero, s10 = zero, s11 = zero, s12 = zero;
        TVector s20 = zero, s21 = zero, s22 = zero, s30 = zero, s31 = zero, s32 = zero;
        for (nint k = 0, at = 0; k < depth; k++, at += (nint)depthStep, panel += PanelColumns)
        {
            var (b0, b1) = (TVector.Load(panel), TVector.Load(panel + TVector.Count));
            var b2 = TVector.Load(panel + 2 * TVector.Count);
            var x = TVector.Broadcast(a0[at]);
            s00 = TVector.MultiplyAdd(x, b0, s00);
            s01 = TVector.MultiplyAdd(x, b1, s01);
            s02 = TVector.MultiplyAdd(x, b2, s02);
            x = TVector.Broadcast(a1[at]);
            s10 = TVector.MultiplyAdd(x, b0, s10);
            s11 = TVector.MultiplyAdd(x, b1, s11);
            s12 = TVector.MultiplyAdd(x, b2, s12);
            x = TVector.Broadcast(a2[at]);
            s20 = TVector.MultiplyAdd(x, b0, s20);
            s21 = TVector.MultiplyAdd(x, b1, s21);
            s22 = TVector.MultiplyAdd(x, b2, s22);
            x = TVector.Broadcast(a3[at]);
            s30 = TVector.MultiplyAdd(x, b0, s30);
            s31 = TVector.MultiplyAdd(x, b1, s31);
            s32 = TVector.MultiplyAdd(x, b2, s32);
        }

        StoreRow(places[0], s00, s01, s02);
        StoreRow(places[1], s10, s11, s12);
        StoreRow(places[2], s20, s21, s22);
        StoreRow(places[3], s30, s31, s32);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreRow(float* to, TVector a, TVector b, TVector c)
    {
        a.Store(to);
        b.Store(to + TVector.Count);
        c.Store(to + 2 * TVector.Count);
    }
}
