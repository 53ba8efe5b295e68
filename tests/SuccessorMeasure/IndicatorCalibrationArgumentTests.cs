using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>What IndicatorCalibration refuses, by name, before it writes anything.</summary>
public class IndicatorCalibrationArgumentTests
{
    private readonly float[] _features = [1, 2, 3, 4, 5, 6, 7, 8];
    private readonly float[] _thresholds = [9, 9];
    private readonly byte[] _bits = [7, 7, 7, 7];

    private void Refused<TException>(string text, Action call) where TException : ArgumentException
    {
        Assert.Contains(text, Assert.Throws<TException>(call).Message, StringComparison.Ordinal);
        Assert.Equal([9, 9], _thresholds);
        Assert.Equal([7, 7, 7, 7], _bits);
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(-0.1)]
    public void A_rate_lies_between_zero_and_one(double rate)
    {
        Refused<ArgumentOutOfRangeException>("rate", () => IndicatorCalibration.Quantile(_features, 2, rate, _thresholds));
        Refused<ArgumentOutOfRangeException>("rate", () => IndicatorCalibration.PinballStep(_features, rate, 0.1, _thresholds));
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(-1)]
    [InlineData(double.PositiveInfinity)]
    public void A_learning_rate_is_finite_and_not_negative(double learningRate) => Refused<ArgumentOutOfRangeException>(
        "learningRate", () => IndicatorCalibration.PinballStep(_features, 0.5, learningRate, _thresholds));

    [Theory]
    [InlineData(0.1, 0)]
    [InlineData(0.9, 4)]
    public void A_rate_that_rounds_to_no_state_or_to_all_is_refused(double rate, int states) => Refused<ArgumentException>(
        $"features: 4 states are too few for a rate of {rate.ToString(System.Globalization.CultureInfo.InvariantCulture)}, "
        + $"which rounds to {states} of them",
        () => IndicatorCalibration.Quantile(_features, 2, rate, _thresholds));

    [Fact]
    public void Lengths_must_agree()
    {
        Refused<ArgumentException>("features: 8 elements do not make rows of 3 tasks",
            () => IndicatorCalibration.Quantile(_features, 3, 0.5, _thresholds));
        Refused<ArgumentException>("thresholds: 2 elements do not match shape [4]",
            () => IndicatorCalibration.Quantile(_features, 4, 0.5, _thresholds));
        Refused<ArgumentException>("activeCounts: 3 elements do not match shape [2]",
            () => IndicatorCalibration.Quantile(_features, 2, 0.5, _thresholds, new int[3]));
        Refused<ArgumentException>("bits: 3 elements do not match shape [4, 1]",
            () => IndicatorCalibration.Pack(_features, _thresholds, _bits.AsSpan(1)));
        Refused<ArgumentException>("activeCounts: 3 elements do not match shape [2]",
            () => IndicatorCalibration.Pack(_features, _thresholds, _bits, new int[3]));
        Refused<ArgumentException>("outputs.Gradient: 3 elements do not match shape [2]",
            () => IndicatorCalibration.PinballStep(_features, 0.5, 1, _thresholds, new PinballOutputs { Gradient = new float[3] }));
        Refused<ArgumentException>("outputs.Bits: 5 elements do not match shape [4, 1]",
            () => IndicatorCalibration.PinballStep(_features, 0.5, 1, _thresholds, new PinballOutputs { Bits = new byte[5] }));
        Refused<ArgumentException>("outputs.ActiveCounts: 1 elements do not match shape [2]",
            () => IndicatorCalibration.PinballStep(_features, 0.5, 1, _thresholds, new PinballOutputs { ActiveCounts = new int[1] }));
        Refused<ArgumentOutOfRangeException>("N must be at least 1",
            () => IndicatorCalibration.Quantile(Array.Empty<float>(), 2, 0.5, _thresholds));
        Refused<ArgumentOutOfRangeException>("T must be at least 1", () => IndicatorCalibration.Quantile(_features, 0, 0.5, []));
        Refused<ArgumentOutOfRangeException>("T must be at least 1", () => IndicatorCalibration.Pack(_features, [], _bits));
    }

