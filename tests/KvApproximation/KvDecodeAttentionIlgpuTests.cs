using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.Ilgpu;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>
/// The ILGPU kernels without a device, twice: as C# on ILGPU's CPU accelerator, and as the PTX that a device would get, interpreted; and on
/// a device where there is one. All are held against the formula in double, and the first two give the same bits.
/// </summary>
public unsafe class KvDecodeAttentionIlgpuTests
{
    private const float Canary = 12345.678f;

    private static readonly Lazy<Dictionary<string, string>> Ptx = new(() => new()
    {
        ["Attend"] = IlgpuPtx.Compile(KvDecodeAttentionKernel.Attend, KvDecodeAttentionKernel.Threads, 8),
        ["Merge"] = IlgpuPtx.Compile(KvDecodeAttentionKernel.Merge, KvDecodeAttentionKernel.Threads, 8),
    });

    // Groups of one to nine query heads, of which a block has four; lengths around a tile's 32; from 256 positions of room on, splits.
    private static readonly (KvAttentionShape Shape, int[] Lengths)[] Batches =
    [
        (new(2, 2, 2, 8, 40), [33, 31]), (new(2, 3, 1, 24, 33), [0, 1]), (new(1, 4, 1, 64, 70), [65]), (new(1, 10, 2, 40, 34), [32]),
        (new(1, 9, 1, 16, 32), [32]), (new(1, 1, 1, 256, 9), [9]), (new(1, 2, 1, 16, 600), [513]), (new(2, 3, 1, 8, 300), [300, 31]),
        (new(2, 5, 1, 8, 520), [0, 33]),
    ];

    public static TheoryData<int> Numbers => [.. Enumerable.Range(0, Batches.Length)];

    [Theory]
    [MemberData(nameof(Numbers))]
    public void On_the_Cpu_accelerator_agrees_with_the_formula_in_double(int number) => Batch(number, out _).RequireClose(
        OnCpu(Batch(number, out _), Batches[number].Shape), Tolerances.KvDecodeAttentionRelative);

    [Theory]
    [MemberData(nameof(Numbers))]
    public void As_PTX_agrees_with_the_formula_and_has_the_bits_of_the_Cpu_accelerator(int number)
    {
        var batch = Batch(number, out var shape);
        var output = AsPtx(batch, shape, fill: 0);
        batch.RequireClose(output, Tolerances.KvDecodeAttentionRelative);
        Assert.Equal(Devices.Bits(output), Devices.Bits(AsPtx(batch, shape, fill: 0xFF))); // again, with another workspace
        Assert.Equal(Devices.Bits(output), Devices.Bits(OnCpu(batch, shape))); // whose blocks are smaller
    }

