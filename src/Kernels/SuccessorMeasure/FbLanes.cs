using System.Numerics;

namespace AuxCore.Kernels;

/// <summary>Loops over padded rows that both forms of <see cref="ForwardBackwardLoss"/> use.</summary>
internal static unsafe class FbLanes<T, TLanes>
    where T : unmanaged, IBinaryFloatingPointIeee754<T>
    where TLanes : struct, ILanes<TLanes, T>
{
    /// <summary>The sum of some rows that lie <paramref name="apart"/> elements from each other.</summary>
    public static void Sum(T* first, long apart, int count, T* sum, int step)
    {
        for (var k = 0; k < step; k += TLanes.Count)
        {
            var total = TLanes.Load(first + k);
            for (var e = 1; e < count; e++)
                total += TLanes.Load(first + e * apart + k);
            total.Store(sum + k);
        }
    }

    /// <summary>γ_i times the mean of the heads of F̄_i, padded; zero where the transition is terminal, without reading F̄.</summary>
    public static void Target<TIn>(in FbWork work, int i, T* spare, T* target, int step)
        where TIn : unmanaged
    {
        var discount = work.DiscountOf(i);
        if (discount == 0)
        {
            Rows.Zero(target, step);
            return;
        }

        var (n, d) = (work.Count, work.Dimension);
        var scale = TLanes.Broadcast(T.CreateTruncating(discount / work.Heads));
        Rows.Zero(target, step);
        for (var e = 0; e < work.Heads; e++)
        {
            Rows.Copy((TIn*)work.TargetForward + ((long)e * n + i) * d, spare, d, step);
            for (var k = 0; k < step; k += TLanes.Count)
                TLanes.MultiplyAdd(scale, TLanes.Load(spare + k), TLanes.Load(target + k)).Store(target + k);
        }
    }

    /// <summary>row += factor · other.</summary>
    public static void AddScaled(T* row, T* other, double factor, int step)
    {
        var scale = TLanes.Broadcast(T.CreateTruncating(factor));
        for (var k = 0; k < step; k += TLanes.Count)
            TLanes.MultiplyAdd(scale, TLanes.Load(other + k), TLanes.Load(row + k)).Store(row + k);
    }

    /// <summary>row *= factor.</summary>
    public static void Scale(T* row, T factor, int step)
    {
        var scale = TLanes.Broadcast(factor);
        for (var k = 0; k < step; k += TLanes.Count)
            (TLanes.Load(row + k) * scale).Store(row + k);
    }

    /// <summary>The dot product of two padded rows.</summary>
    public static T Dot(T* left, T* right, int step)
    {
        var sum = TLanes.Broadcast(T.Zero);
        for (var k = 0; k < step; k += TLanes.Count)
            sum = TLanes.MultiplyAdd(TLanes.Load(left + k), TLanes.Load(right + k), sum);
        return sum.Sum();
    }

    /// <summary>
    /// Differences of products and their one target, in the products' place, over a tile of <paramref name="rows"/> rows of lanes.
    /// </summary>
    /// <param name="products">F^e_i·B_j of each head: blocks that lie <paramref name="apart"/> elements from each other.</param>
    /// <param name="targets">γ_i F̄^e_i·B̄_j of each head, likewise.</param>
    /// <param name="heads">E.</param>
    /// <param name="rows">Rows of the tile.</param>
    /// <param name="lanes">Elements of a row.</param>
    /// <param name="apart">From one head to the next.</param>
    /// <param name="options">How targets become one.</param>
    /// <returns>The sum of the squares: lane by lane over the rows, then in double over lanes and heads.</returns>
    public static double Differences(T* products, T* targets, int heads, int rows, int lanes, long apart, FbOptions options)
    {
        var sum = 0.0;
        var squares = stackalloc T[TLanes.Count];
        for (var lane = 0; lane < lanes; lane += TLanes.Count)
        {
            // The target takes the place of the first head's.
            for (var row = 0; row < rows; row++)
            {
                var at = (long)row * lanes + lane;
                Combine(targets + at, apart, heads, options).Store(targets + at);
            }

            for (var e = 0; e < heads; e++)
            {
                var total = TLanes.Broadcast(T.Zero);
                for (var row = 0; row < rows; row++)
                {
                    var at = (long)row * lanes + lane;
                    var difference = TLanes.Load(products + e * apart + at) - TLanes.Load(targets + at);
                    difference.Store(products + e * apart + at);
                    total = TLanes.MultiplyAdd(difference, difference, total);
                }

                total.Store(squares);
                for (var k = 0; k < TLanes.Count; k++)
                    sum += double.CreateTruncating(squares[k]);
            }
        }

        return sum;
    }

    /// <summary>The heads' one target; a NaN of any head is in it.</summary>
    public static TLanes Combine(T* targets, long apart, int heads, FbOptions options)
    {
        var first = TLanes.Load(targets);
        if (heads == 1)
            return first;
        if (options.Target == FbTarget.Minimum)
        {
            for (var e = 1; e < heads; e++)
                first = TLanes.Min(first, TLanes.Load(targets + e * apart));
            return first;
        }

        var (sum, disagreement) = (first, TLanes.Broadcast(T.Zero));
        for (var e = 1; e < heads; e++)
        {
            var own = TLanes.Load(targets + e * apart);
            sum += own;
            for (var other = 0; other < e; other++)
                disagreement += TLanes.Abs(own - TLanes.Load(targets + other * apart));
        }

        var mean = sum * TLanes.Broadcast(T.CreateTruncating(1.0 / heads));
        var penalty = -2 * options.Penalty / (heads * (heads - 1));
        return options.TargetIsMean ? mean : TLanes.MultiplyAdd(TLanes.Broadcast(T.CreateTruncating(penalty)), disagreement, mean);
    }

    /// <summary>row += added, or row = added, where the row is as long as it is and <paramref name="added"/> is padded.</summary>
    public static void AddRow(T* row, T* added, int count, bool overwrite)
    {
        if (overwrite)
        {
            Rows.Copy(added, row, count, count);
            return;
        }

        var k = 0;
        for (; k <= count - TLanes.Count; k += TLanes.Count)
            (TLanes.Load(row + k) + TLanes.Load(added + k)).Store(row + k);
        for (; k < count; k++)
            row[k] += added[k];
    }
}
