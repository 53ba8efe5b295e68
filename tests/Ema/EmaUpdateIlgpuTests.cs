using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.Ilgpu;

namespace AuxCore.Tests.Ema;

/// <summary>
/// The ILGPU kernel without a device, twice: as C# on ILGPU's CPU accelerator, and as the PTX that a device would get, interpreted; and on
/// a device where there is one. All give the bits of the Cpu backend.
/// </summary>
public class EmaUpdateIlgpuTests
{
    public enum Way
    {
        CpuAccelerator,
        Ptx,
        Device,
    }

    private static readonly double[] Decays = [0, 1e-9, 0.25, 0.5, 0.500001, 0.9, 0.999, 1 - 1e-9, 1];

    private static readonly DType[] Types = [DType.Float32, DType.BFloat16, DType.Float16];

    private static readonly Lazy<string> Ptx = new(() => Compile(8));

    // Elements from a boundary to source and averages: with a boundary in common, and without.
    private static readonly (int Source, int Average)[] Offsets = [(0, 0), (1, 1), (3, 3), (5, 1), (1, 0)];

    [Theory]
    [InlineData(Way.CpuAccelerator)]
    [InlineData(Way.Ptx)]
    [InlineData(Way.Device)]
    public void Gives_the_bits_of_the_Cpu_backend(Way way)
    {
        int[] lengths = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255];
        EmaTensor[] tensors =
        [
            .. from length in lengths
               from type in Types
               from offset in Offsets
               select new EmaTensor(length, type, offset.Source, offset.Average),
        ];

