using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.Ilgpu;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.TokenPruning;

/// <summary>
/// The ILGPU kernel without a device, twice: as C# on ILGPU's CPU accelerator, and as the PTX that a device would get, interpreted; and on
/// a device where there is one. All give the Cpu backend's selection, number by number.
/// </summary>
public class TokenSelectIlgpuTests
{
    private const int Canary = -77;

    private static readonly Lazy<string> Ptx = new(() => IlgpuPtx.Compile(TokenSelectKernel.Select, TokenSelectKernel.Threads, 8));

    private static readonly int[][] Segmentations = [[0], [0, 0], [0, 1], [0, 3, 3, 10], [0, 33, 97], [0, 300]];

    private static readonly Budget[] Budgets =
    [
        Budget.Count(0), Budget.Ratio(0.11), Budget.Ratio(0.5), Budget.Ratio(1), Budget.Threshold(-0f), Budget.Threshold(0.25f),
        Budget.Threshold(float.PositiveInfinity), Budget.TopP(0), Budget.TopP(0.3), Budget.TopP(1), Budget.Outliers(0), Budget.Outliers(),
        Budget.Outliers(1e300), Budget.Threshold(0.25f).Within(2, 9), Budget.TopP(0.5).Within(3, 40), Budget.Ratio(0.5).Within(5, 20),
    ];

