using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>IndicatorTd on device memory: the bits of the CPU backend, but for sums in another order.</summary>
public class IndicatorTdCudaTests
{
    public IndicatorTdCudaTests() => CudaDriver.Require();

    public static TheoryData<Given, bool> Matrix => new MatrixTheoryData<Given, bool>(Enum.GetValues<Given>(), [false, true]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_Cpu_bit_for_bit(Given given, bool narrow)
    {
        foreach (var (rows, tasks) in ((int, int)[])[(1, 1), (2, 31), (3, 32), (9, 33), (17, 100), (8, 7), (70, 9), (5, 300)])
        {
            foreach (var normalised in (bool[])[false, true])
            {
                var batch = new TdBatch(rows, tasks, seed: rows * tasks);
                var (gradient, rowLosses, counts, errors) = (new float[rows * tasks], new double[rows], new int[tasks], new float[tasks]);
                var statistics = new TdStatistics { RowLosses = rowLosses, ActiveCounts = counts, MeanAbsoluteErrors = errors };
                var loss = narrow
                    ? IndicatorTd.Run(
                        TdBatch.Narrow(batch.Prediction), TdBatch.Narrow(batch.Next), batch.Done, batch.Sets(given), tasks, 0.9,
                        Start.Current, normalised, gradient, statistics)
                    : IndicatorTd.Run(
                        batch.Prediction, batch.Next, batch.Done, batch.Sets(given), tasks, 0.9, Start.Current, normalised, gradient,
                        statistics);

                using var devices = new Devices();
                var on = new DeviceBatch(devices, batch, given, narrow);
                IndicatorTd.Run(on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Current, normalised, on.Outputs);

                Assert.Equal(Devices.Bits(gradient), Devices.Bits(Devices.Read<float>(on.Outputs.Gradient)));
                Assert.Equal(counts, Devices.Read<int>(on.Outputs.ActiveCounts));
                Close(loss, Devices.Read<double>(on.Outputs.Loss)[0]);
                foreach (var (expected, actual) in rowLosses.Zip(Devices.Read<double>(on.Outputs.RowLosses)))
                    Close(expected, actual);
                foreach (var (expected, actual) in errors.Zip(Devices.Read<float>(on.Outputs.MeanAbsoluteErrors)))
                    Assert.Equal(expected, actual, 1e-6 * expected);
                devices.CheckMargins();
            }
        }

        static void Close(double expected, double actual) => Assert.Equal(expected, actual, 1e-13 * expected);
    }

    [Fact]
    public void Outputs_may_be_left_out()
    {
        var batch = new TdBatch(5, 40, seed: 1);
        using var devices = new Devices();
        var on = new DeviceBatch(devices, batch, Given.Bits, narrow: false);
        IndicatorTd.Run(on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Next, false, on.Outputs);
        var (gradient, errors) = (Devices.Read<float>(on.Outputs.Gradient), Devices.Read<float>(on.Outputs.MeanAbsoluteErrors));
        var only = new DeviceBatch(devices, batch, Given.Bits, narrow: false);

        IndicatorTd.Run(on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Next, false,
            new TdOutputs { Gradient = only.Outputs.Gradient });
        IndicatorTd.Run(
            on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Next, false,
            new TdOutputs { MeanAbsoluteErrors = only.Outputs.MeanAbsoluteErrors });

        Assert.Equal(gradient, Devices.Read<float>(only.Outputs.Gradient));
        Assert.Equal(errors, Devices.Read<float>(only.Outputs.MeanAbsoluteErrors));
        Assert.Equal(new double[5], Devices.Read<double>(only.Outputs.RowLosses));
    }

    [Fact]
    public void NaNs_show_and_terminal_rows_are_not_read()
    {
        var batch = new TdBatch(4, 50, seed: 3, doneRate: 0);
        batch.Done[1] = true;
        batch.Next.AsSpan(50, 50).Fill(float.NaN);
        batch.Features[2 * 50 + 7] = float.NaN;
        batch.Prediction[3 * 50 + 8] = float.NaN;
        using var devices = new Devices();
        var on = new DeviceBatch(devices, batch, Given.Features, narrow: false);

        IndicatorTd.Run(on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Current, false, on.Outputs);

        Assert.True(double.IsNaN(Devices.Read<double>(on.Outputs.Loss)[0]));
        Assert.Equal([false, false, true, true], Devices.Read<double>(on.Outputs.RowLosses).Select(double.IsNaN));
        Assert.Equal([7], Places(Devices.Read<int>(on.Outputs.ActiveCounts).Select(count => count == -1)));
        Assert.Equal([7, 8], Places(Devices.Read<float>(on.Outputs.MeanAbsoluteErrors).Select(float.IsNaN)));
        Assert.Equal([107, 158], Places(Devices.Read<float>(on.Outputs.Gradient).Select(float.IsNaN)));
        Assert.Contains("prediction: row 3, column 8 of float32[4, 50] is NaN",
            Assert.Throws<ArgumentException>(() => IndicatorTd.CheckFinite(on.Prediction, on.Next, on.Done, on.Sets, null)).Message,
            StringComparison.Ordinal);

        static IEnumerable<int> Places(IEnumerable<bool> hits) => hits.Select((hit, i) => hit ? i : -1).Where(i => i >= 0);
    }

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        using var stream = CudaStream.Create();
        using var devices = new Devices();
        var on = new DeviceBatch(devices, new TdBatch(3, 5, seed: 3), Given.Bits, narrow: true);

        IndicatorTd.Run(on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Current, false, on.Outputs, AuxBackend.Cuda, stream);

        Assert.NotEqual(0, Devices.Read<double>(on.Outputs.Loss, stream)[0]);
    }

