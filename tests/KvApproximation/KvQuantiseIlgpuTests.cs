using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.Ilgpu;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>
/// The ILGPU kernels without a device, twice: as C# on ILGPU's CPU accelerator, and as the PTX that a device would get, interpreted; and on
/// a device where there is one. All give the bytes and the bits of the reference.
/// </summary>
public class KvQuantiseIlgpuTests
{
    private const byte Canary = 0xA5;

    // Around the groups of a block, of which it has 4, 8 or 32; degenerate ones, NaN and infinity are among the longer ones.
    private static readonly int[] Lengths = [0, 32, 64, 7 * 32, 9 * 32, 33 * 32, 4096 + 64];

    private static readonly Lazy<Dictionary<bool, string>> Ptx = new(() => new()
    {
        [false] = IlgpuPtx.Compile(KvQuantiseKernel.Quantise, KvQuantiseKernel.Threads, 8),
        [true] = IlgpuPtx.Compile(KvQuantiseKernel.Dequantise, KvQuantiseKernel.Threads, 8),
    });

    private delegate void Way(float[] elements, byte[] stored, bool restores, int offset);

    /// <summary>Bytes that the groups begin off a round address.</summary>
    public static TheoryData<int> Offsets => [0, 1, 2, 3];

    [Theory]
    [MemberData(nameof(Offsets))]
    public void On_the_Cpu_accelerator_gives_the_bytes_of_the_reference(int offset) => Compare(
        offset,
        static (elements, stored, restores, offset) =>
            IlgpuBackend.WithCpu(() => Run(elements, stored, restores, offset, AuxBackend.Ilgpu)));

    [Theory]
    [MemberData(nameof(Offsets))]
    public void As_PTX_gives_the_bytes_of_the_reference(int offset) => Compare(
        offset, static (elements, stored, restores, offset) => RunPtx(elements, stored, restores, offset, Ptx.Value[restores]));

    [Theory]
    [MemberData(nameof(Offsets))]
    public void On_a_device_gives_the_bytes_of_the_reference(int offset)
    {
        CudaDriver.Require();
        Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled; as PTX it is interpreted");
        Compare(offset, RunOnDevice);
    }

    [Fact]
    public void Without_its_barriers_the_kernel_is_wrong_and_the_interpreter_shows_it()
    {
        var x = KvSamples.Elements(9 * 32, seed: 5);
        var broken = string.Join('\n', Ptx.Value[false].Split('\n').Where(line => !line.Contains("bar.sync", StringComparison.Ordinal)));
        var (right, wrong) = (new byte[9 * Q8Group.Bytes], new byte[9 * Q8Group.Bytes]);
        RunPtx(x, right, restores: false, 0, Ptx.Value[false]);
        RunPtx(x, wrong, restores: false, 0, broken);
        Assert.NotEqual(right, wrong);
    }

