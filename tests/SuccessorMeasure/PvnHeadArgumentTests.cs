using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>What PvnHead refuses, by name, before it writes anything; and how it says where a NaN is.</summary>
public class PvnHeadArgumentTests
{
    private readonly PvnBatch _batch = new(2, 3, 4, 2, seed: 1);
    private readonly float[] _byFeatures = new float[6];
    private readonly float[] _byWeights = new float[24];

    private PvnGradients Gradients => new() { Features = _byFeatures, Weights = _byWeights };

    private void Refused<TException>(string text, Action call) where TException : ArgumentException
    {
        Assert.Contains(text, Assert.Throws<TException>(call).Message, StringComparison.Ordinal);
        Assert.Equal(new float[6], _byFeatures);
        Assert.Equal(new float[24], _byWeights);
    }

    private void Run(
        float[]? features = null, float[]? next = null, float[]? weights = null, float[]? mean = null, int[]? actions = null,
        bool[]? done = null, PvnShape? shape = null, double discount = 0.5, Start start = Start.Current) =>
        PvnHead.Run(
            features ?? _batch.Features, next ?? _batch.NextFeatures, weights ?? _batch.Weights, mean ?? _batch.TargetMean,
            actions ?? _batch.Actions, done ?? _batch.Td.Done, _batch.Td.Sets(Given.Features), shape ?? _batch.Shape, discount, start,
            false,
            Gradients);

    [Fact]
    public void Lengths_and_numbers_must_fit()
    {
        Refused<ArgumentException>("features: 5 elements do not match shape [2, 3]", () => Run(features: new float[5]));
        Refused<ArgumentException>("nextFeatures: 7 elements do not match shape [2, 3]", () => Run(next: new float[7]));
        Refused<ArgumentException>("weights: 23 elements do not match shape [4, 2, 3]", () => Run(weights: new float[23]));
        Refused<ArgumentException>("targetMean: 24 elements do not match shape [4, 3]", () => Run(mean: new float[24]));
        Refused<ArgumentException>("done: 1 elements do not match shape [2]", () => Run(done: [false]));
        Refused<ArgumentException>("features: 6 elements do not match shape [3, 3]", () => Run(actions: [0, 0, 0]));
        Refused<ArgumentOutOfRangeException>("actions[1] is not within 0 and 1", () => Run(actions: [0, 2]));
        Refused<ArgumentOutOfRangeException>("actions[0] is not within 0 and 1", () => Run(actions: [-1, 0]));
        Refused<ArgumentOutOfRangeException>("B must be at least 1", () => Run(actions: []));
        Refused<ArgumentOutOfRangeException>("F must be at least 1", () => Run(shape: new(0, 4, 2)));
        Refused<ArgumentOutOfRangeException>("T must be at least 1", () => Run(shape: new(3, 0, 2)));
        Refused<ArgumentOutOfRangeException>("A must be at least 1", () => Run(shape: new(3, 4, 0)));
        foreach (var wrong in (double[])[double.NaN, -0.1, 1])
            Refused<ArgumentOutOfRangeException>("discount", () => Run(discount: wrong));
        Refused<ArgumentOutOfRangeException>("start", () => Run(start: (Start)9));
        Refused<ArgumentException>("indicators.bits: 1 elements do not match shape [2, 1]", () => PvnHead.Run(
            _batch.Features, _batch.NextFeatures, _batch.Weights, _batch.TargetMean, _batch.Actions, _batch.Td.Done,
            Indicators.Packed(new byte[1]), _batch.Shape, 0.5, Start.Current, false, Gradients));
        Refused<ArgumentException>("gradients.Features: 5 elements do not match shape [2, 3]", () => PvnHead.Run(
            _batch.Features, _batch.NextFeatures, _batch.Weights, _batch.TargetMean, _batch.Actions, _batch.Td.Done,
            _batch.Td.Sets(Given.Bits), _batch.Shape, 0.5, Start.Current, false, new PvnGradients { Features = new float[5] }));
        Refused<ArgumentException>("gradients.Weights: 12 elements do not match shape [4, 2, 3]", () => PvnHead.Run(
            _batch.Features, _batch.NextFeatures, _batch.Weights, _batch.TargetMean, _batch.Actions, _batch.Td.Done,
            _batch.Td.Sets(Given.Bits), _batch.Shape, 0.5, Start.Current, false, new PvnGradients { Weights = new float[12] }));
        Refused<ArgumentException>("statistics.RowLosses: 1 elements do not match shape [2]", () => PvnHead.Run(
            _batch.Features, _batch.NextFeatures, _batch.Weights, _batch.TargetMean, _batch.Actions, _batch.Td.Done,
            _batch.Td.Sets(Given.Bits), _batch.Shape, 0.5, Start.Current, false, Gradients,
            new TdStatistics { RowLosses = new double[1] }));
    }