    [Fact]
    public unsafe void What_is_refused_changes_nothing()
    {
        using var devices = new Devices();
        var batch = new TdBatch(3, 5, seed: 3);
        var on = new DeviceBatch(devices, batch, Given.Features, narrow: false);
        var host = stackalloc float[15];
        var atHost = TensorView.FromPointer(host, DType.Float32, [3, 5], device: on.Prediction.Device);

        void Refused(string text, Action call)
        {
            Assert.Contains(text, Assert.Throws<ArgumentException>(call).Message, StringComparison.Ordinal);
            Assert.Equal(new float[15], Devices.Read<float>(on.Outputs.Gradient));
        }

        Refused("prediction: 0x", () => IndicatorTd.Run(atHost, on.Next, on.Done, on.Sets, 0.9, Start.Current, false, on.Outputs));
        Refused("outputs.RowLosses: missing; on cuda:0", () => IndicatorTd.Run(
            on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Current, false, new TdOutputs { Loss = on.Outputs.Loss }));
        Refused("gradient overlaps prediction", () => IndicatorTd.Run(
            on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Current, false, new TdOutputs { Gradient = on.Prediction }));
        Refused("nextValues: float32[3, 5] on cpu", () => IndicatorTd.Run(
            on.Prediction, TensorView.FromPointer((void*)atHost.Address, DType.Float32, [3, 5]), on.Done, on.Sets, 0.9, Start.Current,
            false,
            on.Outputs));
        foreach (var backend in (AuxBackend[])[AuxBackend.Cpu, AuxBackend.Reference])
            Assert.Contains("the tensors are on cuda:0", Assert.Throws<BackendUnavailableException>(() => IndicatorTd.Run(
                on.Prediction, on.Next, on.Done, on.Sets, 0.9, Start.Current, false, on.Outputs, backend)).Message,
                StringComparison.Ordinal);

        var buffer = DeviceBuffer.CopyOf<float>(batch.Prediction);
        var freed = buffer.View(3, 5);
        buffer.Dispose();
        Assert.Throws<ObjectDisposedException>(
            () => IndicatorTd.Run(freed, on.Next, on.Done, on.Sets, 0.9, Start.Current, false, on.Outputs));
    }

    /// <summary>A batch on the device, and outputs of zeros.</summary>
    internal sealed class DeviceBatch
    {
        public DeviceBatch(Devices devices, TdBatch batch, Given given, bool narrow)
        {
            var (rows, tasks) = (batch.Rows, batch.Tasks);
            Prediction = Values(devices, batch.Prediction, narrow, rows, tasks);
            Next = Values(devices, batch.Next, narrow, rows, tasks);
            Done = devices.Add(batch.Done);
            Sets = given == Given.Bits
                ? IndicatorViews.Packed(devices.Add(batch.Bits, rows, Indicators.BytesPerState(tasks)))
                : IndicatorViews.Threshold(
                    Values(devices, batch.Features, given == Given.NarrowFeatures, rows, tasks), devices.Add(batch.Thresholds));
            Outputs = new TdOutputs
            {
                Gradient = devices.Add(new float[rows * tasks], rows, tasks),
                Loss = devices.Add(new double[1]),
                RowLosses = devices.Add(new double[rows]),
                ActiveCounts = devices.Add(new int[tasks]),
                MeanAbsoluteErrors = devices.Add(new float[tasks]),
            };
        }

        public TensorView Prediction { get; }

        public TensorView Next { get; }

        public TensorView Done { get; }

        public IndicatorViews Sets { get; }

        public TdOutputs Outputs { get; }

        private static TensorView Values(Devices devices, float[] values, bool narrow, int rows, int tasks) =>
            narrow ? devices.Add(TdBatch.Narrow(values), rows, tasks) : devices.Add(values, rows, tasks);
    }
}
