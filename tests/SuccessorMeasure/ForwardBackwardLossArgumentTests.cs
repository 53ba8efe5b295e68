using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>What <see cref="ForwardBackwardLoss"/> refuses, before it writes anything.</summary>
public unsafe class ForwardBackwardLossArgumentTests
{
    private const float Canary = 7.25f;
    private static readonly FbShape Shape = new(2, 3, 4);
    private static readonly FbOptions Options = new() { Discount = 0.9, Convention = FbConvention.MetaMotivo };

    [Theory]
    [InlineData("forward", "23 elements do not match shape [2, 3, 4]")]
    [InlineData("backward", "11 elements do not match shape [3, 4]")]
    [InlineData("targetForward", "23 elements do not match shape [2, 3, 4]")]
    [InlineData("targetBackward", "11 elements do not match shape [3, 4]")]
    [InlineData("done", "2 elements do not match shape [3]")]
    [InlineData("forwardGradient", "23 elements do not match shape [2, 3, 4]")]
    [InlineData("backwardGradient", "11 elements do not match shape [3, 4]")]
    public void Lengths_that_do_not_match_the_shape_are_refused(string name, string message)
    {
        int Length(string of, int length) => of == name ? length - 1 : length;
        var (df, db) = (Filled(Length("forwardGradient", 24)), Filled(Length("backwardGradient", 12)));

        var error = Assert.Throws<ArgumentException>(() => ForwardBackwardLoss.Run(
            new float[Length("forward", 24)], new float[Length("backward", 12)], new float[Length("targetForward", 24)],
            new float[Length("targetBackward", 12)], new bool[Length("done", 3)], Shape, Options, df, db));

        Assert.Contains($"{name}: {message}", error.Message, StringComparison.Ordinal);
        Assert.Equal(name, error.ParamName);
        Untouched(df, db);
    }