    [Fact]
    public void Outputs_have_memory_of_their_own()
    {
        Refused<ArgumentException>("gradients.Features overlaps features", () => PvnHead.Run(
            _batch.Features, _batch.NextFeatures, _batch.Weights, _batch.TargetMean, _batch.Actions, _batch.Td.Done,
            _batch.Td.Sets(Given.Bits), _batch.Shape, 0.5, Start.Current, false, new PvnGradients { Features = _batch.Features }));
        Refused<ArgumentException>("gradients.Weights overlaps weights", () => PvnHead.Run(
            _batch.Features, _batch.NextFeatures, _batch.Weights, _batch.TargetMean, _batch.Actions, _batch.Td.Done,
            _batch.Td.Sets(Given.Bits), _batch.Shape, 0.5, Start.Current, false, new PvnGradients { Weights = _batch.Weights }));
        Refused<ArgumentException>("mean overlaps weights",
            () => PvnHead.MeanOverActions(_batch.Weights, _batch.Shape, _batch.Weights.AsSpan(0, 12)));
    }

    [Fact]
    public void Means_and_groups_are_checked()
    {
        Refused<ArgumentException>("weights: 23 elements", () =>
            PvnHead.MeanOverActions(_batch.Weights.AsSpan(1), _batch.Shape, new float[12]));
        Refused<ArgumentException>("mean: 11 elements", () => PvnHead.MeanOverActions(_batch.Weights, _batch.Shape, new float[11]));
        Refused<ArgumentOutOfRangeException>("A must", () => PvnHead.MeanOverActions([], new(3, 4, 0), new float[12]));
        Refused<ArgumentOutOfRangeException>("actionCount must be at least 1", () => ActionGroups.Of([0], 0));
        Refused<ArgumentOutOfRangeException>("actions[1] is not within 0 and 2", () => ActionGroups.Of([0, 3], 3));
        var groups = ActionGroups.Of([0, 1], 2);
        Assert.Throws<ArgumentNullException>(() => PvnHead.RunGrouped(
            null!, new float[8], new float[8], new bool[2], Indicators.Packed([0, 0]), 4, 0.5, Start.Current, false, new float[8]));
        Refused<ArgumentException>("done: 3 elements do not match shape [2]", () => PvnHead.RunGrouped(
            groups, new float[12], new float[12], new bool[3], Indicators.Packed([0, 0, 0]), 4, 0.5, Start.Current, false, new float[12]));
        Refused<ArgumentException>("prediction: 7 elements do not match shape [2, 4]", () => PvnHead.RunGrouped(
            groups, new float[7], new float[8], new bool[2], Indicators.Packed([0, 0]), 4, 0.5, Start.Current, false, new float[8]));
        Assert.Throws<ArgumentOutOfRangeException>(() => PvnHead.WorkspaceBytes(0, _batch.Shape));
        Assert.Throws<ArgumentOutOfRangeException>(() => PvnHead.WorkspaceBytes(1, new(0, 1, 1)));
    }

