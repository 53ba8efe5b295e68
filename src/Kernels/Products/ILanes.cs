using System.Numerics;

namespace AuxCore.Kernels;

/// <summary>
/// A vector of lanes of one width, float or double: what the blocked product and the loops around it are written over, once for all widths.
/// (<see cref="IFloatVector{TSelf}"/> is its counterpart for loops that stream 16-bit storage.)
/// </summary>
internal unsafe interface ILanes<TSelf, T>
    where TSelf : struct, ILanes<TSelf, T>
    where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    static abstract int Count { get; }

    static abstract TSelf Broadcast(T value);

    /// <summary>Loads <see cref="Count"/> elements; no alignment needed.</summary>
    static abstract TSelf Load(T* source);

    void Store(T* destination);

    static abstract TSelf operator +(TSelf left, TSelf right);

    static abstract TSelf operator -(TSelf left, TSelf right);

    static abstract TSelf operator *(TSelf left, TSelf right);

    static abstract TSelf operator /(TSelf left, TSelf right);

    /// <summary>a · b + c with one rounding.</summary>
    static abstract TSelf MultiplyAdd(TSelf a, TSelf b, TSelf c);

    /// <summary>The lesser, lane by lane; NaN where either is.</summary>
    static abstract TSelf Min(TSelf left, TSelf right);

    /// <summary>The greater, lane by lane; NaN where either is.</summary>
    static abstract TSelf Max(TSelf left, TSelf right);

    static abstract TSelf Abs(TSelf value);

    static abstract TSelf Sqrt(TSelf value);

    /// <summary>e to the power of each lane, within 2 units in the last place.</summary>
    static abstract TSelf Exp(TSelf value);

    /// <summary>Lane by lane: 0 where the condition is 0, else the value.</summary>
    static abstract TSelf ZeroWhereZero(TSelf value, TSelf condition);

    /// <summary>The sum of the lanes, in an order that depends on the width.</summary>
    T Sum();
}