    [Theory]
    [InlineData(2, 1, 4, "1 transitions; pairs of different ones are needed")]
    [InlineData(2, 0, 4, "0 transitions")]
    [InlineData(2, -1, 4, "-1 transitions")]
    [InlineData(0, 3, 4, "0 heads")]
    [InlineData(17, 3, 4, "17 heads")]
    [InlineData(2, 3, 0, "0 dimensions")]
    [InlineData(2, 3, 65537, "65537 dimensions")]
    public void Sizes_without_a_loss_are_refused(int heads, int n, int d, string message)
    {
        var error = Assert.Throws<ArgumentException>(() => ForwardBackwardLoss.Run(
            new float[24], new float[12], new float[24], new float[12], new bool[3], new FbShape(heads, n, d), Options, new float[24],
            new float[12]));

        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1.0)]
    [InlineData(-0.1)]
    [InlineData(double.NaN)]
    [InlineData(double.PositiveInfinity)]
    public void A_discount_lies_within_zero_and_below_one(double discount) =>
        Refused<ArgumentOutOfRangeException>(Options with { Discount = discount }, "options.Discount");

    [Fact]
    public void Other_options_are_checked()
    {
        Refused<ArgumentOutOfRangeException>(Options with { Orthonormality = -1 }, "options.Orthonormality");
        Refused<ArgumentOutOfRangeException>(Options with { Orthonormality = double.NaN }, "options.Orthonormality");
        Refused<ArgumentOutOfRangeException>(Options with { Orthonormality = double.PositiveInfinity }, "options.Orthonormality");
        Refused<ArgumentOutOfRangeException>(Options with { Penalty = -0.5 }, "options.Penalty");
        Refused<ArgumentOutOfRangeException>(Options with { Penalty = double.NaN }, "options.Penalty");
        Refused<ArgumentOutOfRangeException>(Options with { Convention = (FbConvention)9 }, "Convention 9");
        Refused<ArgumentOutOfRangeException>(Options with { Target = (FbTarget)9 }, "Target 9");
        Refused<ArgumentOutOfRangeException>(Options with { Form = (FbForm)9 }, "Form 9");
        Refused<ArgumentException>(Options with { Target = FbTarget.Minimum, Form = FbForm.Gram }, "the Gram form needs a target");
        Refused<ArgumentException>(
            Options with { Target = FbTarget.Penalised, Penalty = 0.1, Form = FbForm.Gram }, "the Gram form needs a target");
        Refused<ArgumentNullException>(null!, "options");
    }

    private static void Refused<TException>(FbOptions options, string message) where TException : ArgumentException
    {
        var (df, db) = (Filled(24), Filled(12));
        var error = Assert.Throws<TException>(() => ForwardBackwardLoss.Run(
            new float[24], new float[12], new float[24], new float[12], new bool[3], Shape, options, df, db));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Untouched(df, db);
    }

    [Fact]
    public void Gradients_share_memory_with_nothing()
    {
        var memory = Filled(200);
        void Overlap(string message, int df, int db, int f = 0, int b = 30, int fBar = 50, int bBar = 80) =>
            Assert.Contains(message, Assert.Throws<ArgumentException>(() => ForwardBackwardLoss.Run(
                memory.AsSpan(f, 24), memory.AsSpan(b, 12), memory.AsSpan(fBar, 24), memory.AsSpan(bBar, 12), new bool[3], Shape, Options,
                memory.AsSpan(df, 24), memory.AsSpan(db, 12))).Message, StringComparison.Ordinal);

        Overlap("forwardGradient overlaps forward ", df: 23, db: 150);
        Overlap("forwardGradient overlaps backward ", df: 28, db: 150, f: 0);
        Overlap("backwardGradient overlaps targetForward ", df: 100, db: 60);
        Overlap("backwardGradient overlaps targetBackward ", df: 100, db: 91);
        Overlap("backwardGradient overlaps forwardGradient ", df: 100, db: 123);
        Assert.All(memory, value => Assert.Equal(Canary, value));

        // Inputs may be one another: target networks at the start of training are.
        ForwardBackwardLoss.Run(
            memory.AsSpan(0, 24), memory.AsSpan(30, 12), memory.AsSpan(0, 24), memory.AsSpan(30, 12), new bool[3], Shape, Options,
            memory.AsSpan(100, 24), memory.AsSpan(150, 12));
        Assert.NotEqual(Canary, memory[100]);
    }

    [Theory]
    [InlineData(AuxBackend.Cuda)]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_that_is_not_there_or_not_for_host_memory_is_never_replaced_silently(AuxBackend backend)
    {
        var expected = ForwardBackwardLoss.IsSupported(backend, out var reason) ? "the tensors are on cpu" : reason;

        var error = Assert.Throws<BackendUnavailableException>(() => ForwardBackwardLoss.Run(
            new float[24], new float[12], new float[24], new float[12], new bool[3], Shape, Options, new float[24], new float[12],
            backend));

        Assert.Equal((backend, expected, "ForwardBackwardLoss"), (error.Backend, error.Reason, error.Operation));
    }

    [Fact]
    public void Views_give_what_spans_give()
    {
        var batch = FbBatch.Random(new(2, 20, 6), 3);
        var expected = batch.Run(Options, DType.Float32);
        float[] f = FbBatch.Floats(batch.Forward), b = FbBatch.Floats(batch.Backward);
        float[] fBar = FbBatch.Floats(batch.TargetForward), bBar = FbBatch.Floats(batch.TargetBackward);
        float[] df = new float[f.Length], db = new float[b.Length];
        var loss = new double[4];
        fixed (float* f0 = f, b0 = b, fBar0 = fBar, bBar0 = bBar, df0 = df, db0 = db)
        fixed (bool* done = batch.Done)
        fixed (double* l = loss)
        {
            var tensors = new FbTensors
            {
                Forward = TensorView.FromPointer(f0, DType.Float32, [2, 20, 6]),
                Backward = TensorView.FromPointer(b0, DType.Float32, [20, 6]),
                TargetForward = TensorView.FromPointer(fBar0, DType.Float32, [2, 20, 6]),
                TargetBackward = TensorView.FromPointer(bBar0, DType.Float32, [20, 6]),
                Done = TensorView.FromPointer(done, DType.Bool, [20]),
                ForwardGradient = TensorView.FromPointer(df0, DType.Float32, [2, 20, 6]),
                BackwardGradient = TensorView.FromPointer(db0, DType.Float32, [20, 6]),
                Loss = TensorView.FromPointer(l, DType.Float64, [4]),
            };
            ForwardBackwardLoss.Run(tensors, Options);
        }

        Assert.Equal(expected.Terms, new FbTerms(loss[0], loss[1], loss[2], loss[3]));
        Assert.Equal(expected.ForwardGradient, df.Select(value => (double)value));
        Assert.Equal(expected.BackwardGradient, db.Select(value => (double)value));
    }

    public static TheoryData<string, string> WrongViews => new()
    {
        { "rank", "Forward: float32[6, 4] on cpu is not of rank 3" },
        { "dtype", "Forward: int32[2, 3, 4] on cpu, but float32, bfloat16 or float64 is needed" },
        { "backward shape", "Backward: float32[4, 3] on cpu does not match shape [3, 4]" },
        { "backward dtype", "Backward: bfloat16[3, 4] on cpu, but float32 is needed" },
        { "target shape", "TargetForward: float32[1, 3, 4] on cpu does not match shape [2, 3, 4]" },
        { "done length", "Done: bool[4] on cpu does not match shape [3]" },
        { "done dtype", "Done: float32[3] on cpu, but bool or uint8 is needed" },
        { "gradient dtype", "ForwardGradient: float64[2, 3, 4] on cpu, but float32 is needed" },
        { "gradient strides", "BackwardGradient: float32[3, 4] on cpu with strides [1, 3] is not contiguous" },
        { "device", "TargetBackward: float32[3, 4] on cuda:0, but the other tensors are on cpu" },
        { "loss", "Loss: float32[4] on cpu, but float64 is needed" },
    };

    [Theory]
    [MemberData(nameof(WrongViews))]
    public void Views_that_do_not_fit_are_refused_by_name(string wrong, string message)
    {
        var memory = stackalloc float[1000];
        for (var i = 0; i < 1000; i++)
            memory[i] = Canary;
        TensorView View(int at, DType dtype, params ReadOnlySpan<long> shape) => TensorView.FromPointer(memory + at, dtype, shape);
        var right = new FbTensors
        {
            Forward = View(0, DType.Float32, 2, 3, 4),
            Backward = View(50, DType.Float32, 3, 4),
            TargetForward = View(100, DType.Float32, 2, 3, 4),
            TargetBackward = View(150, DType.Float32, 3, 4),
            Done = View(200, DType.UInt8, 3),
            ForwardGradient = View(250, DType.Float32, 2, 3, 4),
            BackwardGradient = View(300, DType.Float32, 3, 4),
            Loss = View(350, DType.Float64, 4),
        };
        var tensors = wrong switch
        {
            "rank" => right with { Forward = View(0, DType.Float32, 6, 4) },
            "dtype" => right with { Forward = View(0, DType.Int32, 2, 3, 4) },
            "backward shape" => right with { Backward = View(50, DType.Float32, 4, 3) },
            "backward dtype" => right with { Backward = View(50, DType.BFloat16, 3, 4) },
            "target shape" => right with { TargetForward = View(100, DType.Float32, 1, 3, 4) },
            "done length" => right with { Done = View(200, DType.Bool, 4) },
            "done dtype" => right with { Done = View(200, DType.Float32, 3) },
            "gradient dtype" => right with { ForwardGradient = View(250, DType.Float64, 2, 3, 4) },
            "gradient strides" => right with { BackwardGradient = TensorView.FromPointer(memory + 300, DType.Float32, [3, 4], [1, 3]) },
            "device" => right with
            {
                TargetBackward = TensorView.FromPointer(memory + 150, DType.Float32, [3, 4], device: new(AuxDeviceKind.Cuda)),
            },
            _ => right with { Loss = View(350, DType.Float32, 4) },
        };

        Assert.Contains(message, Assert.Throws<ArgumentException>(() => ForwardBackwardLoss.Run(tensors, Options)).Message,
            StringComparison.Ordinal);
        for (var i = 0; i < 1000; i++)
            Assert.Equal(Canary, memory[i]);
    }

    private static float[] Filled(int count) => [.. Enumerable.Repeat(Canary, count)];

    private static void Untouched(params ReadOnlySpan<float[]> gradients)
    {
        foreach (var gradient in gradients)
            Assert.All(gradient, value => Assert.Equal(Canary, value));
    }
}
