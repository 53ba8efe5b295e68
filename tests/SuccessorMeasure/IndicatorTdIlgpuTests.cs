using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.Ilgpu;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>
/// The ILGPU kernels without a device, twice: as C# on ILGPU's CPU accelerator, and as the PTX that a device would get, interpreted; and on
/// a device where there is one. All give the bits of the Cpu backend, but for sums in another order.
/// </summary>
public class IndicatorTdIlgpuTests
{
    private static readonly (int Rows, int Tasks)[] Sizes = [(1, 1), (2, 7), (3, 9), (5, 33), (9, 16)];

    private static readonly (string Name, Action<IndicatorTdViews> Kernel)[] Kernels =
    [
        ("Gradient", IndicatorTdKernel.Gradient), ("RowLosses", IndicatorTdKernel.RowLosses), ("Loss", IndicatorTdKernel.Loss),
        ("Columns", IndicatorTdKernel.Columns),
    ];

    private static readonly Lazy<Dictionary<string, string>> Ptx = new(
        () => Kernels.ToDictionary(kernel => kernel.Name, kernel => IlgpuPtx.Compile(kernel.Kernel, IndicatorTdKernel.Threads, 8)));

    public static TheoryData<Given, bool> Matrix => new MatrixTheoryData<Given, bool>(Enum.GetValues<Given>(), [false, true]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void On_the_Cpu_accelerator_gives_the_bits_of_the_Cpu_backend(Given given, bool narrow)
    {
        foreach (var (rows, tasks) in Sizes)
        {
            var batch = new TdBatch(rows, tasks, seed: rows + tasks);
            Compare(batch, given, narrow, outputs => IlgpuBackend.WithCpu(() => Run(batch, given, narrow, outputs, AuxBackend.Ilgpu)));
        }
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public void As_PTX_gives_the_bits_of_the_Cpu_backend(Given given, bool narrow)
    {
        foreach (var (rows, tasks) in Sizes)
        {
            var batch = new TdBatch(rows, tasks, seed: rows + tasks);
            Compare(batch, given, narrow, outputs => RunPtx(batch, given, narrow, outputs));
        }
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public void On_a_device_gives_the_bits_of_the_Cpu_backend(Given given, bool narrow)
    {
        CudaDriver.Require();
        Assert.SkipWhen(CudaDriver.IsStandin, "the stand-in driver does not run what ILGPU compiled; as PTX it is interpreted");
        foreach (var (rows, tasks) in Sizes.Append((300, 100)))
        {
            var batch = new TdBatch(rows, tasks, seed: rows + tasks);
            Compare(batch, given, narrow, outputs =>
            {
                using var devices = new Devices();
                var on = new IndicatorTdCudaTests.DeviceBatch(devices, batch, given, narrow);
                IndicatorTd.Run(on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Current, true, on.Outputs, AuxBackend.Ilgpu);
                Devices.Read<float>(on.Outputs.Gradient).CopyTo(outputs.Gradient, 0);
                Devices.Read<double>(on.Outputs.RowLosses).CopyTo(outputs.RowLosses, 0);
                Devices.Read<double>(on.Outputs.Loss).CopyTo(outputs.Loss, 0);
                Devices.Read<int>(on.Outputs.ActiveCounts).CopyTo(outputs.ActiveCounts, 0);
                Devices.Read<float>(on.Outputs.MeanAbsoluteErrors).CopyTo(outputs.MeanAbsoluteErrors, 0);
                devices.CheckMargins();
            });
        }
    }

    [Fact]
    public void NaNs_show_and_terminal_rows_are_not_read()
    {
        var batch = new TdBatch(4, 12, seed: 3, doneRate: 0);
        batch.Done[1] = true;
        batch.Next.AsSpan(12, 12).Fill(float.NaN);
        batch.Features[2 * 12 + 7] = float.NaN;
        batch.Prediction[3 * 12 + 8] = float.NaN;
        foreach (var way in (Action<Outputs>[])
            [
                outputs => IlgpuBackend.WithCpu(() => Run(batch, Given.Features, false, outputs, AuxBackend.Ilgpu)),
                outputs => RunPtx(batch, Given.Features, false, outputs),
            ])
        {
            var outputs = new Outputs(4, 12);
            way(outputs);
            Assert.True(double.IsNaN(outputs.Loss[0]));
            Assert.Equal([false, false, true, true], outputs.RowLosses.Select(double.IsNaN));
            Assert.Equal(-1, outputs.ActiveCounts[7]);
            Assert.Single(outputs.ActiveCounts, -1);
            Assert.Equal(2, outputs.Gradient.Count(float.IsNaN));
        }
    }

    [Fact]
    public void The_compiled_kernels_fuse_where_they_say_so_and_access_global_memory_only()
    {
        foreach (var (name, ptx) in Ptx.Value)
        {
            var kernel = ptx[ptx.IndexOf(".entry", StringComparison.Ordinal)..];
            if (name != "Loss")
                Assert.Contains("\tfma.rn.f32\t", kernel, StringComparison.Ordinal);
            foreach (var unwanted in (string[])["ld.f32", "ld.b", "ld.u", "ld.f64", "st.f32", "st.f64", "st.b", "local", "call"])
                Assert.DoesNotContain($"\t{unwanted}", kernel, StringComparison.Ordinal);
            Assert.Contains(".maxntid 256, 1, 1", kernel, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void The_compiled_kernels_are_those_that_were_reviewed() =>
        PtxSnapshot.Compare("IndicatorTd.Ilgpu.ptx", string.Join("\n", Kernels.Select(kernel => Ptx.Value[kernel.Name])));

    [Fact]
    public unsafe void An_address_that_is_not_aligned_is_refused()
    {
        var memory = stackalloc double[16];
        new Span<double>(memory, 16).Clear();
        var values = TensorView.FromPointer(memory, DType.Float32, [1, 2]);
        var done = TensorView.FromPointer(memory, DType.Bool, [1]);
        var sets = IndicatorViews.Packed(TensorView.FromPointer(memory, DType.UInt8, [1, 1]));
        foreach (var (name, view, outputs) in ((string, TensorView, TdOutputs)[])
            [
                ("prediction", TensorView.FromPointer((byte*)memory + 2, DType.Float32, [1, 2]),
                    new TdOutputs { Gradient = TensorView.FromPointer(memory + 8, DType.Float32, [1, 2]) }),
                ("gradient", values, new TdOutputs { Gradient = TensorView.FromPointer((byte*)(memory + 8) + 1, DType.Float32, [1, 2]) }),
                ("rowLosses", values, new TdOutputs { RowLosses = TensorView.FromPointer((byte*)(memory + 8) + 4, DType.Float64, [1]) }),
            ])
        {
            IlgpuBackend.WithCpu(() => Assert.StartsWith(
                $"{name}: 0x",
                Assert.Throws<ArgumentException>(
                    () => IndicatorTd.Run(view, values, done, sets, 0.5, Start.Current, false, outputs, AuxBackend.Ilgpu)).Message,
                StringComparison.Ordinal));
        }

        Assert.All(new ReadOnlySpan<double>(memory, 16).ToArray(), value => Assert.Equal(0, value));
    }

    private static void Compare(TdBatch batch, Given given, bool narrow, Action<Outputs> run)
    {
        var (expected, actual) = (new Outputs(batch.Rows, batch.Tasks), new Outputs(batch.Rows, batch.Tasks));
        Run(batch, given, narrow, expected, AuxBackend.Cpu);
        run(actual);
        Assert.Equal(Devices.Bits(expected.Gradient), Devices.Bits(actual.Gradient));
        Assert.Equal(expected.ActiveCounts, actual.ActiveCounts);
        Assert.Equal(expected.Loss[0], actual.Loss[0], 1e-13 * expected.Loss[0]);
        foreach (var (e, a) in expected.RowLosses.Zip(actual.RowLosses))
            Assert.Equal(e, a, 1e-13 * e);
        foreach (var (e, a) in expected.MeanAbsoluteErrors.Zip(actual.MeanAbsoluteErrors))
            Assert.Equal(e, a, 1e-6 * e);
    }

    private static void Run(TdBatch batch, Given given, bool narrow, Outputs outputs, AuxBackend backend)
    {
        var statistics = new TdStatistics
        {
            RowLosses = outputs.RowLosses, ActiveCounts = outputs.ActiveCounts, MeanAbsoluteErrors = outputs.MeanAbsoluteErrors,
        };
        outputs.Loss[0] = narrow
            ? IndicatorTd.Run(
                TdBatch.Narrow(batch.Prediction), TdBatch.Narrow(batch.Next), batch.Done, batch.Sets(given), batch.Tasks, 0.9,
                Start.Current, true, outputs.Gradient, statistics, backend)
            : IndicatorTd.Run(
                batch.Prediction, batch.Next, batch.Done, batch.Sets(given), batch.Tasks, 0.9, Start.Current, true, outputs.Gradient,
                statistics, backend);
    }

    /// <summary>What IndicatorTd.Ilgpu.cs does with a device.</summary>
    private static unsafe void RunPtx(TdBatch batch, Given given, bool narrow, Outputs outputs)
    {
        var memory = new PtxArrays();
        var kind = given switch
        {
            Given.Features => IndicatorKind.Threshold,
            Given.NarrowFeatures => IndicatorKind.NarrowThreshold,
            _ => IndicatorKind.Bits,
        };
        try
        {
            PtxView Values(float[] values, bool isNarrow, bool wantsNarrow) =>
                isNarrow != wantsNarrow ? default : isNarrow ? memory.Add(TdBatch.Narrow(values)) : memory.Add(values);

            var parameters = new PtxViews
            {
                Prediction = Values(batch.Prediction, narrow, false),
                NarrowPrediction = Values(batch.Prediction, narrow, true),
                NextValues = Values(batch.Next, narrow, false),
                NarrowNextValues = Values(batch.Next, narrow, true),
                Done = memory.Add(batch.Done),
                Features = kind == IndicatorKind.Threshold ? memory.Add(batch.Features) : default,
                NarrowFeatures = kind == IndicatorKind.NarrowThreshold ? memory.Add(TdBatch.Narrow(batch.Features)) : default,
                Bits = kind == IndicatorKind.Bits ? memory.Add(batch.Bits) : default,
                Thresholds = kind == IndicatorKind.Bits ? default : memory.Add(batch.Thresholds),
                Gradient = memory.Add(outputs.Gradient, writable: true),
                Loss = memory.Add(outputs.Loss, writable: true),
                RowLosses = memory.Add(outputs.RowLosses, writable: true),
                ActiveCounts = memory.Add(outputs.ActiveCounts, writable: true),
                MeanAbsoluteErrors = memory.Add(outputs.MeanAbsoluteErrors, writable: true),
                RowShare = 0.5 / batch.Tasks,
                Rows = batch.Rows,
                Tasks = batch.Tasks,
                IsNarrow = narrow ? 1 : 0,
                Kind = kind,
                Discount = 0.9f,
                Height = (float)(1 - 0.9),
                Scale = (float)(1 / (batch.Rows * (double)batch.Tasks)),
            };
            foreach (var (name, _) in Kernels)
            {
                var kernel = new PtxInterpreter(Ptx.Value[name], $"Kernel_{name}", memory.Memory);
                kernel.Run(
                    (batch.Rows * batch.Tasks + 31) / 32, 32,
                    MemoryMarshal.AsBytes(new ReadOnlySpan<PtxViews>(in parameters))[..kernel.ParameterBytes]);
            }
        }
        finally
        {
            memory.Dispose();
        }
    }

    private sealed class Outputs(int rows, int tasks)
    {
        public float[] Gradient { get; } = new float[rows * tasks];

        public double[] Loss { get; } = new double[1];

        public double[] RowLosses { get; } = new double[rows];

        public int[] ActiveCounts { get; } = new int[tasks];

        public float[] MeanAbsoluteErrors { get; } = new float[tasks];
    }

    /// <summary><see cref="IndicatorTdViews"/> as it lies in a launch's parameters.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct PtxViews
    {
        public PtxView Prediction, NarrowPrediction, NextValues, NarrowNextValues, Done, Features, NarrowFeatures, Bits, Thresholds;
        public PtxView Gradient, Loss, RowLosses, ActiveCounts, MeanAbsoluteErrors;
        public double RowShare;
        public int Rows, Tasks, IsNarrow;
        public IndicatorKind Kind;
        public float Discount, Height, Scale;
    }
}
