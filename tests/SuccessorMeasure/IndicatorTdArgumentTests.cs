using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>What IndicatorTd refuses, by name, before it writes anything; and how it says where a NaN is.</summary>
public class IndicatorTdArgumentTests
{
    private const int Rows = 2, Tasks = 3;

    private readonly float[] _prediction = [1, 2, 3, 4, 5, 6];
    private readonly float[] _next = [1, 1, 1, 1, 1, 1];
    private readonly float[] _features = [1, 1, 1, 1, 1, 1];
    private readonly float[] _gradient = new float[6];
    private readonly bool[] _done = new bool[2];

    private Indicators Sets => Indicators.Threshold(_features, [0, 0, 0]);

    private void Refused<TException>(string text, Action call) where TException : ArgumentException
    {
        var error = Assert.Throws<TException>(call);
        Assert.Contains(text, error.Message, StringComparison.Ordinal);
        Assert.Equal(new float[6], _gradient);
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(-1e-9)]
    [InlineData(1)]
    [InlineData(double.PositiveInfinity)]
    public void A_discount_lies_within_zero_and_one(double discount) => Refused<ArgumentOutOfRangeException>(
        "discount", () => IndicatorTd.Run(_prediction, _next, _done, Sets, Tasks, discount, Start.Current, false, _gradient));

    [Fact]
    public void Numbers_that_are_no_Start_are_refused() => Refused<ArgumentOutOfRangeException>(
        "start", () => IndicatorTd.Run(_prediction, _next, _done, Sets, Tasks, 0.5, (Start)2, false, _gradient));

    [Fact]
    public void Lengths_must_agree()
    {
        Refused<ArgumentException>("prediction: 5 elements do not match shape [2, 3]", () => IndicatorTd.Run(
            _prediction.AsSpan(1), _next, _done, Sets, Tasks, 0.5, Start.Current, false, _gradient));
        Refused<ArgumentException>("nextValues: 4 elements do not match shape [2, 3]", () => IndicatorTd.Run(
            _prediction, _next.AsSpan(2), _done, Sets, Tasks, 0.5, Start.Current, false, _gradient));
        Refused<ArgumentException>("prediction: 6 elements do not match shape [3, 3]", () => IndicatorTd.Run(
            _prediction, _next, new bool[3], Sets, Tasks, 0.5, Start.Current, false, _gradient));
        Refused<ArgumentException>("indicators.features: 3 elements do not match shape [2, 3]", () => IndicatorTd.Run(
            _prediction, _next, _done, Indicators.Threshold(new float[3], new float[3]), Tasks, 0.5, Start.Current, false, _gradient));
        Refused<ArgumentException>("indicators.features: 3 elements do not match shape [2, 3]", () => IndicatorTd.Run(
            _prediction, _next, _done, Indicators.Threshold(new BFloat16[3], new float[3]), Tasks, 0.5, Start.Current, false, _gradient));
        Refused<ArgumentException>("indicators.thresholds: 2 elements do not match shape [3]", () => IndicatorTd.Run(
            _prediction, _next, _done, Indicators.Threshold(_features, new float[2]), Tasks, 0.5, Start.Current, false, _gradient));
        Refused<ArgumentException>("indicators.bits: 1 elements do not match shape [2, 1]", () => IndicatorTd.Run(
            _prediction, _next, _done, Indicators.Packed(new byte[1]), Tasks, 0.5, Start.Current, false, _gradient));
        Refused<ArgumentException>("indicators: made by neither", () => IndicatorTd.Run(
            _prediction, _next, _done, default, Tasks, 0.5, Start.Current, false, _gradient));
        Refused<ArgumentException>("gradient: 5 elements do not match shape [2, 3]", () => IndicatorTd.Run(
            _prediction, _next, _done, Sets, Tasks, 0.5, Start.Current, false, _gradient.AsSpan(1)));
        Refused<ArgumentException>("statistics.RowLosses: 3 elements do not match shape [2]", () => IndicatorTd.Run(
            _prediction, _next, _done, Sets, Tasks, 0.5, Start.Current, false, _gradient, new TdStatistics { RowLosses = new double[3] }));
        Refused<ArgumentException>("statistics.ActiveCounts: 2 elements do not match shape [3]", () => IndicatorTd.Run(
            _prediction, _next, _done, Sets, Tasks, 0.5, Start.Current, false, _gradient, new TdStatistics { ActiveCounts = new int[2] }));
        Refused<ArgumentException>("statistics.MeanAbsoluteErrors: 4 elements do not match shape [3]", () => IndicatorTd.Run(
            _prediction, _next, _done, Sets, Tasks, 0.5, Start.Current, false, _gradient,
            new TdStatistics { MeanAbsoluteErrors = new float[4] }));
    }