    [Fact]
    public unsafe void Views_are_checked_and_give_what_spans_give()
    {
        var expected = _batch.Run(new Runner(AuxBackend.Cpu), Given.Features, 0.5, true);
        double loss;
        var mean = new float[12];
        fixed (float* phi = _batch.Features, next = _batch.NextFeatures, w = _batch.Weights, targetMean = _batch.TargetMean)
        fixed (float* f = _batch.Td.Features, b = _batch.Td.Thresholds, byFeatures = _byFeatures, byWeights = _byWeights, m = mean)
        fixed (float* targets = _batch.TargetWeights)
        fixed (int* taken = _batch.Actions)
        fixed (bool* ended = _batch.Td.Done)
        {
            var features = TensorView.FromPointer(phi, DType.Float32, [2, 3]);
            var nextFeatures = TensorView.FromPointer(next, DType.Float32, [2, 3]);
            var weights = TensorView.FromPointer(w, DType.Float32, [4, 2, 3]);
            var means = TensorView.FromPointer(targetMean, DType.Float32, [4, 3]);
            var actions = TensorView.FromPointer(taken, DType.Int32, [2]);
            var done = TensorView.FromPointer(ended, DType.Bool, [2]);
            var sets = IndicatorViews.Threshold(
                TensorView.FromPointer(f, DType.Float32, [2, 4]), TensorView.FromPointer(b, DType.Float32, [4]));
            var outputs = new PvnOutputs
            {
                FeatureGradient = TensorView.FromPointer(byFeatures, DType.Float32, [2, 3]),
                WeightGradient = TensorView.FromPointer(byWeights, DType.Float32, [4, 2, 3]),
                Loss = TensorView.FromPointer(&loss, DType.Float64, []),
            };
            void Wrong(string text, TensorView? phi2 = null, TensorView? next2 = null, TensorView? w2 = null, TensorView? mean2 = null,
                TensorView? taken2 = null, TensorView? ended2 = null, PvnOutputs? wanted = null) =>
                Refused<ArgumentException>(text, () => PvnHead.Run(
                    phi2 ?? features, next2 ?? nextFeatures, w2 ?? weights, mean2 ?? means, taken2 ?? actions, ended2 ?? done, sets, 0.5,
                    Start.Current, true, wanted ?? outputs));

            Wrong("weights: float32[4, 6] on cpu is not of rank 3", w2: TensorView.FromPointer(w, DType.Float32, [4, 6]));
            Wrong("weights: float64[2, 2, 3]", w2: TensorView.FromPointer(w, DType.Float64, [2, 2, 3]));
            Wrong("features: float32[6] on cpu is not of rank 2", phi2: TensorView.FromPointer(phi, DType.Float32, [6]));
            Wrong("features: float32[3, 2] on cpu does not match shape [3, 3]", phi2: TensorView.FromPointer(phi, DType.Float32, [3, 2]));
            Wrong("nextFeatures: float32[1, 3]", next2: TensorView.FromPointer(next, DType.Float32, [1, 3]));
            Wrong("targetMean: float32[4, 2, 3]", mean2: weights);
            Wrong("actions: int64[1]", taken2: TensorView.FromPointer(taken, DType.Int64, [1]));
            Wrong("actions: int32[1] on cpu does not match shape [2]", taken2: TensorView.FromPointer(taken, DType.Int32, [1]));
            Wrong("done: int32[2]", ended2: actions);
            Wrong("outputs: none is wanted", wanted: default(PvnOutputs));
            Wrong("outputs.FeatureGradient: float32[3, 2]",
                wanted: new PvnOutputs { FeatureGradient = TensorView.FromPointer(byFeatures, DType.Float32, [3, 2]) });
            Wrong("outputs.WeightGradient: float32[4, 6]",
                wanted: new PvnOutputs { WeightGradient = TensorView.FromPointer(byWeights, DType.Float32, [4, 6]) });
            _batch.Actions[1] = 2;
            Refused<ArgumentOutOfRangeException>("actions[1] is not within 0 and 1", () => PvnHead.Run(
                features, nextFeatures, weights, means, actions, done, sets, 0.5, Start.Current, true, outputs));
            _batch.Actions[1] = 0;
            expected = _batch.Run(new Runner(AuxBackend.Cpu), Given.Features, 0.5, true);

            PvnHead.Run(features, nextFeatures, weights, means, actions, done, sets, 0.5, Start.Current, true, outputs);
            PvnHead.MeanOverActions(
                TensorView.FromPointer(targets, DType.Float32, [4, 2, 3]), TensorView.FromPointer(m, DType.Float32, [4, 3]));
        }

        Assert.Equal(expected.Loss, loss);
        Assert.Equal(expected.FeatureGradient, _byFeatures);
        Assert.Equal(expected.WeightGradient, _byWeights);
        foreach (var (one, other) in mean.Zip(_batch.TargetMean))
            Assert.Equal(other, one, 1e-6);
    }

    [Fact]
    public void CheckFinite_names_the_tensor_and_the_row()
    {
        void Check() => PvnHead.CheckFinite(
            _batch.Features, _batch.NextFeatures, _batch.Weights, _batch.TargetMean, _batch.Actions, _batch.Td.Done,
            _batch.Td.Sets(Given.Features), _batch.Shape);
        Check();
        _batch.Td.Thresholds[2] = float.NaN;
        Refused<ArgumentException>("indicators.thresholds: element 2 of float32[4] is NaN", Check);
        _batch.TargetMean[4] = float.PositiveInfinity;
        Refused<ArgumentException>("targetMean: row 1, column 1 of float32[4, 3] is Infinity", Check);
        _batch.Weights[8] = float.NaN;
        Refused<ArgumentException>("weights: row 2, column 2 of float32[8, 3] is NaN", Check);
        (_batch.Td.Done[1], _batch.NextFeatures[3]) = (false, float.NaN);
        Refused<ArgumentException>("nextFeatures: row 1, column 0 of float32[2, 3] is NaN", Check);
        _batch.Features[1] = float.NaN;
        Refused<ArgumentException>("features: row 0, column 1 of float32[2, 3] is NaN", Check);
        Refused<ArgumentException>("targetMean: 3 elements", () => PvnHead.CheckFinite(
            _batch.Features, _batch.NextFeatures, _batch.Weights, new float[3], _batch.Actions, _batch.Td.Done,
            _batch.Td.Sets(Given.Features), _batch.Shape));
    }

    [Theory]
    [InlineData(AuxBackend.Cuda)]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_that_is_not_there_or_not_for_host_memory_is_never_replaced_silently(AuxBackend backend)
    {
        var expected = PvnHead.IsSupported(backend, out var reason) ? "the tensors are on cpu" : reason;

        var error = Assert.Throws<BackendUnavailableException>(
            () => PvnHead.MeanOverActions(_batch.Weights, _batch.Shape, new float[12], backend));

        Assert.Equal((backend, expected, "PvnHead"), (error.Backend, error.Reason, error.Operation));
    }
}
