using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.Ilgpu;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>
/// The ILGPU kernel without a device, twice: as C# on ILGPU's CPU accelerator, and as the PTX that a device would get, interpreted; and on
/// a device where there is one. All give the bits of the Cpu backend.
/// </summary>
public class TabularTdIlgpuTests
{
    private static readonly Lazy<string> Ptx = new(() => IlgpuPtx.Compile(TabularTdKernel.Update, TabularTdKernel.Threads, 8));

    public static TheoryData<TransitionOrder, Start> Matrix =>
        new MatrixTheoryData<TransitionOrder, Start>(Enum.GetValues<TransitionOrder>(), Enum.GetValues<Start>());

    [Theory]
    [MemberData(nameof(Matrix))]
    public void On_the_Cpu_accelerator_gives_the_bits_of_the_Cpu_backend(TransitionOrder order, Start start) =>
        Compare(order, start, (batch, table) => IlgpuBackend.WithCpu(() => TabularTd.Run(
            table, batch.States, batch.Current, batch.Next, batch.Done, 0.3, 0.9, start, true, order, AuxBackend.Ilgpu)));

    [Theory]
    [MemberData(nameof(Matrix))]
    public void As_PTX_gives_the_bits_of_the_Cpu_backend(TransitionOrder order, Start start) =>
        Compare(order, start, (batch, table) => RunPtx(batch, table, order, start));

    [Theory]
    [MemberData(nameof(Matrix))]
    public void On_a_device_gives_the_bits_of_the_Cpu_backend(TransitionOrder order, Start start)
    {
        CudaDriver.Require();
        Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled; as PTX it is interpreted");
        Compare(order, start, (batch, table) =>
        {
            using var devices = new Devices();
            var measure = devices.Add(table, batch.States, batch.States);
            TabularTd.Run(
                measure, devices.Add(batch.Current), devices.Add(batch.Next), devices.Add(batch.Done), 0.3, 0.9, start, true, order,
                order == TransitionOrder.Snapshot ? devices.Add((float[])table.Clone(), batch.States, batch.States) : default,
                backend: AuxBackend.Ilgpu);
            Devices.Read<float>(measure).CopyTo(table, 0);
            devices.CheckMargins();
        });
    }

    [Fact]
    public void States_out_of_range_touch_no_other_memory()
    {
        var batch = new TabularTdTests.Transitions(5, 12, seed: 2);
        (batch.Current[1], batch.Current[2], batch.Next[4], batch.Next[5]) = (-1, 5, 9, -3);
        (batch.Done[4], batch.Done[5]) = (false, true);
        var expected = (float[])batch.Table.Clone();
        for (var i = 0; i < 12; i++)
        {
            var (s, next) = (batch.Current[i], batch.Next[i]);
            if (s is < 0 or >= 5)
                continue;
            if (next is >= 0 and < 5)
                TabularTd.Run(
                    expected, 5, batch.Current.AsSpan(i, 1), batch.Next.AsSpan(i, 1), batch.Done.AsSpan(i, 1), 0.3, 0.9, Start.Next, true);
            else
                expected.AsSpan(s * 5, 5).Fill(float.NaN);
        }

        var actual = (float[])batch.Table.Clone();
        RunPtx(batch, actual, TransitionOrder.Sequential, Start.Next); // whose memory checks every access

        Assert.Equal(Devices.Bits(expected), Devices.Bits(actual));
    }

    [Fact]
    public void The_compiled_kernel_fuses_and_accesses_global_memory_only()
    {
        var kernel = Ptx.Value[Ptx.Value.IndexOf(".entry", StringComparison.Ordinal)..];
        Assert.Contains("\tfma.rn.f32\t", kernel, StringComparison.Ordinal);
        foreach (var unwanted in (string[])["ld.f32", "ld.b", "ld.u", "st.f32", "local", "call", "mul.f32", "mad.f32"])
            Assert.DoesNotContain($"\t{unwanted}", kernel, StringComparison.Ordinal);
    }

    [Fact]
    public void The_compiled_kernel_is_the_one_that_was_reviewed() => PtxSnapshot.Compare("TabularTd.Ilgpu.ptx", Ptx.Value);

    private static void Compare(TransitionOrder order, Start start, Action<TabularTdTests.Transitions, float[]> run)
    {
        foreach (var (states, transitions) in ((int, int)[])[(1, 0), (1, 4), (7, 40), (33, 20), (40, 65)])
        {
            var batch = new TabularTdTests.Transitions(states, transitions, seed: states);
            var (expected, actual) = ((float[])batch.Table.Clone(), (float[])batch.Table.Clone());
            TabularTd.Run(expected, states, batch.Current, batch.Next, batch.Done, 0.3, 0.9, start, true, order);
            run(batch, actual);
            Assert.Equal(Devices.Bits(expected), Devices.Bits(actual));
        }
    }

    /// <summary>What TabularTd.Ilgpu.cs does with a device.</summary>
    private static void RunPtx(TabularTdTests.Transitions batch, float[] table, TransitionOrder order, Start start)
    {
        using var memory = new PtxArrays();
        var measure = memory.Add(table, writable: true);
        var parameters = new PtxViews
        {
            Measure = measure,
            Snapshot = order == TransitionOrder.Snapshot ? memory.Add((float[])table.Clone()) : measure,
            Current = memory.Add(batch.Current),
            Next = memory.Add(batch.Next),
            Done = memory.Add(batch.Done),
            States = batch.States,
            Transitions = batch.Current.Length,
            CountsNext = start == Start.Next ? 1 : 0,
            StepSize = 0.3f,
            Discount = 0.9f,
            Height = (float)(1 - 0.9),
        };
        var kernel = new PtxInterpreter(Ptx.Value, "Kernel_Update", memory.Memory);
        kernel.Run(
            (batch.States + 31) / 32, TabularTdKernel.Threads,
            MemoryMarshal.AsBytes(new ReadOnlySpan<PtxViews>(in parameters))[..kernel.ParameterBytes]);
    }

    /// <summary><see cref="TabularTdViews"/> as it lies in a launch's parameters.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct PtxViews
    {
        public PtxView Measure, Snapshot, Current, Next, Done;
        public int States, Transitions, CountsNext;
        public float StepSize, Discount, Height;
    }
}