    [Fact]
    public void A_batch_has_at_least_one_transition_and_one_task()
    {
        Refused<ArgumentOutOfRangeException>("B must be at least 1", () => IndicatorTd.Run(
            Array.Empty<float>(), [], [], Indicators.Threshold(Array.Empty<float>(), new float[3]), 3, 0.5, Start.Current, false, []));
        foreach (var tasks in (int[])[0, -1])
            Refused<ArgumentOutOfRangeException>("T must be at least 1", () => IndicatorTd.Run(
                Array.Empty<float>(), [], [false], Indicators.Packed([]), tasks, 0.5, Start.Current, false, []));
        Assert.Throws<ArgumentOutOfRangeException>(() => Indicators.BytesPerState(0));
        Assert.Equal(13, Indicators.BytesPerState(100));
    }

    [Fact]
    public void Outputs_have_memory_of_their_own()
    {
        var memory = new float[12];
        Refused<ArgumentException>("gradient overlaps prediction", () => IndicatorTd.Run(
            memory.AsSpan(0, 6), _next, _done, Sets, Tasks, 0.5, Start.Current, false, memory.AsSpan(5, 6)));
        Refused<ArgumentException>("gradient overlaps nextValues", () => IndicatorTd.Run(
            _prediction, memory.AsSpan(6, 6), _done, Sets, Tasks, 0.5, Start.Current, false, memory.AsSpan(1, 6)));
        Refused<ArgumentException>("meanAbsoluteErrors overlaps gradient", () => IndicatorTd.Run(
            _prediction, _next, _done, Sets, Tasks, 0.5, Start.Current, false, memory.AsSpan(0, 6),
            new TdStatistics { MeanAbsoluteErrors = memory.AsSpan(5, 3) }));
        Assert.Equal(new float[12], memory);
        IndicatorTd.Run(memory.AsSpan(0, 6), memory.AsSpan(0, 6), _done, Sets, Tasks, 0.5, Start.Current, false, memory.AsSpan(6, 6));
    }

