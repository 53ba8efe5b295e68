using System.Diagnostics.CodeAnalysis;
using ILGPU;

namespace AuxCore.Kernels;

/// <summary>Views of a call's memory for ILGPU kernels.</summary>
[RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
internal static unsafe class IlgpuView
{
    /// <summary>A view of so many elements; an empty one where the address is null.</summary>
    /// <exception cref="ArgumentException">
    /// The address is no multiple of its element, or not the device's; the message names it.
    /// </exception>
    public static ArrayView<T> Of<T>(IlgpuDevice device, void* address, long count, string name) where T : unmanaged
    {
        if (address == null || count == 0)
            return device.View<T>(0, 0);
        if ((nuint)address % (nuint)sizeof(T) != 0)
            throw new ArgumentException($"{name}: 0x{(nint)address:x} is not aligned to its elements of {sizeof(T)} bytes");
        if (device.WhyNotMemory((nint)address, count * sizeof(T)) is { } reason)
            throw new ArgumentException($"{name}: {reason}");
        return device.View<T>((nint)address, count);
    }
}