    public static TheoryData<DType, int> Matrix => new MatrixTheoryData<DType, int>(
        [DType.Float32, DType.BFloat16, DType.Float16], [0, 1, 2, 3]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void On_the_Cpu_accelerator_gives_the_Cpus_selection(DType type, int seed) =>
        CompareAll(type, seed, every: 13, (call, found) => IlgpuBackend.WithCpu(() => call.Run(found, AuxBackend.Ilgpu)));

    [Theory]
    [MemberData(nameof(Matrix))]
    public void As_PTX_gives_the_Cpus_selection(DType type, int seed) => CompareAll(type, seed, every: 1, RunPtx);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void On_a_device_gives_the_Cpus_selection(DType type, int seed)
    {
        CudaDriver.Require();
        Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled; as PTX it is interpreted");
        CompareAll(type, seed, every: 1, RunOnDevice);
        Compare(new(RandomScores.Of(20_001, seed), [0, 20_001], Budget.TopP(0.5), type, seed), RunOnDevice);
        Compare(new(RandomScores.Of(20_001, seed), [0, 20_001], Budget.Count(2223), type, seed), RunOnDevice);
    }

    [Fact]
    public void Device_memory_that_says_nonsense_is_held_within_tokens_and_capacity()
    {
        // Segments beyond the tokens, a count beyond a segment, and no place for all that is kept: the interpreter checks every access.
        var call = new Call([1, 2, 3], [-5, 2, 99], Budget.Count(3), DType.Float32, 0);
        var found = new Found(indices: 2, segments: 2, tokens: 3);
        RunPtx(call, found);
        Assert.Equal([0, 1], found.Indices);
        Assert.Equal([0, 2, 3], found.Offsets);
        Assert.Equal([0, 1, 2], found.Slots);
    }

    [Fact]
    public void Without_its_barriers_the_kernel_is_wrong_and_the_interpreter_shows_it()
    {
        var call = new Call(RandomScores.Of(300, 1), [0, 300], Budget.Count(100), DType.Float32, 0);
        var broken = string.Join('\n', Ptx.Value.Split('\n').Where(line => !line.Contains("bar.sync", StringComparison.Ordinal)));
        var (right, wrong) = (call.NewFound(100), call.NewFound(100));
        RunPtx(call, right, Ptx.Value);
        RunPtx(call, wrong, broken);
        Assert.NotEqual(right.Indices, wrong.Indices);
    }

    [Fact]
    public void The_compiled_kernel_rounds_products_and_accesses_global_and_shared_memory_only()
    {
        var kernel = Ptx.Value[Ptx.Value.IndexOf(".entry", StringComparison.Ordinal)..];
        foreach (var wanted in (string[])["mul.rn.f64", "bar.sync", "red.add.shared.u32", "red.add.shared.u64", "ld.shared.b32"])
            Assert.Contains($"\t{wanted}", kernel, StringComparison.Ordinal);
        foreach (var unwanted in (string[])["ld.f32", "ld.b", "ld.u", "st.f32", "st.b", "local", "call", "atom", "fma", "mad.f"])
            Assert.DoesNotContain($"\t{unwanted}", kernel, StringComparison.Ordinal);
        Assert.Contains(".maxntid 256, 1, 1", kernel, StringComparison.Ordinal);
    }

    [Fact]
    public void The_compiled_kernel_is_the_one_that_was_reviewed() => PtxSnapshot.Compare("TokenSelect.Ilgpu.ptx", Ptx.Value);

    [Fact]
    public unsafe void An_address_that_is_not_aligned_is_refused_before_anything_is_written()
    {
        var memory = stackalloc int[16];
        new Span<int>(memory, 16).Fill(Canary);
        memory[12] = 0;
        memory[13] = 2;
        var scores = TensorView.FromPointer((byte*)memory + 2, DType.Float32, [2]);
        var selection = new SelectionViews
        {
            Indices = TensorView.FromPointer(memory + 4, DType.Int32, [1]), Offsets = TensorView.FromPointer(memory + 6, DType.Int32, [2]),
        };
        var segments = TensorView.FromPointer(memory + 12, DType.Int32, [2]);
        IlgpuBackend.WithCpu(() => Assert.StartsWith(
            "scores: 0x",
            Assert.Throws<ArgumentException>(
                () => TokenSelect.Run(scores, segments, Budget.Count(1), selection, backend: AuxBackend.Ilgpu)).Message,
            StringComparison.Ordinal));
        Assert.All(new ReadOnlySpan<int>(memory, 12).ToArray(), value => Assert.Equal(Canary, value));
    }

    // On the CPU accelerator a call takes tens of milliseconds, so not every segmentation meets every budget there; over types and seeds
    // each does.
    private static void CompareAll(DType type, int seed, int every, Action<Call, Found> run)
    {
        var number = 3 * seed + (int)type;
        foreach (var segments in Segmentations)
        {
            foreach (var budget in Budgets)
            {
                if (number++ % every == 0)
                    Compare(new(RandomScores.Of(segments[^1], seed), segments, budget, type, seed), run);
            }
        }
    }

    private static void Compare(Call call, Action<Call, Found> run)
    {
        var capacity = TokenSelect.Capacity(call.Segments, call.Budget, call.Always);
        var (expected, actual) = (call.NewFound(capacity), call.NewFound(capacity));
        call.Run(expected, AuxBackend.Cpu);
        run(call, actual);
        Assert.Equal(expected.Offsets, actual.Offsets);
        Assert.Equal(expected.Indices, actual.Indices);
        Assert.Equal(expected.Slots, actual.Slots);
        Assert.Equal(expected.NaNCounts, actual.NaNCounts);
    }

    /// <summary>What TokenSelect.Ilgpu.cs does with a device.</summary>
    private static void RunPtx(Call call, Found found) => RunPtx(call, found, Ptx.Value);

    private static void RunPtx(Call call, Found found, string ptx)
    {
        using var memory = new PtxArrays();
        var segments = call.Segments.Length - 1;
        var needsCuts = segments > 1 && (call.Always.Length > 0 || call.Budget.Rule >= BudgetRule.Threshold);
        var parameters = new PtxViews
        {
            Scores = call.Type == DType.Float32 ? memory.Add(call.Scores) : default,
            NarrowScores = call.Type == DType.Float32 ? default : memory.Add(call.Narrow()),
            Bounds = memory.Add(call.Segments),
            Always = memory.Add(call.Always),
            Indices = memory.Add(found.Indices, writable: true),
            Offsets = memory.Add(found.Offsets, writable: true),
            Slots = memory.Add(found.Slots, writable: true),
            NaNCounts = memory.Add(found.NaNCounts, writable: true),
            Cuts = needsCuts ? memory.AddCopy(new TokenCut[segments], writable: true) : default,
            Value = call.Budget.Value,
            Tokens = call.Scores.Length,
            Segments = segments,
            Kind = FloatKinds.Of(call.Type),
            Rule = call.Budget.Rule,
            Count = call.Budget.Tokens,
            Minimum = call.Budget.Minimum,
            Maximum = call.Budget.Maximum,
        };
        var kernel = new PtxInterpreter(ptx, "Kernel_Select", memory.Memory);
        foreach (var phases in needsCuts ? (int[])[TokenSelectKernel.Rank, TokenSelectKernel.Emit] : [3])
        {
            parameters.Phases = phases;
            kernel.Run(
                Math.Max(1, segments), 64, MemoryMarshal.AsBytes(new ReadOnlySpan<PtxViews>(in parameters))[..kernel.ParameterBytes]);
        }
    }

    private static void RunOnDevice(Call call, Found found)
    {
        using var devices = new Devices();
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(TokenSelect.WorkspaceBytes(call.Segments.Length - 1)));
        var selection = new SelectionViews
        {
            Indices = devices.Add(found.Indices),
            Offsets = devices.Add(found.Offsets),
            Slots = devices.Add(found.Slots),
            NaNCounts = devices.Add(found.NaNCounts),
            Workspace = workspace.Length == 0 ? default : workspace.View(workspace.Length),
        };
        var scores = call.Type == DType.Float32 ? devices.Add(call.Scores)
            : call.Type == DType.BFloat16 ? devices.Add(RandomScores.As<BFloat16>(call.Scores).Stored)
            : devices.Add(RandomScores.As<Half>(call.Scores).Stored);
        TokenSelect.Run(
            scores, devices.Add(call.Segments), call.Budget, selection, call.Always.Length == 0 ? default : devices.Add(call.Always),
            AuxBackend.Ilgpu);
        Devices.Read<int>(selection.Indices).CopyTo(found.Indices, 0);
        Devices.Read<int>(selection.Offsets).CopyTo(found.Offsets, 0);
        Devices.Read<int>(selection.Slots).CopyTo(found.Slots, 0);
        Devices.Read<int>(selection.NaNCounts).CopyTo(found.NaNCounts, 0);
        devices.CheckMargins();
    }