    [Fact]
    public unsafe void Views_of_another_rank_dtype_shape_or_device_are_refused()
    {
        var scratch = stackalloc double[64];
        new Span<double>(scratch, 64).Clear();
        var device = new AuxDevice(AuxDeviceKind.Cuda);
        TensorView View(DType dtype, long[] shape, long[]? strides = null, AuxDevice where = default, int at = 0) =>
            TensorView.FromPointer(scratch + at, dtype, shape, strides, where);
        var values = View(DType.Float32, [Rows, Tasks]);
        var done = View(DType.Bool, [Rows]);
        var sets = IndicatorViews.Threshold(values, View(DType.Float32, [Tasks]));
        var outputs = new TdOutputs { Gradient = View(DType.Float32, [Rows, Tasks], at: 32) };

        void Wrong(string text, TensorView? prediction = null, TensorView? next = null, TensorView? ended = null,
            IndicatorViews? indicators = null, TdOutputs? wanted = null)
        {
            Refused<ArgumentException>(text, () => IndicatorTd.Run(
                prediction ?? values, next ?? values, ended ?? done, indicators ?? sets, 0.5, Start.Current, false, wanted ?? outputs));
        }

        Wrong("prediction: float32[6] on cpu is not of rank 2", prediction: View(DType.Float32, [6]));
        Wrong("prediction: float64[2, 3] on cpu, but float32 or bfloat16 is needed", prediction: View(DType.Float64, [2, 3]));
        Wrong("prediction: float32[2, 3] on cpu with strides [1, 2] is not contiguous",
            prediction: View(DType.Float32, [2, 3], [1, 2]));
        Wrong("nextValues: bfloat16[2, 3] on cpu, but float32 is needed", next: View(DType.BFloat16, [2, 3]));
        Wrong("nextValues: float32[3, 2] on cpu does not match shape [2, 3]", next: View(DType.Float32, [3, 2]));
        Wrong("nextValues: float32[2, 3] on cuda:0, but the other tensors are on cpu", next: View(DType.Float32, [2, 3], where: device));
        Wrong("done: float32[2] on cpu, but bool or uint8 is needed", ended: View(DType.Float32, [2]));
        Wrong("done: bool[3] on cpu does not match shape [2]", ended: View(DType.Bool, [3]));
        Wrong("indicators: made by neither", indicators: default(IndicatorViews));
        Wrong("indicators.features: int32[2, 3]", indicators: IndicatorViews.Threshold(View(DType.Int32, [2, 3]), values));
        Wrong("indicators.thresholds: float32[2, 3]", indicators: IndicatorViews.Threshold(values, values));
        Wrong("indicators.bits: uint8[2, 2] on cpu does not match shape [2, 1]",
            indicators: IndicatorViews.Packed(View(DType.UInt8, [2, 2])));
        Wrong("outputs: none is wanted", wanted: default(TdOutputs));
        Wrong("outputs.Gradient: float32[6]", wanted: new TdOutputs { Gradient = View(DType.Float32, [6], at: 32) });
        Wrong("outputs.Loss: float64[2] on cpu has not one element", wanted: new TdOutputs { Loss = View(DType.Float64, [2], at: 32) });
        Wrong("outputs.Loss: float32[] on cpu, but float64 is needed", wanted: new TdOutputs { Loss = View(DType.Float32, [], at: 32) });
        Wrong("outputs.RowLosses: float64[3]", wanted: new TdOutputs { RowLosses = View(DType.Float64, [3], at: 32) });
        Wrong("outputs.ActiveCounts: int64[3]", wanted: new TdOutputs { ActiveCounts = View(DType.Int64, [3], at: 32) });
        Wrong("outputs.MeanAbsoluteErrors: float32[2]", wanted: new TdOutputs { MeanAbsoluteErrors = View(DType.Float32, [2], at: 32) });
        Assert.All(new ReadOnlySpan<double>(scratch + 32, 32).ToArray(), value => Assert.Equal(0, value));

        IndicatorTd.Run(values, values, View(DType.UInt8, [Rows]), sets, 0.5, Start.Current, false, outputs);
        Assert.Throws<ArgumentOutOfRangeException>(() => IndicatorTd.Run(
            View(DType.Float32, [0, 3]), View(DType.Float32, [0, 3]), View(DType.Bool, [0]), sets, 0.5, Start.Current, false, outputs));
    }

    [Fact]
    public unsafe void Views_give_what_spans_give()
    {
        var batch = new TdBatch(5, 37, seed: 2);
        var (expected, actual) = (new float[5 * 37], new float[5 * 37]);
        var loss = IndicatorTd.Run(
            batch.Prediction, batch.Next, batch.Done, batch.Sets(Given.Features), 37, 0.9, Start.Next, true, expected);
        double viewLoss;
        fixed (float* q = batch.Prediction, next = batch.Next, features = batch.Features, thresholds = batch.Thresholds, gradient = actual)
        fixed (bool* done = batch.Done)
        {
            IndicatorTd.Run(
                TensorView.FromPointer(q, DType.Float32, [5, 37]), TensorView.FromPointer(next, DType.Float32, [5, 37]),
                TensorView.FromPointer(done, DType.Bool, [5]),
                IndicatorViews.Threshold(
                    TensorView.FromPointer(features, DType.Float32, [5, 37]), TensorView.FromPointer(thresholds, DType.Float32, [37])),
                0.9, Start.Next, true,
                new TdOutputs
                {
                    Gradient = TensorView.FromPointer(gradient, DType.Float32, [5, 37]),
                    Loss = TensorView.FromPointer(&viewLoss, DType.Float64, []),
                });
        }

        Assert.Equal(expected, actual);
        Assert.Equal(loss, viewLoss);
    }

