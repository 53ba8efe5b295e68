using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using ILGPU;
using Bits = ILGPU.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// KvQuantise's device code for ILGPU, of q8_0. Eight threads share a group, and each has every eighth of its elements, so that what they
/// read and write at a time lies side by side. The operations are those of <c>KvQuantise.Reference.cs</c>, and so are the bytes.
/// </summary>
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal static class KvQuantiseKernel
{
    /// <summary>Threads of a block; on a device with smaller ones, a warp.</summary>
    public const int Threads = 256;

    /// <summary>Threads of a group.</summary>
    public const int Lanes = 8;

    private const uint Magnitude = 0x7FFF_FFFF;
    private const float LargestHalf = 65504;

    /// <summary>Elements become groups.</summary>
    public static void Quantise(KvQuantiseViews views)
    {
        var largest = SharedMemory.Allocate<int>(Threads / Lanes);
        var (own, lane) = (Group.IdxX / Lanes, Group.IdxX % Lanes);
        var group = (long)Grid.IdxX * (Group.DimX / Lanes) + own;
        var isThere = group < views.Groups;
        if (lane == 0)
            largest[own] = 0;
        Group.Barrier();
        var first = group * Q8Group.Elements + lane;
        var (a, b, c, d) = (0f, 0f, 0f, 0f);
        if (isThere)
        {
            (a, b) = (views.Elements[first], views.Elements[first + Lanes]);
            (c, d) = (views.Elements[first + 2 * Lanes], views.Elements[first + 3 * Lanes]);
            Atomic.Max(ref largest[own], Math.Max(Math.Max(MagnitudeOf(a), MagnitudeOf(b)), Math.Max(MagnitudeOf(c), MagnitudeOf(d))));
        }

        Group.Barrier();
        if (!isThere)
            return;
        var isFinite = largest[own] < (int)HalfBits.SingleInfinity;
        var scale = Bits.IntAsFloat((uint)largest[own]) / Q8Group.Largest;
        var narrow = KernelMath.ToFloat16(scale);
        if (narrow >= HalfBits.Infinity)
        {
            scale = LargestHalf;
            narrow = isFinite ? HalfBits.Infinity - 1 : HalfBits.QuietNaN;
        }

        var inverse = 1 / scale;
        if (!isFinite || inverse > float.MaxValue) // of 0, and of what is not much more
            inverse = 0;
        var at = group * Q8Group.Bytes;
        if (lane == 0)
        {
            views.Stored[at] = (byte)narrow;
            views.Stored[at + 1] = (byte)(narrow >> 8);
        }

        at += sizeof(ushort) + lane;
        views.Stored[at] = Rounded(a, inverse);
        views.Stored[at + Lanes] = Rounded(b, inverse);
        views.Stored[at + 2 * Lanes] = Rounded(c, inverse);
        views.Stored[at + 3 * Lanes] = Rounded(d, inverse);
    }

    /// <summary>Groups become elements.</summary>
    public static void Dequantise(KvQuantiseViews views)
    {
        var lane = Group.IdxX % Lanes;
        var group = (long)Grid.IdxX * (Group.DimX / Lanes) + Group.IdxX / Lanes;
        if (group >= views.Groups)
            return;
        var at = group * Q8Group.Bytes;
        var scale = KernelMath.FromFloat16(views.Stored[at] | (uint)views.Stored[at + 1] << 8);
        at += sizeof(ushort) + lane;
        var first = group * Q8Group.Elements + lane;
        for (var i = 0; i < Q8Group.Elements; i += Lanes)
            views.Elements[first + i] = scale * (sbyte)views.Stored[at + i];
    }

    // Of numbers that are not negative bits and numbers have one order; what is not finite is above them.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int MagnitudeOf(float value) => (int)(Bits.FloatAsInt(value) & Magnitude);

    /// <summary>The nearest whole number, halves away from zero, within ±127; 0 where the inverse is, whatever the element.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static byte Rounded(float element, float inverse)
    {
        if (inverse == 0)
            return 0;
        var steps = KernelMath.Multiply(Bits.IntAsFloat(Bits.FloatAsInt(element) & Magnitude), inverse);
        if (steps > Q8Group.Largest)
            steps = Q8Group.Largest;
        var whole = (int)steps;
        if (steps - whole >= 0.5f) // the difference is exact
            whole++;
        return (byte)(element < 0 ? -whole : whole);
    }
}

/// <summary>What the kernels work on.</summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct KvQuantiseViews
{
    public ArrayView<float> Elements;
    public ArrayView<byte> Stored;
    public long Groups;
}
