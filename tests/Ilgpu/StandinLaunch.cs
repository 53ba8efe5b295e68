using System.Runtime.InteropServices;
using System.Text;

namespace AuxCore.Tests.Ilgpu;

/// <summary>A launch that the stand-in driver recorded, because the kernel is not of ours in CUDA C++; such launches do nothing.</summary>
internal sealed record StandinLaunch(string Kernel, uint Grid, uint Block, nint Stream, byte[] Parameters)
{
    private static readonly Lazy<nint> Driver = new(() => NativeLibrary.Load("libcuda.so.1")); // by then it is loaded

    /// <summary>The last one of the process.</summary>
    public static unsafe StandinLaunch Last()
    {
        Recorded recorded;
        var parameters = new byte[4096];
        fixed (byte* first = parameters)
        {
            var export = NativeLibrary.GetExport(Driver.Value, "auxcore_standin_last_recorded");
            var call = (delegate* unmanaged<Recorded*, void*, uint, int>)export;
            Assert.True(call(&recorded, first, (uint)parameters.Length) == 0, "no launch was recorded");
        }

        ReadOnlySpan<byte> name = recorded.Kernel;
        Assert.Equal((1u, 1u, 1u, 1u), (recorded.GridY, recorded.GridZ, recorded.BlockY, recorded.BlockZ));
        Assert.InRange(recorded.ParameterBytes, 0u, (uint)parameters.Length);
        return new StandinLaunch(
            Encoding.ASCII.GetString(name[..name.IndexOf((byte)0)]), recorded.GridX, recorded.BlockX, (nint)recorded.Stream,
            parameters[..(int)recorded.ParameterBytes]);
    }

    /// <summary>Contexts beside the primary ones.</summary>
    public static unsafe long CreatedContexts =>
        ((delegate* unmanaged<long>)NativeLibrary.GetExport(Driver.Value, "auxcore_standin_created_contexts"))();

    /// <summary>What the stand-in did not do: runs the kernel's PTX on the stand-in's device memory.</summary>
    /// <param name="ptx">The kernel's module.</param>
    public void Run(string ptx) =>
        new PtxInterpreter(ptx, Kernel, new DeviceMemory()).Run((int)Grid, (int)Block, Parameters);

    /// <summary>Device memory, whatever streams still have to do.</summary>
    public static unsafe T[] Peek<T>(nint address, int count) where T : unmanaged
    {
        var values = new T[count];
        new DeviceMemory().Read(address, MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }

    private sealed unsafe class DeviceMemory : IPtxMemory
    {
        private readonly delegate* unmanaged<nint, void*, long, int> _peek =
            (delegate* unmanaged<nint, void*, long, int>)NativeLibrary.GetExport(Driver.Value, "auxcore_standin_peek");

        private readonly delegate* unmanaged<nint, void*, long, int> _poke =
            (delegate* unmanaged<nint, void*, long, int>)NativeLibrary.GetExport(Driver.Value, "auxcore_standin_poke");

        public void Read(nint address, Span<byte> to)
        {
            fixed (byte* first = to)
                Assert.True(_peek(address, first, to.Length) == 0, $"{to.Length} bytes at 0x{address:x} are no allocation's");
        }

        public void Write(nint address, ReadOnlySpan<byte> from)
        {
            fixed (byte* first = from)
                Assert.True(_poke(address, first, from.Length) == 0, $"{from.Length} bytes at 0x{address:x} are no allocation's");
        }
    }

    /// <summary><c>auxcore_standin_launch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private readonly struct Recorded
    {
        public readonly NameBytes Kernel;
        public readonly uint GridX, GridY, GridZ;
        public readonly uint BlockX, BlockY, BlockZ;
        public readonly uint SharedBytes;
        public readonly uint ParameterBytes;
        public readonly ulong Stream;

        [System.Runtime.CompilerServices.InlineArray(256)]
        public struct NameBytes
        {
            private byte _first;
        }
    }
}
