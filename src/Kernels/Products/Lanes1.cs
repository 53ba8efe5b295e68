using System.Numerics;

namespace AuxCore.Kernels;

/// <summary>One lane: machines without vectors, and the tests' plainest width.</summary>
internal readonly unsafe struct Lanes1<T>(T lane) : ILanes<Lanes1<T>, T>
    where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    private readonly T _lane = lane;

    public static int Count => 1;

    public static Lanes1<T> Broadcast(T value) => new(value);

    public static Lanes1<T> Load(T* source) => new(*source);

    public void Store(T* destination) => *destination = _lane;

    public static Lanes1<T> operator +(Lanes1<T> left, Lanes1<T> right) => new(left._lane + right._lane);

    public static Lanes1<T> operator -(Lanes1<T> left, Lanes1<T> right) => new(left._lane - right._lane);

    public static Lanes1<T> operator *(Lanes1<T> left, Lanes1<T> right) => new(left._lane * right._lane);

    public static Lanes1<T> operator /(Lanes1<T> left, Lanes1<T> right) => new(left._lane / right._lane);

    public static Lanes1<T> MultiplyAdd(Lanes1<T> a, Lanes1<T> b, Lanes1<T> c) => new(T.FusedMultiplyAdd(a._lane, b._lane, c._lane));

    public static Lanes1<T> Min(Lanes1<T> left, Lanes1<T> right) => new(T.Min(left._lane, right._lane));

    public static Lanes1<T> Max(Lanes1<T> left, Lanes1<T> right) => new(T.Max(left._lane, right._lane));

    public static Lanes1<T> Abs(Lanes1<T> value) => new(T.Abs(value._lane));

    public static Lanes1<T> Sqrt(Lanes1<T> value) => new(T.Sqrt(value._lane));

    public static Lanes1<T> Exp(Lanes1<T> value) => new(T.Exp(value._lane));

    public static Lanes1<T> ZeroWhereZero(Lanes1<T> value, Lanes1<T> condition) => condition._lane == T.Zero ? default : value;

    public T Sum() => _lane;
}
