using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// A vector of float32 lanes of one width. A loop written once over <typeparamref name="TSelf"/> serves 512, 256 and 128 bits and, through
/// <see cref="FloatVector1"/>, single elements: same operations, same roundings, same bits.
/// </summary>
internal unsafe partial interface IFloatVector<TSelf> where TSelf : struct, IFloatVector<TSelf>
{
    static abstract int Count { get; }

    static abstract TSelf Broadcast(float value);

    /// <summary>
    /// Loads <see cref="Count"/> elements (float, <see cref="BFloat16"/> or <see cref="Half"/>, exactly widened); no alignment needed.
    /// </summary>
    static abstract TSelf Load<T>(T* source) where T : unmanaged;

    void Store(float* destination);

    /// <summary>Rounds to nearest, ties to even; a NaN becomes quiet. As the conversion of <see cref="BFloat16"/>.</summary>
    void Store(BFloat16* destination);

    /// <summary>Rounds by adding 16 bits below the place that is kept; a NaN becomes quiet.</summary>
    void Store(BFloat16* destination, ushort* bits);

    static abstract TSelf operator -(TSelf left, TSelf right);

    /// <summary>a · b + c with one rounding.</summary>
    static abstract TSelf MultiplyAdd(TSelf a, TSelf b, TSelf c);

    /// <summary>Lane by lane: <paramref name="then"/> where a equals b as numbers, else <paramref name="otherwise"/>.</summary>
    static abstract TSelf WhereEqual(TSelf a, TSelf b, TSelf then, TSelf otherwise);
}

/// <summary>How wide the CPU kernels' vectors are, in float32 lanes.</summary>
internal enum SimdWidth
{
    Scalar = 1,
    Bits128 = 4,
    Bits256 = 8,
    Bits512 = 16,
}