    private sealed class Found(int indices, int segments, int tokens)
    {
        public int[] Indices { get; } = [.. Enumerable.Repeat(Canary, indices)];

        public int[] Offsets { get; } = new int[segments + 1];

        public int[] Slots { get; } = new int[tokens];

        public int[] NaNCounts { get; } = new int[segments];

        public Selection Spans => new() { Indices = Indices, Offsets = Offsets, Slots = Slots, NaNCounts = NaNCounts };
    }

    private sealed record Call(float[] Scores, int[] Segments, Budget Budget, DType Type, int Seed)
    {
        public bool[] Always { get; } = Seed % 2 == 0 ? [] : [.. Scores.Select((_, i) => i % 37 == Seed)];

        public Found NewFound(int capacity) => new(capacity, Segments.Length - 1, Scores.Length);

        public ushort[] Narrow() => Type == DType.BFloat16
            ? MemoryMarshal.Cast<BFloat16, ushort>(RandomScores.As<BFloat16>(Scores).Stored).ToArray()
            : MemoryMarshal.Cast<Half, ushort>(RandomScores.As<Half>(Scores).Stored).ToArray();

        public void Run(Found found, AuxBackend backend)
        {
            if (Type == DType.Float32)
                TokenSelect.Run(Scores, Segments, Budget, found.Spans, Always, backend);
            else if (Type == DType.BFloat16)
                TokenSelect.Run(RandomScores.As<BFloat16>(Scores).Stored, Segments, Budget, found.Spans, Always, backend);
            else
                TokenSelect.Run(RandomScores.As<Half>(Scores).Stored, Segments, Budget, found.Spans, Always, backend);
        }
    }

    /// <summary><see cref="TokenSelectKernelViews"/> as it lies in a launch's parameters.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct PtxViews
    {
        public PtxView Scores, NarrowScores, Bounds, Always, Indices, Offsets, Slots, NaNCounts, Cuts;
        public double Value;
        public int Tokens, Segments, Phases;
        public FloatKind Kind;
        public BudgetRule Rule;
        public int Count, Minimum, Maximum;
    }
}
