using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace AuxCore.Interop;

/// <summary>
/// The functions of <c>native/cuda/include/auxcore.h</c>, which documents them. A file an op (<c>Native.OP.cs</c>) adds its own. They are
/// called only after <see cref="CudaLibrary"/> has found the library good.
/// </summary>
internal static unsafe partial class Native
{
    public const string Library = "auxcore";

    /// <summary>The version of the C ABI that these declarations are for.</summary>
    public const uint AbiVersion = 1;

    [LibraryImport(Library, EntryPoint = "auxcore_abi_version")]
    public static partial uint AbiVersionOfLibrary();

    [LibraryImport(Library, EntryPoint = "auxcore_last_error")]
    public static partial byte* LastError();

    [LibraryImport(Library, EntryPoint = "auxcore_device_image")]
    public static partial byte* DeviceImage();

    [LibraryImport(Library, EntryPoint = "auxcore_device_count")]
    public static partial int DeviceCount(out int count);

    [LibraryImport(Library, EntryPoint = "auxcore_open")]
    public static partial int Open(uint abiVersion, int device, OpenFlags flags, out CudaContextHandle context);

    [LibraryImport(Library, EntryPoint = "auxcore_close")]
    public static partial int Close(nint context);

    [LibraryImport(Library, EntryPoint = "auxcore_describe_device")]
    public static partial int DescribeDevice(CudaContextHandle context, ref DeviceDescription device);

    [LibraryImport(Library, EntryPoint = "auxcore_allocate")]
    public static partial int Allocate(CudaContextHandle context, long bytes, out ulong address);

    [LibraryImport(Library, EntryPoint = "auxcore_free")]
    public static partial int Free(CudaContextHandle context, ulong address);

    [LibraryImport(Library, EntryPoint = "auxcore_copy_to_device")]
    public static partial int CopyToDevice(CudaContextHandle context, nint stream, ulong destination, void* source, long bytes);

    [LibraryImport(Library, EntryPoint = "auxcore_copy_to_host")]
    public static partial int CopyToHost(CudaContextHandle context, nint stream, void* destination, ulong source, long bytes);

    [LibraryImport(Library, EntryPoint = "auxcore_copy_on_device")]
    public static partial int CopyOnDevice(CudaContextHandle context, nint stream, ulong destination, ulong source, long bytes);

    [LibraryImport(Library, EntryPoint = "auxcore_fill")]
    public static partial int Fill(CudaContextHandle context, nint stream, ulong destination, byte value, long bytes);

    [LibraryImport(Library, EntryPoint = "auxcore_stream_create")]
    public static partial int StreamCreate(CudaContextHandle context, out nint stream);

    [LibraryImport(Library, EntryPoint = "auxcore_stream_destroy")]
    public static partial int StreamDestroy(CudaContextHandle context, nint stream);

    [LibraryImport(Library, EntryPoint = "auxcore_stream_synchronize")]
    public static partial int StreamSynchronize(CudaContextHandle context, nint stream);

    [LibraryImport(Library, EntryPoint = "auxcore_stream_wait")]
    public static partial int StreamWait(CudaContextHandle context, nint waiting, nint awaited);

    [Flags]
    public enum OpenFlags : uint
    {
        None = 0,
        Synchronous = 1,
    }

    /// <summary><c>auxcore_device</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct DeviceDescription
    {
        public uint StructSize;
        public int Ordinal;
        public int ComputeMajor;
        public int ComputeMinor;
        public int Multiprocessors;
        public int DriverVersion;
        public long MemoryBytes;
        public NameBytes Name;

        [InlineArray(128)]
        public struct NameBytes
        {
            private byte _first;
        }
    }

#pragma warning disable CA2255 // Whoever calls the first import is anywhere in the assembly; the resolver must be there by then.
    [ModuleInitializer]
    internal static void ResolveImports() =>
        NativeLibrary.SetDllImportResolver(Assembly.GetExecutingAssembly(), (name, _, _) => name == Library ? CudaLibrary.Handle : 0);
#pragma warning restore CA2255
}
