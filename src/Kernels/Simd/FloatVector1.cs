using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>One float32: what is too short for a vector, and machines without any.</summary>
internal readonly unsafe partial struct FloatVector1(float lane) : IFloatVector<FloatVector1>
{
    private readonly float _lane = lane;

    public static int Count => 1;

    public static FloatVector1 Broadcast(float value) => new(value);

    public static FloatVector1 Load<T>(T* source) where T : unmanaged =>
        typeof(T) == typeof(float) ? new(*(float*)source)
        : typeof(T) == typeof(BFloat16) ? new(*(BFloat16*)source)
        : new((float)*(Half*)source);

    public void Store(float* destination) => *destination = _lane;

    public void StoreAs<T>(T* destination) where T : unmanaged
    {
        if (typeof(T) == typeof(float))
            *(float*)destination = _lane;
        else if (typeof(T) == typeof(BFloat16))
            *(BFloat16*)destination = (BFloat16)_lane;
        else
            *(ushort*)destination = HalfBits.Narrow(_lane);
    }

    public void Store(BFloat16* destination, ushort* bits) => *destination = EmaRounding.Round(_lane, *bits);

    public static void AddSquares<T>(T* source, int count, double* sums) where T : unmanaged
    {
        for (var at = 0; at < count; at++)
        {
            double element = Load(source + at)._lane;
            sums[at % 32] += element * element;
        }
    }

    public static FloatVector1 operator +(FloatVector1 left, FloatVector1 right) => new(left._lane + right._lane);

    public static FloatVector1 operator -(FloatVector1 left, FloatVector1 right) => new(left._lane - right._lane);

    public static FloatVector1 operator *(FloatVector1 left, FloatVector1 right) => new(left._lane * right._lane);

    public static FloatVector1 operator /(FloatVector1 left, FloatVector1 right) => new(left._lane / right._lane);

    public static FloatVector1 Sqrt(FloatVector1 value) => new(MathF.Sqrt(value._lane));

    public static FloatVector1 RoundTo<T>(FloatVector1 value) where T : unmanaged =>
        typeof(T) == typeof(float) ? value
        : typeof(T) == typeof(BFloat16) ? new((BFloat16)value._lane)
        : new((float)BitConverter.UInt16BitsToHalf(HalfBits.Narrow(value._lane)));

    public static FloatVector1 MultiplyAdd(FloatVector1 a, FloatVector1 b, FloatVector1 c) =>
        new(MathF.FusedMultiplyAdd(a._lane, b._lane, c._lane));

    public static FloatVector1 WhereEqual(FloatVector1 a, FloatVector1 b, FloatVector1 then, FloatVector1 otherwise) =>
        a._lane == b._lane ? then : otherwise;
}