    [Theory]
    [MemberData(nameof(Numbers))]
    public void On_a_device_agrees_with_the_formula_and_repeats_its_bits(int number)
    {
        CudaDriver.Require();
        Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled; as PTX it is interpreted");
        var batch = Batch(number, out var shape);
        var output = OnDevice(batch, shape);
        batch.RequireClose(output, Tolerances.KvDecodeAttentionRelative);
        Assert.Equal(Devices.Bits(output), Devices.Bits(OnDevice(batch, shape)));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(8)]
    public void Heads_that_are_ragged_and_keys_that_lie_with_values_agree_with_the_Cpu(int gap)
    {
        const int B = 2, Hkv = 2, Hq = 6, D = 16, N = 40;
        var (random, row) = (new Random(gap), D * N);
        var pool = new float[B * 2 * (Hkv * row + gap)]; // [B, keys and values, Hkv, N, d], and a gap behind each
        foreach (ref var element in pool.AsSpan())
            element = (float)(random.NextDouble() * 4 - 2);
        var query = pool[..(B * Hq * D)];
        int[] lengths = [40, 3, 0, 33];
        using var arrays = new PinnedArrays();
        long[] strides = [2 * (Hkv * row + gap), row, D, 1];
        var cache = new KvCacheViews
        {
            Keys = arrays.Strided(pool, DType.Float32, 0, [B, Hkv, N, D], strides),
            Values = arrays.Strided(pool, DType.Float32, Hkv * row + gap, [B, Hkv, N, D], strides),
        };
        var (expected, actual) = (new float[query.Length], Enumerable.Repeat(Canary, query.Length).ToArray());
        var (q, filled) = (arrays.View(query, B, Hq, D), arrays.View(lengths, B, Hkv));
        KvDecodeAttention.Run(q, cache, filled, arrays.View(expected, B, Hq, D), scale: 0.3, backend: AuxBackend.Cpu);
        IlgpuBackend.WithCpu(() =>
            KvDecodeAttention.Run(q, cache, filled, arrays.View(actual, B, Hq, D), scale: 0.3, backend: AuxBackend.Ilgpu));
        for (var i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], actual[i], 3e-6f);
    }

    [Fact]
    public void A_NaN_shows_in_the_heads_that_read_it_and_in_no_other()
    {
        foreach (var which in (string[])["query", "key", "value"])
        {
            foreach (var at in (int[])[0, 31, 32, 69])
            {
                var shape = new KvAttentionShape(1, 10, 2, 8, 70);
                var batch = new AttentionBatch(shape, [70], KvFormat.F32, KvFormat.F32);
                if (which == "query")
                    batch.Query[6 * 8 + at % 8] = float.NaN; // of the second group, which has the heads 5 … 9
                else
                    Floats(which == "key" ? batch.Keys : batch.Values)[(70 + at) * 8 + 5] = float.NaN;
                var output = AsPtx(batch, shape);
                for (var i = 0; i < output.Length; i++)
                {
                    var expected = which switch
                    {
                        "query" => i / 8 == 6,
                        "key" => i / 8 >= 5,
                        _ => i / 8 >= 5 && i % 8 == 5,
                    };
                    Assert.Equal(expected, float.IsNaN(output[i]));
                }
            }
        }
    }

    [Fact]
    public void Infinite_scores_are_defined_also_where_they_fill_a_split()
    {
        // Keys of −∞ get no weight, unless all are; a key of +∞ gives NaN. With room for 300 positions two splits have 160 and 140 of them.
        var shape = new KvAttentionShape(1, 4, 1, 8, 300);
        foreach (var (infinite, isNaN) in ((Range, bool)[])[(0..160, false), (3..300, false), (160..300, false), (0..300, true)])
        {
            var batch = new AttentionBatch(shape, [300], KvFormat.F32, KvFormat.F32);
            batch.Query.AsSpan().Fill(1);
            batch.Keys.AsSpan().Clear();
            Floats(batch.Values).Fill(2.5f);
            for (var t = infinite.Start.Value; t < infinite.End.Value; t++)
                Floats(batch.Keys)[t * 8] = float.NegativeInfinity;
            Assert.All(AsPtx(batch, shape), value => Assert.Equal(isNaN ? float.NaN : 2.5f, value, 1e-5f));
            Floats(batch.Keys)[infinite.End.Value * 8 - 8] = float.PositiveInfinity;
            Assert.All(AsPtx(batch, shape), value => Assert.True(float.IsNaN(value)));
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(32)]
    public void Positions_beyond_the_length_are_not_read_and_one_gives_its_value_exactly(int length)
    {
        var shape = new KvAttentionShape(1, 5, 1, 16, 40);
        var batch = new AttentionBatch(shape, [length], KvFormat.F32, KvFormat.F32);
        var clean = AsPtx(batch, shape);
        Floats(batch.Keys)[(length * 16)..].Fill(float.NaN);
        Floats(batch.Values)[(length * 16)..].Fill(float.NaN);
        Assert.Equal(Devices.Bits(clean), Devices.Bits(AsPtx(batch, shape)));
        Assert.DoesNotContain(float.NaN, clean);
        if (length <= 1)
            Assert.Equal(length == 0 ? new float[16] : Floats(batch.Values)[..16].ToArray(), clean[^16..]);
    }

    [Fact]
    public void Lengths_in_device_memory_are_held_within_the_capacity()
    {
        var shape = new KvAttentionShape(2, 2, 1, 8, 300);
        var batch = new AttentionBatch(shape, [300, 0], KvFormat.F32, KvFormat.F32);
        var expected = AsPtx(batch, shape);
        (batch.Lengths[0], batch.Lengths[1]) = (int.MaxValue, int.MinValue);
        Assert.Equal(Devices.Bits(expected), Devices.Bits(AsPtx(batch, shape))); // the interpreter checks every access
    }

    [Fact]
    public void Without_its_barriers_the_kernel_is_wrong_and_the_interpreter_shows_it()
    {
        var batch = Batch(2, out var shape);
        var broken = string.Join('\n', Ptx.Value["Attend"].Split('\n').Where(line => !line.Contains("bar.sync", StringComparison.Ordinal)));
        Assert.NotEqual(Devices.Bits(AsPtx(batch, shape)), Devices.Bits(AsPtx(batch, shape, attend: broken)));
    }

    [Fact]
    public void The_compiled_kernels_fuse_where_they_say_so_and_access_global_and_shared_memory_only()
    {
        foreach (var ptx in Ptx.Value.Values)
        {
            var kernel = ptx[ptx.IndexOf(".entry", StringComparison.Ordinal)..];
            Assert.Contains("\tfma.rn.f32\t", kernel, StringComparison.Ordinal);
            Assert.Contains("\tmul.rn.f32\t", kernel, StringComparison.Ordinal);
            foreach (var unwanted in (string[])["ld.f32", "ld.b", "ld.u", "st.f32", "st.b", "local", "call", "mul.f32", "approx", "atom"])
                Assert.DoesNotContain($"\t{unwanted}", kernel, StringComparison.Ordinal);
            Assert.Contains(".maxntid 128, 1, 1", kernel, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void The_compiled_kernels_are_those_that_were_reviewed() =>
        PtxSnapshot.Compare("KvDecodeAttention.Ilgpu.ptx", string.Join("\n", Ptx.Value["Attend"], Ptx.Value["Merge"]));

    [Fact]
    public void What_it_does_not_do_is_refused_before_anything_is_written()
    {
        using var arrays = new PinnedArrays();
        var output = arrays.View([.. Enumerable.Repeat(Canary, 2 * 32)], 1, 2, 32);
        var (query, lengths, zeros) = (arrays.View(new float[2 * 32], 1, 2, 32), arrays.View([1], 1), new float[2 * 32 * 32]);
        var (exact, narrow) = (arrays.View(zeros, 1, 1, 32, 32), arrays.View(new byte[32 * Q8Group.Bytes], 1, 1, 32, Q8Group.Bytes));
        var keys = new KvCacheViews { Keys = exact, Values = exact };

        Unavailable("Q8_0 has no ILGPU kernel, F32 has one", keys with { Keys = narrow, KeyFormat = KvFormat.Q8_0 });
        Unavailable("BF16 has no ILGPU kernel, F32 has one", keys with
        {
            Values = arrays.View(new BFloat16[32 * 32], 1, 1, 32, 32),
            ValueFormat = KvFormat.BF16,
        });
        Unavailable("it has no ILGPU kernel for paged caches", keys with
        {
            PageOffsets = arrays.View([0, 1], 2),
            Pages = arrays.View([0], 1),
        });
        Unavailable("it has no ILGPU kernel for sums of positions", keys, sums: arrays.View(new float[32], 1, 1, 32));
        Refused("heads of 12 elements; on ILGPU it may be a multiple of 8 up to 256", 12, 12);
        Refused("heads of 264 elements", 264, 264);
        var odd = (float*)arrays.View(new byte[4096], 4096).Address;
        Refused("keys: 0x", 8, 8, (float*)((byte*)odd + 2));

        void Unavailable(string reason, KvCacheViews cache, TensorView sums = default) => IlgpuBackend.WithCpu(() =>
        {
            var error = Assert.Throws<BackendUnavailableException>(
                () => KvDecodeAttention.Run(query, cache, lengths, output, sums, backend: AuxBackend.Ilgpu));
            Assert.Equal((AuxBackend.Ilgpu, reason), (error.Backend, error.Reason));
            RequireUntouched();
        });

        void Refused(string text, int d, int row, float* first = null) => IlgpuBackend.WithCpu(() =>
        {
            var rows = TensorView.FromPointer(first == null ? (float*)exact.Address : first, DType.Float32, [1, 1, 2, d]);
            var (q, o) = (arrays.View(new float[row], 1, 1, d), arrays.View([.. Enumerable.Repeat(Canary, row)], 1, 1, d));
            var error = Assert.Throws<ArgumentException>(
                () => KvDecodeAttention.Run(q, rows, KvFormat.F32, rows, KvFormat.F32, [2], o, backend: AuxBackend.Ilgpu));
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
            Assert.All(new ReadOnlySpan<float>((void*)o.Address, row).ToArray(), value => Assert.Equal(Canary, value));
        });

        void RequireUntouched() =>
            Assert.All(new ReadOnlySpan<float>((void*)output.Address, 2 * 32).ToArray(), value => Assert.Equal(Canary, value));
    }

    [Fact]
    public void Rows_of_bytes_that_begin_between_elements_are_refused()
    {
        // As bytes, sequences may be any number of them apart.
        using var arrays = new PinnedArrays();
        var rows = arrays.Strided(new byte[128], DType.UInt8, 0, [2, 1, 1, 32], [34, 32, 32, 1]);
        var output = new float[2 * 8];
        IlgpuBackend.WithCpu(() =>
        {
            var error = Assert.Throws<ArgumentException>(() => KvDecodeAttention.Run(
                arrays.View(new float[2 * 8], 2, 1, 8), new KvCacheViews { Keys = rows, Values = rows }, arrays.View([1, 1], 2),
                arrays.View(output, 2, 1, 8), backend: AuxBackend.Ilgpu));
            Assert.StartsWith("cache.Keys: steps of 34 and 32 bytes", error.Message, StringComparison.Ordinal);
        });
        Assert.Equal(new float[2 * 8], output);
    }

    private static AttentionBatch Batch(int number, out KvAttentionShape shape)
    {
        (shape, var lengths) = Batches[number];
        return new(shape, lengths, KvFormat.F32, KvFormat.F32, seed: number);
    }

    private static float[] OnCpu(AttentionBatch batch, KvAttentionShape shape)
    {
        var output = new float[batch.Query.Length + 2];
        (output[0], output[^1]) = (Canary, Canary);
        IlgpuBackend.WithCpu(() => batch.Run(output.AsSpan(1..^1), AuxBackend.Ilgpu));
        Assert.Equal((Canary, Canary), (output[0], output[^1]));
        Assert.Equal(shape.QueryElements, output.Length - 2);
        return output[1..^1];
    }

    /// <summary>What KvDecodeAttention.Ilgpu.cs does with a device.</summary>
    private static float[] AsPtx(AttentionBatch batch, KvAttentionShape shape, byte fill = 0x7F, string? attend = null)
    {
        using var memory = new PtxArrays();
        var headBlocks = (shape.HeadsPerGroup + 3) / 4;
        var splits = Math.Min(1056 / (shape.Batch * shape.KvHeads * headBlocks), shape.Capacity / 256 + 1);
        var parts = splits == 1 ? 0 : shape.Batch * shape.QueryHeads * splits;
        var output = memory.AddCopy([.. Enumerable.Repeat(Canary, batch.Query.Length)], writable: true);
        var parameters = new PtxViews
        {
            Query = memory.AddCopy(batch.Query),
            Keys = memory.AddCopy(Floats(batch.Keys).ToArray()),
            Values = memory.AddCopy(Floats(batch.Values).ToArray()),
            Lengths = memory.AddCopy(batch.Lengths),
            Output = output,
            Maxima = Space(parts),
            Totals = Space(parts),
            Partials = Space(parts * shape.HeadDim),
            KeySequenceStep = shape.KvHeads * shape.Capacity * shape.HeadDim,
            KeyHeadStep = shape.Capacity * shape.HeadDim,
            ValueSequenceStep = shape.KvHeads * shape.Capacity * shape.HeadDim,
            ValueHeadStep = shape.Capacity * shape.HeadDim,
            Factor = 1 / Math.Sqrt(shape.HeadDim) * double.Log2(Math.E),
            QueryHeads = shape.QueryHeads,
            KvHeads = shape.KvHeads,
            HeadDim = shape.HeadDim,
            Positions = shape.Capacity,
            Splits = splits,
        };
        Launch("Attend", attend ?? Ptx.Value["Attend"], shape.Batch * shape.KvHeads * headBlocks * splits, 64);
        if (splits > 1)
            Launch("Merge", Ptx.Value["Merge"], (batch.Query.Length + 31) / 32, 32);
        return PtxArrays.Read<float>(output);

        PtxView Space(int count)
        {
            var bytes = new byte[count * sizeof(float)];
            bytes.AsSpan().Fill(fill);
            return memory.AddCopy(Floats(bytes).ToArray(), writable: true);
        }

        void Launch(string name, string ptx, int blocks, int threads)
        {
            var kernel = new PtxInterpreter(ptx, $"Kernel_{name}", memory.Memory);
            kernel.Run(blocks, threads, MemoryMarshal.AsBytes(new ReadOnlySpan<PtxViews>(in parameters))[..kernel.ParameterBytes]);
        }
    }

    private static float[] OnDevice(AttentionBatch batch, KvAttentionShape shape)
    {
        using var devices = new Devices();
        var bytes = KvDecodeAttention.WorkspaceBytes(shape);
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(bytes));
        long[] rows = [shape.Batch, shape.KvHeads, shape.Capacity, shape.HeadDim];
        var output = devices.Add(new float[batch.Query.Length], shape.Batch, shape.QueryHeads, shape.HeadDim);
        KvDecodeAttention.Run(
            devices.Add(batch.Query, shape.Batch, shape.QueryHeads, shape.HeadDim), devices.Add(Floats(batch.Keys).ToArray(), rows),
            KvFormat.F32, devices.Add(Floats(batch.Values).ToArray(), rows), KvFormat.F32, batch.Lengths, output,
            backend: AuxBackend.Ilgpu, workspace: workspace.View(bytes));
        devices.CheckMargins();
        return Devices.Read<float>(output);
    }

    private static Span<float> Floats(byte[] bytes) => MemoryMarshal.Cast<byte, float>(bytes.AsSpan());

    /// <summary><see cref="KvDecodeAttentionViews"/> as it lies in a launch's parameters.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct PtxViews
    {
        public PtxView Query, Keys, Values, Lengths, Output, Maxima, Totals, Partials;
        public long KeySequenceStep, KeyHeadStep, ValueSequenceStep, ValueHeadStep;
        public double Factor;
        public int QueryHeads, KvHeads, HeadDim, Positions, Splits, LengthsAreOfHeads;
    }
}
