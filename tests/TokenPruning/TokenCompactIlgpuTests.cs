using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.Ilgpu;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.TokenPruning;

/// <summary>
/// The ILGPU kernels without a device, twice: as C# on ILGPU's CPU accelerator, and as the PTX that a device would get, interpreted; and on
/// a device where there is one. All give the Cpu backend's bytes.
/// </summary>
public class TokenCompactIlgpuTests
{
    private const byte Untouched = 0xEE;

    private static readonly (string Name, Delegate Kernel)[] Kernels =
    [
        ("Copy of 16", (Action<TokenRowsViews<UInt4>>)TokenCompactKernel.Copy),
        ("Copy of 8", (Action<TokenRowsViews<ulong>>)TokenCompactKernel.Copy),
        ("Copy of 4", (Action<TokenRowsViews<uint>>)TokenCompactKernel.Copy),
        ("Copy of 2", (Action<TokenRowsViews<ushort>>)TokenCompactKernel.Copy),
        ("Copy of 1", (Action<TokenRowsViews<byte>>)TokenCompactKernel.Copy),
        ("Move of 16", (Action<TokenRowsViews<UInt4>>)TokenCompactKernel.Move),
        ("Move of 4", (Action<TokenRowsViews<uint>>)TokenCompactKernel.Move),
    ];

    private static readonly Lazy<Dictionary<string, string>> Ptx = new(
        () => Kernels.ToDictionary(kernel => kernel.Name, kernel => IlgpuPtx.Compile(kernel.Kernel, TokenCompactKernel.Threads, 8)));

    // Segments of 5, 0 and 4 tokens, of which 2, 0 and 3 are kept.
    private static readonly int[] Segments = [0, 5, 5, 9], Offsets = [0, 2, 2, 5], Indices = [1, 4, 5, 7, 8];
    private static readonly int[] Slots = [-1, 0, -1, -1, 1, 2, -1, 3, 4];

    /// <summary>Tensors of nine tokens one after the other, and of three segments with room for six; rows of several widths.</summary>
    public static TheoryData<string, bool> Tensors => new MatrixTheoryData<string, bool>(
        [
            "rows of 32 bytes", "rows of 24 bytes", "rows of 12 bytes", "rows of 6 bytes", "rows of 3 bytes", "padded", "heads",
            "second axis",
        ],
        [false, true]);

    [Theory]
    [MemberData(nameof(Tensors))]
    public void On_the_Cpu_accelerator_gives_the_Cpus_bytes(string name, bool backward) => Compare(
        new(name, backward), (call, to) => IlgpuBackend.WithCpu(() => call.Run(to, AuxBackend.Ilgpu)));

    [Theory]
    [MemberData(nameof(Tensors))]
    public void As_PTX_gives_the_Cpus_bytes(string name, bool backward) => Compare(new(name, backward), RunPtx);

    [Theory]
    [MemberData(nameof(Tensors))]
    public void On_a_device_gives_the_Cpus_bytes(string name, bool backward)
    {
        CudaDriver.Require();
        Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled; as PTX it is interpreted");
        Compare(new(name, backward), RunOnDevice);
    }

    [Theory]
    [InlineData(32)]
    [InlineData(12)]
    [InlineData(3)]
    public void In_place_rows_move_to_the_front(int rowBytes)
    {
        var before = Bytes(9 * rowBytes, seed: 3);
        var expected = (byte[])before.Clone();
        TokenCompact.Run<byte>(before, rowBytes, Indices, expected);

        var onCpu = (byte[])before.Clone();
        IlgpuBackend.WithCpu(() => TokenCompact.Run<byte>(onCpu, rowBytes, Indices, onCpu, AuxBackend.Ilgpu));
        Assert.Equal(expected, onCpu);
        if (rowBytes == 3)
            return; // of Move's instances two are interpreted

        var size = rowBytes == 32 ? 16 : 4;
        using var memory = new PtxArrays();
        var rows = memory.AddCopy(before, writable: true);
        var view = new PtxView(rows.Address, before.Length / size);
        var parameters = new PtxViews
        {
            Source = view, Destination = view, Map = memory.Add(Indices), Begins = memory.Add(Offsets), Bases = memory.Add(Segments),
            First = new() { Size = 1 }, Middle = new() { Size = 1 }, Last = new() { Size = 1 },
            SourceStep = rowBytes / size, DestinationStep = rowBytes / size, RowLength = rowBytes / size, Units = rowBytes / size,
            SourceTokens = 9, DestinationTokens = 9, Segments = 3, SegmentDimension = -1,
        };
        Run(Ptx.Value[$"Move of {size}"], "Kernel_Move", memory, parameters);
        Assert.Equal(expected, PtxArrays.Read<byte>(rows));
    }

