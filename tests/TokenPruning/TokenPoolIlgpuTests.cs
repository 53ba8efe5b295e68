using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.Ilgpu;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.TokenPruning;

/// <summary>
/// The ILGPU kernels without a device, twice: as C# on ILGPU's CPU accelerator, and as the PTX that a device would get, interpreted; and on
/// a device where there is one. All give the bits of the Cpu backend.
/// </summary>
public class TokenPoolIlgpuTests
{
    private const int Batch = 2, Channels = 5;

    private static readonly PoolGrid[] Grids =
    [
        PoolGrid.Window(4, 6, 2, 2), PoolGrid.Window(5, 7, 2, 3), PoolGrid.Window(3, 3, 4, 4), PoolGrid.ToGrid(5, 7, 2, 3),
        PoolGrid.ToGrid(4, 4, 4, 4), PoolGrid.ToGrid(7, 3, 3, 1),
    ];

    private static readonly Lazy<Dictionary<bool, string>> Ptx = new(() => new()
    {
        [false] = IlgpuPtx.Compile(TokenPoolKernel.Pool, TokenPoolKernel.Threads, 8),
        [true] = IlgpuPtx.Compile(TokenPoolKernel.Spread, TokenPoolKernel.Threads, 8),
    });

    public static TheoryData<DType, bool> Matrix => new MatrixTheoryData<DType, bool>(
        [DType.Float32, DType.BFloat16, DType.Float16], [false, true]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void On_the_Cpu_accelerator_gives_the_bits_of_the_Cpu_backend(DType type, bool backward) => Compare(
        type, backward, (call, to) => IlgpuBackend.WithCpu(() => call.Run(to, AuxBackend.Ilgpu)));

    [Theory]
    [MemberData(nameof(Matrix))]
    public void As_PTX_gives_the_bits_of_the_Cpu_backend(DType type, bool backward) => Compare(type, backward, RunPtx);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void On_a_device_gives_the_bits_of_the_Cpu_backend(DType type, bool backward)
    {
        CudaDriver.Require();
        Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled; as PTX it is interpreted");
        Compare(type, backward, RunOnDevice);
    }

    [Fact]
    public void Sixteen_bits_are_rounded_as_everywhere()
    {
        var random = new Random(1);
        List<uint> all = [0, 0x8000_0000, 0x7F80_0000, 0xFF80_0000, 1, 0x007F_FFFF];
        for (var half = 0; half < 0x7C00; half++) // each float16, the middle to the next one, and their neighbours
        {
            var (low, high) = ((double)BitConverter.UInt16BitsToHalf((ushort)half), half == 0x7BFF ? 65536.0
                : (double)BitConverter.UInt16BitsToHalf((ushort)(half + 1)));
            foreach (var number in (double[])[low, (low + high) / 2])
            {
                var at = BitConverter.SingleToUInt32Bits((float)number);
                all.AddRange([at, at + 1, at == 0 ? 0 : at - 1, at | 0x8000_0000]);
            }
        }

        all.AddRange(Enumerable.Range(0, 20_000).Select(_ => (uint)random.NextInt64(1L << 32)));
        foreach (var bits in all)
        {
            var value = BitConverter.UInt32BitsToSingle(bits);
            if (float.IsNaN(value))
            {
                Assert.True(Half.IsNaN(BitConverter.UInt16BitsToHalf((ushort)KernelMath.ToFloat16(value))));
                Assert.True(float.IsNaN(KernelMath.FromBFloat16(KernelMath.ToBFloat16(value))));
                continue;
            }

            Assert.Equal(BitConverter.HalfToUInt16Bits((Half)value), (ushort)KernelMath.ToFloat16(value));
            Assert.Equal(((BFloat16)value).Bits, (ushort)KernelMath.ToBFloat16(value));
        }
    }

    [Fact]
    public void The_compiled_kernels_divide_rounded_and_access_global_memory_only()
    {
        foreach (var ptx in Ptx.Value.Values)
        {
            var kernel = ptx[ptx.IndexOf(".entry", StringComparison.Ordinal)..];
            Assert.Contains("\tdiv.rn.f32\t", kernel, StringComparison.Ordinal);
            foreach (var unwanted in (string[])["ld.f32", "ld.b", "ld.u", "st.f32", "st.b", "local", "call", "fma", "mul.f32", "approx"])
                Assert.DoesNotContain($"\t{unwanted}", kernel, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void The_compiled_kernels_are_those_that_were_reviewed() =>
        PtxSnapshot.Compare("TokenPool.Ilgpu.ptx", string.Join("\n", Ptx.Value[false], Ptx.Value[true]));

    private static void Compare(DType type, bool backward, Action<Call, byte[]> run)
    {
        for (var i = 0; i < Grids.Length; i++)
        {
            var call = new Call(Grids[i], type, backward, seed: i);
            var (expected, actual) = (call.NewDestination(), call.NewDestination());
            call.Run(expected, AuxBackend.Cpu);
            run(call, actual);
            Assert.Equal(call.Numbers(expected), call.Numbers(actual));
        }
    }

    /// <summary>What TokenPool.Ilgpu.cs does with a device.</summary>
    private static void RunPtx(Call call, byte[] to)
    {
        using var memory = new PtxArrays();
        var (source, destination) = (memory.AddCopy(call.Source), memory.AddCopy(to, writable: true));
        var isWide = call.Type == DType.Float32;
        var size = call.Type.Size();
        var (from, into) = (new PtxView(source.Address, source.Length / size), new PtxView(destination.Address, destination.Length / size));
        var parameters = new PtxViews
        {
            Source = isWide ? from : default,
            NarrowSource = isWide ? default : from,
            Destination = isWide ? into : default,
            NarrowDestination = isWide ? default : into,
            Units = into.Length,
            Height = call.Grid.Height,
            Width = call.Grid.Width,
            Channels = Channels,
            Rows = call.Grid.Rows,
            Columns = call.Grid.Columns,
            WindowHeight = call.Grid.WindowSize.Height,
            WindowWidth = call.Grid.WindowSize.Width,
            Kind = FloatKinds.Of(call.Type),
        };
        var kernel = new PtxInterpreter(Ptx.Value[call.Backward], call.Backward ? "Kernel_Spread" : "Kernel_Pool", memory.Memory);
        kernel.Run(
            (int)((into.Length + 63) / 64), 64, MemoryMarshal.AsBytes(new ReadOnlySpan<PtxViews>(in parameters))[..kernel.ParameterBytes]);
        PtxArrays.Read<byte>(destination).CopyTo(to, 0);
    }

    private static unsafe void RunOnDevice(Call call, byte[] to)
    {
        var (source, destination) = (DeviceBuffer.CopyOf<byte>(call.Source), DeviceBuffer.CopyOf<byte>(to));
        using var devices = new Devices();
        devices.Keep(source);
        devices.Keep(destination);
        call.Run(
            source.View(source.Length).Address, destination.View(destination.Length).Address, AuxBackend.Ilgpu,
            source.View(source.Length).Device);
        destination.ToArray().CopyTo(to, 0);
    }

    private sealed class Call
    {
        public Call(PoolGrid grid, DType type, bool backward, int seed)
        {
            (Grid, Type, Backward) = (grid, type, backward);
            var random = new Random(seed);
            var values = new float[Batch * (backward ? grid.Cells : grid.Tokens) * Channels];
            for (var i = 0; i < values.Length; i++)
                values[i] = random.Next(20) == 0 ? -0f : (float)(random.NextDouble() * 2 - 1) * MathF.ScaleB(1, random.Next(-18, 9));
            Source = type switch
            {
                DType.Float32 => MemoryMarshal.AsBytes(values.AsSpan()).ToArray(),
                DType.BFloat16 => MemoryMarshal.AsBytes(RandomScores.As<BFloat16>(values).Stored.AsSpan()).ToArray(),
                _ => MemoryMarshal.AsBytes(RandomScores.As<Half>(values).Stored.AsSpan()).ToArray(),
            };
        }

        public PoolGrid Grid { get; }

        public DType Type { get; }

        public bool Backward { get; }

        public byte[] Source { get; }

        public byte[] NewDestination()
        {
            var bytes = new byte[Batch * (Backward ? Grid.Tokens : Grid.Cells) * Channels * Type.Size()];
            bytes.AsSpan().Fill(0x5A);
            return bytes;
        }

        /// <summary>Bits, element by element.</summary>
        public uint[] Numbers(byte[] bytes) => Type == DType.Float32
            ? MemoryMarshal.Cast<byte, uint>(bytes).ToArray()
            : [.. MemoryMarshal.Cast<byte, ushort>(bytes).ToArray().Select(value => (uint)value)];

        public unsafe void Run(byte[] to, AuxBackend backend)
        {
            fixed (byte* source = Source, destination = to)
                Run((nint)source, (nint)destination, backend, AuxDevice.Host);
        }

        public unsafe void Run(nint from, nint to, AuxBackend backend, AuxDevice device)
        {
            var tokens = TensorView.FromPointer((void*)(Backward ? to : from), Type, [Batch, Grid.Tokens, Channels], device: device);
            var cells = TensorView.FromPointer((void*)(Backward ? from : to), Type, [Batch, Grid.Cells, Channels], device: device);
            if (Backward)
                TokenPool.Backward(cells, Grid, tokens, backend);
            else
                TokenPool.Run(tokens, Grid, cells, backend);
        }
    }

    /// <summary><see cref="TokenPoolViews"/> as it lies in a launch's parameters.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct PtxViews
    {
        public PtxView Source, NarrowSource, Destination, NarrowDestination;
        public long Units;
        public int Height, Width, Channels, Rows, Columns, WindowHeight, WindowWidth;
        public FloatKind Kind;
    }
}