    [Fact]
    public void The_compiled_kernels_round_products_and_access_global_and_shared_memory_only()
    {
        foreach (var (restores, ptx) in Ptx.Value)
        {
            var kernel = ptx[ptx.IndexOf(".entry", StringComparison.Ordinal)..];
            string[] all = restores ? ["ld.global.", "st.global."] : ["mul.rn.f32", "div.rn.f32", "rcp.rn.f32", "red.max.shared"];
            foreach (var wanted in all)
                Assert.Contains($"\t{wanted}", kernel, StringComparison.Ordinal);
            foreach (var unwanted in (string[])["ld.f32", "ld.b", "ld.u", "st.f32", "st.b", "local", "call", "fma", "approx", "atom"])
                Assert.DoesNotContain($"\t{unwanted}", kernel, StringComparison.Ordinal);
            Assert.Contains(".maxntid 256, 1, 1", kernel, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void The_compiled_kernels_are_those_that_were_reviewed() =>
        PtxSnapshot.Compare("KvQuantise.Ilgpu.ptx", string.Join("\n", Ptx.Value[false], Ptx.Value[true]));

    [Fact]
    public void Other_formats_are_refused_before_anything_is_written()
    {
        foreach (var format in Enum.GetValues<KvFormat>().Where(format => format != KvFormat.Q8_0))
        {
            var stored = Enumerable.Repeat(Canary, (int)format.ByteCount(32)).ToArray();
            var elements = Enumerable.Repeat(7f, 32).ToArray();
            foreach (var call in (Action[])
                [
                    () => KvQuantise.Run(new float[32], format, stored, backend: AuxBackend.Ilgpu),
                    () => KvQuantise.Dequantise(new byte[stored.Length], format, elements, backend: AuxBackend.Ilgpu),
                ])
            {
                IlgpuBackend.WithCpu(() =>
                {
                    var error = Assert.Throws<BackendUnavailableException>(call);
                    Assert.Equal((AuxBackend.Ilgpu, $"{format} has no ILGPU kernel, Q8_0 has one"), (error.Backend, error.Reason));
                });
            }

            Assert.All(stored, value => Assert.Equal(Canary, value));
            Assert.All(elements, value => Assert.Equal(7, value));
        }
    }

    [Fact]
    public unsafe void Elements_that_are_not_aligned_are_refused_before_anything_is_written()
    {
        var memory = stackalloc double[32];
        new Span<double>(memory, 32).Clear();
        var elements = TensorView.FromPointer((byte*)memory + 2, DType.Float32, [32]);
        var stored = TensorView.FromPointer((byte*)memory + 200, DType.UInt8, [Q8Group.Bytes]);
        IlgpuBackend.WithCpu(() =>
        {
            foreach (var (name, call) in ((string, Action)[])
                [
                    ("source", () => KvQuantise.Run(elements, KvFormat.Q8_0, stored, backend: AuxBackend.Ilgpu)),
                    ("destination", () => KvQuantise.Dequantise(stored, KvFormat.Q8_0, elements, backend: AuxBackend.Ilgpu)),
                ])
            {
                Assert.StartsWith($"{name}: 0x", Assert.Throws<ArgumentException>(call).Message, StringComparison.Ordinal);
            }
        });
        Assert.All(new ReadOnlySpan<double>(memory, 32).ToArray(), value => Assert.Equal(0, value));
    }

    private static void Compare(int offset, Way run)
    {
        foreach (var length in Lengths)
        {
            var x = KvSamples.Elements(length, seed: length);
            var (expected, actual) = (Margins(length, offset), Margins(length, offset));
            Run(x, expected, restores: false, offset, AuxBackend.Reference);
            run(x, actual, false, offset);
            Assert.Equal(expected, actual);

            var (exact, back) = (new float[length], new float[length]);
            new Random(length).NextBytes(expected); // scales that are NaN, infinite, subnormal or negative among them
            Run(exact, expected, restores: true, offset, AuxBackend.Reference);
            run(back, expected, true, offset);
            Assert.Equal(Devices.Bits(exact), Devices.Bits(back));
        }
    }

    private static byte[] Margins(int length, int offset) =>
        [.. Enumerable.Repeat(Canary, (int)KvFormat.Q8_0.ByteCount(length) + offset + 1)];

    private static void Run(float[] elements, byte[] stored, bool restores, int offset, AuxBackend backend)
    {
        var bytes = stored.AsSpan(offset, (int)KvFormat.Q8_0.ByteCount(elements.Length));
        if (restores)
            KvQuantise.Dequantise(bytes, KvFormat.Q8_0, elements, backend: backend);
        else
            KvQuantise.Run(elements, KvFormat.Q8_0, bytes, backend: backend);
    }

    /// <summary>What KvQuantise.Ilgpu.cs does with a device, with blocks of 64.</summary>
    private static void RunPtx(float[] elements, byte[] stored, bool restores, int offset, string ptx)
    {
        const int Block = 64;
        using var memory = new PtxArrays();
        var bytes = stored.AsSpan(offset, (int)KvFormat.Q8_0.ByteCount(elements.Length));
        var (exact, groups) = (memory.Add(elements, writable: restores), memory.Add(bytes.ToArray(), writable: !restores));
        var parameters = new PtxViews { Elements = exact, Stored = groups, Groups = elements.Length / Q8Group.Elements };
        var kernel = new PtxInterpreter(ptx, restores ? "Kernel_Dequantise" : "Kernel_Quantise", memory.Memory);
        const int PerBlock = Block / KvQuantiseKernel.Lanes;
        kernel.Run(
            (int)((parameters.Groups + PerBlock - 1) / PerBlock), Block,
            MemoryMarshal.AsBytes(new ReadOnlySpan<PtxViews>(in parameters))[..kernel.ParameterBytes]);
        PtxArrays.Read<byte>(groups).CopyTo(bytes);
    }

    private static void RunOnDevice(float[] elements, byte[] stored, bool restores, int offset)
    {
        using var devices = new Devices();
        var buffer = devices.Keep(DeviceBuffer.CopyOf<byte>(stored));
        var groups = buffer.ViewAt(offset, stored.Length - offset - 1);
        var exact = devices.Add(elements);
        if (elements.Length == 0)
            return;
        if (restores)
            KvQuantise.Dequantise(groups, KvFormat.Q8_0, exact, backend: AuxBackend.Ilgpu);
        else
            KvQuantise.Run(exact, KvFormat.Q8_0, groups, backend: AuxBackend.Ilgpu);
        Devices.Read<float>(exact).CopyTo(elements, 0);
        buffer.ToArray().CopyTo(stored, 0);
        devices.CheckMargins();
    }

    /// <summary><see cref="KvQuantiseViews"/> as it lies in a launch's parameters.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct PtxViews
    {
        public PtxView Elements, Stored;
        public long Groups;
    }
}
