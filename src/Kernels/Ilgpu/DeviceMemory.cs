using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using ILGPU;

namespace AuxCore.Kernels;

/// <summary>
/// All memory of a device, for kernels that find addresses in a table. ILGPU takes a pointer made from a number for one of any address
/// space and loads through it without vectors; through views that begin at address 0 the same access is <c>ld.global.v4</c>.
/// </summary>
/// <remarks>Nothing here is checked on a device: an address is somebody's promise, as for every kernel with a table.</remarks>
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal readonly struct DeviceMemory
{
    private readonly ArrayView<Float4> _quads;
    private readonly ArrayView<UInt4> _blocks;
    private readonly ArrayView<float> _floats;
    private readonly ArrayView<ushort> _words;

    /// <param name="all">What the addresses are of.</param>
    public DeviceMemory(AddressSpace all)
    {
        _quads = all.View<Float4>(0, long.MaxValue / 16);
        _blocks = all.View<UInt4>(0, long.MaxValue / 16);
        _floats = all.View<float>(0, long.MaxValue / 4);
        _words = all.View<ushort>(0, long.MaxValue / 2);
    }

    /// <summary>Sixteen bytes at a time, as four float32.</summary>
    /// <param name="address">A multiple of 16.</param>
    /// <param name="count">How many.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ArrayView<Float4> Quads(long address, int count) => _quads.SubView(address >> 4, count);

    /// <summary>Sixteen bytes at a time, whatever they hold.</summary>
    /// <param name="address">A multiple of 16.</param>
    /// <param name="count">How many.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ArrayView<UInt4> Blocks(long address, int count) => _blocks.SubView(address >> 4, count);

    /// <summary>float32.</summary>
    /// <param name="address">A multiple of 4.</param>
    /// <param name="count">How many.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ArrayView<float> Floats(long address, int count) => _floats.SubView(address >> 2, count);

    /// <summary>Two bytes at a time: the bits of a 16-bit type.</summary>
    /// <param name="address">A multiple of 2.</param>
    /// <param name="count">How many.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ArrayView<ushort> Words(long address, int count) => _words.SubView(address >> 1, count);
}

/// <summary>Four float32 that one instruction loads or stores.</summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct Float4
{
    public float X, Y, Z, W;
}

/// <summary>Sixteen bytes that one instruction loads or stores.</summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct UInt4
{
    public uint X, Y, Z, W;
}