    [Fact]
    public unsafe void CheckFinite_names_the_tensor_and_the_row()
    {
        IndicatorTd.CheckFinite(_prediction, _next, _done, Sets, Tasks);
        _next[4] = float.NegativeInfinity;
        Refused<ArgumentException>("nextValues: row 1, column 1 of float32[2, 3] is -Infinity",
            () => IndicatorTd.CheckFinite(_prediction, _next, _done, Sets, Tasks));
        _done[1] = true; // not read, so not looked at
        IndicatorTd.CheckFinite(_prediction, _next, _done, Sets, Tasks);
        _features[2] = float.NaN;
        Refused<ArgumentException>("indicators.features: row 0, column 2 of float32[2, 3] is NaN",
            () => IndicatorTd.CheckFinite(_prediction, _next, _done, Sets, Tasks));
        Refused<ArgumentException>("indicators.thresholds: element 1 of float32[3] is NaN",
            () => IndicatorTd.CheckFinite(_prediction, _next, _done, Indicators.Threshold(_prediction, [0, float.NaN, 0]), Tasks));
        Refused<ArgumentException>("indicators.features: row 0, column 0 of bfloat16[1, 1] is NaN",
            () => IndicatorTd.CheckFinite(
                new BFloat16[1], new BFloat16[1], [false], Indicators.Threshold([(BFloat16)float.NaN], new float[1]), 1));
        _prediction[0] = float.NaN;
        Refused<ArgumentException>("prediction: row 0, column 0 of float32[2, 3] is NaN",
            () => IndicatorTd.CheckFinite(_prediction, _next, _done, Indicators.Packed([0, 0]), Tasks));
        Refused<ArgumentException>("nextValues: 4 elements",
            () => IndicatorTd.CheckFinite(_prediction, _next.AsSpan(2), _done, Sets, Tasks));

        fixed (float* q = _prediction, next = _next)
        fixed (bool* done = _done)
        fixed (byte* bits = new byte[2])
        {
            var views = (TensorView.FromPointer(q, DType.Float32, [2, 3]), TensorView.FromPointer(next, DType.Float32, [2, 3]),
                TensorView.FromPointer(done, DType.Bool, [2]), IndicatorViews.Packed(TensorView.FromPointer(bits, DType.UInt8, [2, 1])));
            Refused<ArgumentException>("prediction: row 0, column 0 of float32[2, 3] is NaN",
                () => IndicatorTd.CheckFinite(views.Item1, views.Item2, views.Item3, views.Item4, null));
            _prediction[0] = 1;
            IndicatorTd.CheckFinite(views.Item1, views.Item2, views.Item3, views.Item4, null);
        }
    }

    [Theory]
    [InlineData(AuxBackend.Cuda)]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_that_is_not_there_or_not_for_host_memory_is_never_replaced_silently(AuxBackend backend)
    {
        var expected = IndicatorTd.IsSupported(backend, out var reason) ? "the tensors are on cpu" : reason;

        var error = Assert.Throws<BackendUnavailableException>(() => IndicatorTd.Run(
            _prediction, _next, _done, Sets, Tasks, 0.5, Start.Current, false, _gradient, backend: backend));

        Assert.Equal((backend, expected, "IndicatorTd"), (error.Backend, error.Reason, error.Operation));
        Assert.Equal(new float[6], _gradient);
    }
}