        Compare(way, tensors, Decays);
    }

    [Theory]
    [InlineData(Way.CpuAccelerator)]
    [InlineData(Way.Ptx)]
    [InlineData(Way.Device)]
    public void Gives_the_bits_of_the_Cpu_backend_over_several_pieces_of_a_tensor(Way way)
    {
        EmaTensor[] tensors =
        [
            .. from type in Types
               from tensor in (EmaTensor[])[new(600, type), new(4097, type, 3, 3), new(8200, type, 5, 1), new(5000, type, 1, 0)]
               select tensor,
        ];

        Compare(way, tensors, [0.25, 0.999]);
    }

    [Theory]
    [InlineData(Way.CpuAccelerator)]
    [InlineData(Way.Ptx)]
    [InlineData(Way.Device)]
    public void Special_values_follow_the_rule(Way way)
    {
        float[] values =
            [0f, -0f, 1f, float.PositiveInfinity, float.NegativeInfinity, float.NaN, float.MaxValue, float.MinValue, float.Epsilon];
        // Every pair: source value i / 9, average value i % 9; eighty-one of them meet the vectors and what is left over.
        float Value(int average, int i) => average < 0 ? values[i / 9 % 9] : values[i % 9];
        foreach (var decay in (double[])[0, 0.25, 0.9, 1])
        {
            // The numbers of the average's values follow those of the source's, of which there are 81.
            using var expected = new EmaTensors([new EmaTensor(81, DType.Float32)], 1, Value);
            using var actual = new EmaTensors([new EmaTensor(81, DType.Float32)], 1, Value);

            expected.Update([decay], AuxBackend.Cpu);
            Run(way, actual, [decay]);

            for (var i = 0; i < 81; i++)
            {
                var (left, right) = (expected.Average(0, 0)[i], actual.Average(0, 0)[i]);
                // Which NaN arithmetic gives is the hardware's affair; a copy, and a value that is kept, have their own bits.
                if (float.IsNaN(left) && decay is > 0 and < 1)
                    Assert.True(float.IsNaN(right));
                else
                    Assert.Equal(BitConverter.SingleToInt32Bits(left), BitConverter.SingleToInt32Bits(right));
            }
        }
    }

    [Theory]
    [InlineData(Way.CpuAccelerator)]
    [InlineData(Way.Ptx)]
    [InlineData(Way.Device)]
    public void Every_sixteen_bit_pattern_widens_exactly(Way way)
    {
        var bits = Enumerable.Range(0, 65536).Select(i => (ushort)i).ToArray();
        using var tensors = new EmaTensors(
            [new EmaTensor(65536, DType.BFloat16), new EmaTensor(65536, DType.Float16)], 1, (_, _) => 0);
        unsafe
        {
            for (var tensor = 0; tensor < 2; tensor++)
                bits.CopyTo(new Span<ushort>(tensors.Work.Source(tensor), bits.Length));
        }

        Run(way, tensors, [0]);

        for (var i = 0; i < 65536; i++)
        {
            Assert.Equal((float)BFloat16.FromBits((ushort)i), tensors.Average(0, 0)[i]);
            Assert.Equal((float)BitConverter.UInt16BitsToHalf((ushort)i), tensors.Average(1, 0)[i]);
        }
    }

    [Theory]
    [InlineData(Way.CpuAccelerator)]
    [InlineData(Way.Ptx)]
    [InlineData(Way.Device)]
    public void Many_averages_take_several_launches_for_their_decays(Way way) =>
        Compare(way, [new EmaTensor(70, DType.Float32), new EmaTensor(0, DType.Float16), new EmaTensor(9, DType.BFloat16, 1, 1)],
            [.. Enumerable.Range(1, 11).Select(i => 1 - 1.0 / (i * i))]);

    [Fact]
    public void The_kernel_reads_and_writes_sixteen_bytes_at_a_time_where_it_may()
    {
        using var aligned = new EmaTensors([.. Types.Select(type => new EmaTensor(4096, type))], 2, Random(1));
        using var odd = new EmaTensors([.. Types.Select(type => new EmaTensor(4096, type, 1, 0))], 2, Random(1));

        var vectors = RunPtx(aligned, [0.5, 0.75]).Executed;
        var singles = RunPtx(odd, [0.5, 0.75]).Executed;

        // Four float32 of each average; of the sources, 16 bytes are 4 or 8 elements.
        Assert.Equal(2 * 3 * 1024, vectors["st.global.v4.f32"]);
        Assert.Equal(2 * 3 * 1024 + 1024, vectors["ld.global.v4.f32"]);
        Assert.Equal(2 * 512, vectors["ld.global.v4.b32"]);
        Assert.False(vectors.ContainsKey("st.global.f32"));
        Assert.False(singles.ContainsKey("st.global.v4.f32"));
        Assert.Equal(2 * 3 * 4096, singles["st.global.f32"]);
    }

    [Fact]
    public void A_decay_of_one_reads_and_writes_nothing()
    {
        using var tensors = new EmaTensors([new EmaTensor(4096, DType.Float32)], 1, Random(1));

        var executed = RunPtx(tensors, [1]).Executed;

        Assert.Equal(1024, executed["ld.global.v4.f32"]); // the source, for averages that may follow
        Assert.DoesNotContain(executed.Keys, name => name.StartsWith("st.", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(8)]
    [InlineData(9)]
    [InlineData(12)]
    public void The_compiled_kernel_fuses_and_accesses_global_memory_only(int computeCapability)
    {
        var ptx = Compile(computeCapability);
        var kernel = ptx[ptx.IndexOf(".entry", StringComparison.Ordinal)..];

        foreach (var expected in (string[])["ld.global.v4.f32", "st.global.v4.f32", "ld.global.v4.b32", "fma.rn.f32", "cvt.f32.f16"])
            Assert.Contains($"\t{expected}\t", kernel, StringComparison.Ordinal);
        // Loads through pointers of any address space, local memory, calls, and products that the driver's compiler may fuse or not.
        string[] notThere = ["ld.f32", "ld.v4", "ld.b", "st.f32", "st.v4", "local", "call", "mul.f32", "mul.rn", "add.f32", "mad.f32"];
        foreach (var unwanted in notThere)
            Assert.DoesNotContain(unwanted, kernel, StringComparison.Ordinal);
        Assert.Contains(".maxntid 256, 1, 1", kernel, StringComparison.Ordinal);
    }

    [Fact]
    public void The_compiled_kernel_is_the_one_that_was_reviewed() => PtxSnapshot.Compare("EmaUpdate.Ilgpu.ptx", Ptx.Value);

    [Fact]
    public void An_address_that_is_not_aligned_is_refused()
    {
        using var tensors = new EmaTensors([new EmaTensor(4, DType.Float32)], 1, (_, _) => 1);
        var before = tensors.Bytes.ToArray();
        unsafe
        {
            var source = TensorView.FromPointer((byte*)tensors.Work.Source(0) + 2, DType.Float32, [1], owner: tensors);
            var average = TensorView.FromPointer(tensors.Work.Average(0, 0), DType.Float32, [1], owner: tensors);
            var oddAverage = TensorView.FromPointer((byte*)tensors.Work.Average(0, 0) + 1, DType.Float32, [1], owner: tensors);
            var half = TensorView.FromPointer((byte*)tensors.Work.Source(0) + 1, DType.Float16, [1], owner: tensors);

            Refused("sources[0]: ", "elements of 4 bytes", () => EmaUpdate.Run(average, source, 0.5, AuxBackend.Ilgpu));
            Refused("averages[0][0]: ", "elements of 4 bytes", () => EmaUpdate.Run(oddAverage, View(), 0.5, AuxBackend.Ilgpu));
            Refused("sources[0]: ", "elements of 2 bytes", () => EmaUpdate.Run(average, half, 0.5, AuxBackend.Ilgpu));

            TensorView View() => TensorView.FromPointer(tensors.Work.Source(0), DType.Float32, [1], owner: tensors);
        }

        Assert.True(tensors.Bytes.SequenceEqual(before));

        static void Refused(string name, string size, Action action) => IlgpuBackend.WithCpu(() =>
        {
            var error = Assert.Throws<ArgumentException>(action);
            Assert.StartsWith(name, error.Message, StringComparison.Ordinal);
            Assert.Contains(size, error.Message, StringComparison.Ordinal);
        });
    }

    [Fact]
    public void Host_memory_is_refused_outside_of_tests()
    {
        var average = new float[] { 1 };

        var error = Assert.Throws<BackendUnavailableException>(() => EmaUpdate.Run(average, new float[1], 0.5, AuxBackend.Ilgpu));

        Assert.Equal(AuxBackend.Ilgpu, error.Backend);
        Assert.Equal([1], average);
    }

    [Fact]
    public void A_group_can_change_its_decays_and_its_backend()
    {
        var (source, average, expected) = (new float[] { 8, -3, 5 }, new float[3], new float[3]);
        using var group = EmaGroup.Pin<float>([source], [average]);
        using var other = EmaGroup.Pin<float>([source], [expected]);

        foreach (var (decay, backend) in ((double, AuxBackend)[])
            [(0.5, AuxBackend.Ilgpu), (0.5, AuxBackend.Ilgpu), (0.25, AuxBackend.Ilgpu), (0.9, AuxBackend.Cpu), (0.25, AuxBackend.Ilgpu)])
        {
            IlgpuBackend.WithCpu(() => group.Update(decay, backend));
            other.Update(decay, AuxBackend.Cpu);
        }

        Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(average));
    }

    private static void Compare(Way way, EmaTensor[] tensors, double[] decays)
    {
        using var expected = new EmaTensors(tensors, decays.Length, Random(7));
        using var actual = new EmaTensors(tensors, decays.Length, Random(7));

        expected.Update(decays, AuxBackend.Cpu);
        Run(way, actual, decays);

        var difference = expected.Bytes.CommonPrefixLength(actual.Bytes);
        Assert.True(difference == expected.ByteCount, $"byte {difference} of {expected.ByteCount} differs"); // canaries and sources too
    }

    private static Func<int, int, float> Random(int seed)
    {
        var random = new Random(seed);
        return (_, _) => random.Next(8) switch
        {
            0 => 0,
            1 => (float)random.NextDouble() * 1e-6f,
            2 => (float)(random.NextDouble() - 0.5) * 1e4f,
            3 => 1, // so that some sources equal their averages
            _ => (float)(random.NextDouble() - 0.5) * 2,
        };
    }

    private static void Run(Way way, EmaTensors tensors, double[] decays)
    {
        switch (way)
        {
            case Way.CpuAccelerator:
                IlgpuBackend.WithCpu(() => tensors.Update(decays, AuxBackend.Ilgpu));
                break;
            case Way.Ptx:
                RunPtx(tensors, decays);
                break;
            default:
                CudaDriver.Require();
                Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled; the way Ptx does");
                tensors.UpdateOnDevice(decays, AuxBackend.Ilgpu);
                break;
        }
    }

    /// <summary>What EmaUpdate.Ilgpu.cs does with a device: a table, steps, a launch.</summary>
    private static unsafe PtxInterpreter RunPtx(EmaTensors tensors, double[] decays)
    {
        var work = tensors.Work;
        var layout = EmaUpdate.EmaPieces.Of(work, (_, _) => null);
        var memory = new HostPtxMemory();
        var kernel = new PtxInterpreter(Ptx.Value, "Kernel_EmaUpdate", memory);
        EmaStep[] steps = [.. decays.Select(EmaStep.Of)];
        fixed (EmaPiece* pieces = layout.Pieces)
        fixed (long* averages = layout.Averages)
        fixed (EmaStep* firstStep = steps)
        {
            memory.Allow(pieces, layout.Pieces.Length * sizeof(EmaPiece), writable: false);
            memory.Allow(averages, layout.Averages.Length * sizeof(long), writable: false);
            memory.Allow(firstStep, steps.Length * sizeof(EmaStep), writable: false);
            for (var tensor = 0; tensor < work.TensorCount; tensor++)
            {
                var count = work.Offset(tensor + 1) - work.Offset(tensor);
                memory.Allow(work.Source(tensor), count * work.SourceType(tensor).Size(), writable: false);
                for (var k = 0; k < work.AverageCount; k++)
                    memory.Allow(work.Average(tensor, k), count * sizeof(float), writable: true);
            }

            // Four views of all memory, from address 0 on; then those of the tables.
            long[] parameters =
            [
                0, long.MaxValue / 16, 0, long.MaxValue / 16, 0, long.MaxValue / 4, 0, long.MaxValue / 2,
                (long)pieces, layout.Pieces.Length, (long)averages, layout.Averages.Length, (long)firstStep, steps.Length,
            ];
            kernel.Run((layout.Pieces.Length + 7) / 8, EmaKernel.Threads, MemoryMarshal.AsBytes<long>(parameters));
        }

        return kernel;
    }

    private static string Compile(int major) => IlgpuPtx.Compile(EmaKernel.EmaUpdate, EmaKernel.Threads, major);
}
