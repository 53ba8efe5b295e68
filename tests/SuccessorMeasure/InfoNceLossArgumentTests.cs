using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>What <see cref="InfoNceLoss"/> refuses, before it writes anything.</summary>
public unsafe class InfoNceLossArgumentTests
{
    private const float Canary = 7.25f;

    [Theory]
    [InlineData("queries")]
    [InlineData("keys")]
    [InlineData("queryGradient")]
    [InlineData("keyGradient")]
    public void Lengths_that_do_not_match_the_shape_are_refused(string name)
    {
        int Length(string of) => of == name ? 11 : 12;
        var (dq, dk) = (Filled(Length("queryGradient")), Filled(Length("keyGradient")));

        var error = Assert.Throws<ArgumentException>(
            () => InfoNceLoss.Run(new float[Length("queries")], new float[Length("keys")], 3, 4, new(), dq, dk));

        Assert.Contains($"{name}: 11 elements do not match shape [3, 4]", error.Message, StringComparison.Ordinal);
        Assert.Equal(name, error.ParamName);
        Untouched(dq, dk);
    }

    [Theory]
    [InlineData(1, 4, "1 pairs; a positive needs a negative")]
    [InlineData(0, 4, "0 pairs")]
    [InlineData(-3, 4, "-3 pairs")]
    [InlineData(3, 0, "0 dimensions")]
    [InlineData(3, 65537, "65537 dimensions")]
    public void Sizes_without_a_loss_are_refused(int n, int d, string message)
    {
        var error = Assert.Throws<ArgumentException>(
            () => InfoNceLoss.Run(new float[12], new float[12], n, d, new(), new float[12], new float[12]));

        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Options_are_checked()
    {
        foreach (var value in (double[])[0, -1, double.NaN, double.PositiveInfinity])
            Refused<ArgumentOutOfRangeException>(new() { Temperature = value }, "options.Temperature");
        foreach (var value in (double[])[-1, double.NaN, double.PositiveInfinity])
        {
            Refused<ArgumentOutOfRangeException>(new() { LogSumExpPenalty = value }, "options.LogSumExpPenalty");
            Refused<ArgumentOutOfRangeException>(new() { DistanceOffset = value }, "options.DistanceOffset");
        }

        Refused<ArgumentOutOfRangeException>(new() { Similarity = (InfoNceSimilarity)9 }, "Similarity 9");
        Refused<ArgumentOutOfRangeException>(new() { Direction = (InfoNceDirection)9 }, "Direction 9");
        Refused<ArgumentNullException>(null!, "options");
    }

    private static void Refused<TException>(InfoNceOptions options, string message) where TException : ArgumentException
    {
        var (dq, dk) = (Filled(12), Filled(12));
        var error = Assert.Throws<TException>(() => InfoNceLoss.Run(new float[12], new float[12], 3, 4, options, dq, dk));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Untouched(dq, dk);
    }

    [Fact]
    public void Gradients_share_memory_with_nothing()
    {
        var memory = Filled(100);
        void Overlap(string message, int dq, int dk) =>
            Assert.Contains(message, Assert.Throws<ArgumentException>(() => InfoNceLoss.Run(
                memory.AsSpan(0, 12), memory.AsSpan(20, 12), 3, 4, new(), memory.AsSpan(dq, 12), memory.AsSpan(dk, 12))).Message,
                StringComparison.Ordinal);

        Overlap("queryGradient overlaps queries ", dq: 11, dk: 60);
        Overlap("queryGradient overlaps keys ", dq: 31, dk: 60);
        Overlap("keyGradient overlaps queries ", dq: 40, dk: 3);
        Overlap("keyGradient overlaps queryGradient ", dq: 40, dk: 51);
        Assert.All(memory, value => Assert.Equal(Canary, value));

        InfoNceLoss.Run(memory.AsSpan(0, 12), memory.AsSpan(0, 12), 3, 4, new(), memory.AsSpan(40, 12), memory.AsSpan(60, 12));
        Assert.NotEqual(Canary, memory[40]);
    }

    [Theory]
    [InlineData(AuxBackend.Cuda)]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_that_is_not_there_or_not_for_host_memory_is_never_replaced_silently(AuxBackend backend)
    {
        var expected = InfoNceLoss.IsSupported(backend, out var reason) ? "the tensors are on cpu" : reason;

        var error = Assert.Throws<BackendUnavailableException>(
            () => InfoNceLoss.Run(new float[12], new float[12], 3, 4, new(), new float[12], new float[12], backend));

        Assert.Equal((backend, expected, "InfoNceLoss"), (error.Backend, error.Reason, error.Operation));
    }

    public static TheoryData<string, string> WrongViews => new()
    {
        { "rank", "Queries: float32[12] on cpu is not of rank 2" },
        { "dtype", "Queries: int32[3, 4] on cpu, but float32, bfloat16 or float64 is needed" },
        { "keys shape", "Keys: float32[4, 3] on cpu does not match shape [3, 4]" },
        { "keys dtype", "Keys: bfloat16[3, 4] on cpu, but float32 is needed" },
        { "gradient dtype", "QueryGradient: float64[3, 4] on cpu, but float32 is needed" },
        { "gradient strides", "KeyGradient: float32[3, 4] on cpu with strides [1, 3] is not contiguous" },
        { "device", "Keys: float32[3, 4] on cuda:0, but the other tensors are on cpu" },
        { "loss", "Loss: float64[4] on cpu does not match shape [2]" },
    };

    [Theory]
    [MemberData(nameof(WrongViews))]
    public void Views_that_do_not_fit_are_refused_by_name(string wrong, string message)
    {
        var memory = stackalloc float[300];
        new Span<float>(memory, 300).Fill(Canary);
        TensorView View(int at, DType dtype, params ReadOnlySpan<long> shape) => TensorView.FromPointer(memory + at, dtype, shape);
        var right = new InfoNceTensors
        {
            Queries = View(0, DType.Float32, 3, 4),
            Keys = View(50, DType.Float32, 3, 4),
            QueryGradient = View(100, DType.Float32, 3, 4),
            KeyGradient = View(150, DType.Float32, 3, 4),
            Loss = View(200, DType.Float64, 2),
        };
        var tensors = wrong switch
        {
            "rank" => right with { Queries = View(0, DType.Float32, 12) },
            "dtype" => right with { Queries = View(0, DType.Int32, 3, 4) },
            "keys shape" => right with { Keys = View(50, DType.Float32, 4, 3) },
            "keys dtype" => right with { Keys = View(50, DType.BFloat16, 3, 4) },
            "gradient dtype" => right with { QueryGradient = View(100, DType.Float64, 3, 4) },
            "gradient strides" => right with { KeyGradient = TensorView.FromPointer(memory + 150, DType.Float32, [3, 4], [1, 3]) },
            "device" => right with { Keys = TensorView.FromPointer(memory + 50, DType.Float32, [3, 4], device: new(AuxDeviceKind.Cuda)) },
            _ => right with { Loss = View(200, DType.Float64, 4) },
        };

        var error = Assert.Throws<ArgumentException>(() => InfoNceLoss.Run(tensors, new InfoNceOptions()));

        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Assert.Equal(-1, new Span<float>(memory, 300).IndexOfAnyExcept(Canary));
        InfoNceLoss.Run(right, new InfoNceOptions());
        Assert.NotEqual(Canary, memory[100]);
    }

    private static float[] Filled(int count) => [.. Enumerable.Repeat(Canary, count)];

    private static void Untouched(params ReadOnlySpan<float[]> gradients)
    {
        foreach (var gradient in gradients)
            Assert.All(gradient, value => Assert.Equal(Canary, value));
    }
}