    [Fact]
    public void Outputs_have_memory_of_their_own()
    {
        Refused<ArgumentException>("thresholds overlaps features",
            () => IndicatorCalibration.Quantile(_features, 2, 0.5, _features.AsSpan(2, 2)));
        Refused<ArgumentException>("gradient overlaps thresholds",
            () => IndicatorCalibration.PinballStep(_features, 0.5, 1, _thresholds, new PinballOutputs { Gradient = _thresholds }));
        Assert.Equal([1, 2, 3, 4, 5, 6, 7, 8], _features);
    }

    [Fact]
    public unsafe void Views_are_checked_and_give_what_spans_give()
    {
        fixed (float* f = _features, b = _thresholds)
        fixed (byte* packed = _bits)
        {
            var memory = stackalloc double[16];
            var (features, thresholds) = (TensorView.FromPointer(f, DType.Float32, [4, 2]), TensorView.FromPointer(b, DType.Float32, [2]));
            var bits = TensorView.FromPointer(packed, DType.UInt8, [4, 1]);
            var counts = TensorView.FromPointer(memory, DType.Int32, [2]);
            var wide = TensorView.FromPointer(f, DType.Float32, [8]);
            Refused<ArgumentException>("features: float32[8] on cpu is not of rank 2",
                () => IndicatorCalibration.Quantile(wide, 0.5, thresholds));
            Refused<ArgumentException>("thresholds: float32[8]", () => IndicatorCalibration.Quantile(features, 0.5, wide));
            Refused<ArgumentException>("features: int32[4, 2]",
                () => IndicatorCalibration.Quantile(TensorView.FromPointer((void*)features.Address, DType.Int32, [4, 2]), 0.5, thresholds));
            Refused<ArgumentException>("activeCounts: float32[2]", () =>
                IndicatorCalibration.Quantile(features, 0.5, thresholds, thresholds));
            Refused<ArgumentException>("bits: uint8[4, 1]", () => IndicatorCalibration.Pack(
                TensorView.FromPointer((void*)features.Address, DType.Float32, [1, 2]), thresholds,
                TensorView.FromPointer((void*)bits.Address, DType.UInt8, [4, 1])));
            Refused<ArgumentException>("outputs.Loss: float32[2]", () => IndicatorCalibration.PinballStep(
                features, 0.5, 1, thresholds, new PinballViews
                {
                    Loss = TensorView.FromPointer((void*)counts.Address, DType.Float32,
                [2])
                }));

            IndicatorCalibration.Quantile(features, 0.5, thresholds, counts);
            Assert.Equal([-3, -4], _thresholds);
            Assert.Equal([2, 2], new ReadOnlySpan<int>(memory, 2).ToArray());
            IndicatorCalibration.Pack(features, thresholds, bits, counts);
            Assert.Equal([0, 0, 3, 3], _bits);
            IndicatorCalibration.PinballStep(features, 0.5, 1, thresholds, new PinballViews
            {
                Loss = TensorView.FromPointer(memory, DType.Float64, []),
                TaskLosses = TensorView.FromPointer(memory + 1, DType.Float64, [2]),
                Gradient = TensorView.FromPointer(memory + 3, DType.Float32, [2]),
            });
            Assert.Equal([1, 1, 1], new ReadOnlySpan<double>(memory, 3).ToArray()); // mean |x| / 2 of −2, 0, 2, 4
            Assert.Equal([0.125f, 0.125f], new ReadOnlySpan<float>(memory + 3, 2).ToArray()); // (½ − ¼) / 2
            Assert.Equal([-3.125f, -4.125f], _thresholds);
        }
    }

    [Theory]
    [InlineData(AuxBackend.Cuda)]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_that_is_not_there_or_not_for_host_memory_is_never_replaced_silently(AuxBackend backend)
    {
        var expected = IndicatorCalibration.IsSupported(backend, out var reason) ? "the tensors are on cpu" : reason;

        var error = Assert.Throws<BackendUnavailableException>(
            () => IndicatorCalibration.Quantile(_features, 2, 0.5, _thresholds, backend: backend));

        Assert.Equal((backend, expected, "IndicatorCalibration"), (error.Backend, error.Reason, error.Operation));
    }
}