    [Fact]
    public void What_a_selection_says_wrongly_stays_within_the_tensors()
    {
        foreach (var (offsets, indices, expected) in ((int[], int[], float[])[])
            [([0, 3], [2, 7, -1], [3, 0, 0]), ([0, 99], [0, 1, 2], [1, 2, 3]), ([0, -4], [0, 1, 2], [9, 9, 9])])
        {
            float[] destination = [9, 9, 9];
            using var memory = new PtxArrays();
            Run(Ptx.Value["Copy of 4"], "Kernel_Copy", memory, new()
            {
                Source = memory.Add(new float[] { 1, 2, 3 }), Destination = memory.Add(destination, writable: true),
                Map = memory.Add(indices), Begins = memory.Add(offsets), Bases = memory.Add(new int[] { 0, 3 }),
                First = new() { Size = 1 }, Middle = new() { Size = 1 }, Last = new() { Size = 1 },
                SourceStep = 1, DestinationStep = 1, RowLength = 1, Units = 3, SourceTokens = 3, DestinationTokens = 3, Segments = 1,
                SegmentDimension = -1,
            });
            Assert.Equal(expected, destination);
        }
    }

    [Fact]
    public void The_compiled_kernels_copy_sixteen_bytes_at_once_and_access_global_memory_only()
    {
        foreach (var (name, ptx) in Ptx.Value)
        {
            var kernel = ptx[ptx.IndexOf(".entry", StringComparison.Ordinal)..];
            if (name.EndsWith(" 16", StringComparison.Ordinal))
            {
                Assert.Contains("\tld.global.v4.b32\t", kernel, StringComparison.Ordinal);
                Assert.Contains("\tst.global.v4.b32\t", kernel, StringComparison.Ordinal);
            }

            foreach (var unwanted in (string[])["ld.b", "ld.u", "ld.v", "st.b", "st.u", "st.v", "local", "call"])
                Assert.DoesNotContain($"\t{unwanted}", kernel, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void The_compiled_kernels_are_those_that_were_reviewed() =>
        PtxSnapshot.Compare("TokenCompact.Ilgpu.ptx", string.Join("\n", Kernels.Select(kernel => Ptx.Value[kernel.Name])));

    [Fact]
    public unsafe void More_dimensions_than_a_kernel_takes_are_refused_before_anything_is_written()
    {
        var memory = stackalloc float[9];
        new Span<float>(memory, 9).Fill(9);
        var source = TensorView.FromPointer(memory, DType.Float32, [1, 1, 1, 1, 6, 1]);
        var destination = TensorView.FromPointer(memory + 6, DType.Float32, [1, 1, 1, 1, 3, 1]);
        fixed (int* segments = (int[])[0, 6], offsets = (int[])[0, 3], indices = (int[])[0, 1, 2])
        {
            var bounds = TensorView.FromPointer(segments, DType.Int32, [2]);
            var selection = new SelectionViews
            {
                Indices = TensorView.FromPointer(indices, DType.Int32, [3]), Offsets = TensorView.FromPointer(offsets, DType.Int32, [2]),
            };
            var rows = TokenRows.Ragged(source, destination, 4);
            IlgpuBackend.WithCpu(() => Assert.Contains(
                "tensors[0]: 4 dimensions before a token's row",
                Assert.Throws<ArgumentException>(() => TokenCompact.Run([rows], bounds, selection, AuxBackend.Ilgpu)).Message,
                StringComparison.Ordinal));
        }

        Assert.All(new ReadOnlySpan<float>(memory, 9).ToArray(), value => Assert.Equal(9, value));
    }

    private static byte[] Bytes(int count, int seed)
    {
        var bytes = new byte[count];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    private static void Compare(Call call, Action<Call, byte[]> run)
    {
        var (expected, actual) = (call.NewDestination(), call.NewDestination());
        call.Run(expected, AuxBackend.Cpu);
        run(call, actual);
        Assert.Equal(expected, actual);
        Assert.Contains(expected, value => value != Untouched);
    }

    /// <summary>What TokenCompact.Ilgpu.cs does with a device.</summary>
    private static void RunPtx(Call call, byte[] to)
    {
        using var memory = new PtxArrays();
        var source = memory.AddCopy(call.Source);
        var destination = memory.AddCopy(to, writable: true);
        var item = CompactItem.Of(call.Rows(source.Address, destination.Address), "rows", AuxDevice.Host, 3);
        var size = item.Alignment;
        var units = item.Strips * (item.RowBytes / size) * item.DestinationTokens;
        Run(Ptx.Value[$"Copy of {size}"], "Kernel_Copy", memory, new()
        {
            Source = new(source.Address, item.SourceBytes / size), Destination = new(destination.Address, item.DestinationBytes / size),
            Map = memory.Add(call.Backward ? Slots : Indices), Begins = memory.Add(call.Backward ? Segments : Offsets),
            Bases = memory.Add(call.Backward ? Offsets : Segments),
            First = item.Dimension(0, size), Middle = item.Dimension(1, size), Last = item.Dimension(2, size),
            SourceStep = item.SourceStep / size, DestinationStep = item.DestinationStep / size, RowLength = item.RowBytes / size,
            Units = units, SourceTokens = (int)item.SourceTokens, DestinationTokens = (int)item.DestinationTokens, Segments = 3,
            SegmentDimension = item.SegmentDimension, ClearsRest = call.Backward || item.ClearRest ? 1 : 0,
        });
        PtxArrays.Read<byte>(destination).CopyTo(to, 0);
    }

    private static void Run(string ptx, string entry, PtxArrays memory, PtxViews parameters)
    {
        var kernel = new PtxInterpreter(ptx, entry, memory.Memory);
        kernel.Run(
            (int)((parameters.Units + 63) / 64), 64,
            MemoryMarshal.AsBytes(new ReadOnlySpan<PtxViews>(in parameters))[..kernel.ParameterBytes]);
    }

    private static unsafe void RunOnDevice(Call call, byte[] to)
    {
        using var devices = new Devices();
        var source = devices.Add(call.Source);
        var destination = devices.Add(to);
        var selection = new SelectionViews
        {
            Indices = devices.Add(Indices), Offsets = devices.Add(Offsets), Slots = devices.Add(Slots),
        };
        var rows = call.Rows(source.Address, destination.Address, source.Device);
        if (call.Backward)
            TokenCompact.Backward([rows], devices.Add(Segments), selection, AuxBackend.Ilgpu);
        else
            TokenCompact.Run([rows], devices.Add(Segments), selection, AuxBackend.Ilgpu);
        Devices.Read<byte>(destination).CopyTo(to, 0);
        devices.CheckMargins();
    }

    /// <summary>One tensor, forwards from all tokens to those kept, or backwards.</summary>
    private sealed class Call
    {
        private readonly long[] _all, _kept;
        private readonly int _segment, _token;
        private readonly bool _clears;

        public Call(string name, bool backward)
        {
            Backward = backward;
            (_all, _kept, _segment, _token, _clears) = name switch
            {
                "padded" => (new long[] { 3, 6, 8 }, new long[] { 3, 4, 8 }, 0, 1, true),
                "heads" => ([3, 2, 6, 4], [3, 2, 3, 4], 0, 2, false),
                "second axis" => ([2, 3, 6, 3], [2, 3, 5, 3], 1, 2, true),
                _ => (new long[] { 9, Width(name) }, new long[] { 7, Width(name) }, -1, 0, name == "rows of 24 bytes"),
            };
            Source = Bytes(Count(backward ? _kept : _all), seed: name.Length);
        }

        public bool Backward { get; }

        public byte[] Source { get; }

        public byte[] NewDestination() => [.. Enumerable.Repeat(Untouched, Count(Backward ? _all : _kept))];

        public unsafe TokenRows Rows(nint from, nint to, AuxDevice device = default)
        {
            var source = TensorView.FromPointer((void*)from, DType.UInt8, Backward ? _kept : _all, device: device);
            var destination = TensorView.FromPointer((void*)to, DType.UInt8, Backward ? _all : _kept, device: device);
            return _segment < 0
                ? TokenRows.Ragged(source, destination, _token, _clears)
                : TokenRows.Padded(source, destination, _segment, _token, _clears);
        }

        public unsafe void Run(byte[] to, AuxBackend backend)
        {
            fixed (byte* source = Source, destination = to)
            fixed (int* segments = Segments, offsets = Offsets, indices = Indices, slots = Slots)
            {
                var selection = new SelectionViews
                {
                    Indices = TensorView.FromPointer(indices, DType.Int32, [5]),
                    Offsets = TensorView.FromPointer(offsets, DType.Int32, [4]),
                    Slots = TensorView.FromPointer(slots, DType.Int32, [9]),
                };
                var bounds = TensorView.FromPointer(segments, DType.Int32, [4]);
                var rows = Rows((nint)source, (nint)destination);
                if (Backward)
                    TokenCompact.Backward([rows], bounds, selection, backend);
                else
                    TokenCompact.Run([rows], bounds, selection, backend);
            }
        }

        private static int Width(string name) => int.Parse(name.Split(' ')[2], System.Globalization.CultureInfo.InvariantCulture);

        private static int Count(long[] shape) => (int)shape.Aggregate(1L, (product, size) => product * size);
    }

    /// <summary><see cref="TokenRowsViews{T}"/> as it lies in a launch's parameters.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct PtxViews
    {
        public PtxView Source, Destination, Map, Begins, Bases;
        public RowDimension First, Middle, Last;
        public long SourceStep, DestinationStep, RowLength, Units;
        public int SourceTokens, DestinationTokens, Segments, SegmentDimension, ClearsRest;
    }
}
