using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>InfoNceLoss on device memory against the formula in double.</summary>
public unsafe class InfoNceLossCudaTests
{
    private static readonly InfoNceOptions[] Variants =
    [
        new(),
        InfoNceOptions.JaxGcrl,
        InfoNceOptions.ControllableAgent,
        new() { Similarity = InfoNceSimilarity.NegativeSquaredDistance, Temperature = 4 },
        new() { Similarity = InfoNceSimilarity.Dot, Temperature = 3, LogSumExpPenalty = 0.2 },
        new() { Similarity = InfoNceSimilarity.Cosine, Temperature = 0.1, Direction = InfoNceDirection.Symmetric },
        new() { Direction = InfoNceDirection.Symmetric, LogSumExpPenalty = 0.1 },
        new() { Direction = InfoNceDirection.Symmetric, ExcludePositives = true, Similarity = InfoNceSimilarity.Dot, Temperature = 2 },
    ];

    public InfoNceLossCudaTests() => CudaDriver.Require();

    [Theory]
    [InlineData(DType.Float32)]
    [InlineData(DType.BFloat16)]
    public void Agrees_with_the_formula(DType dtype)
    {
        foreach (var (n, d) in ((int, int)[])[(2, 1), (3, 2), (17, 7), (65, 16), (131, 70)])
        {
            var batch = InfoNceBatch.Random(n, d, seed: n);
            var rounded = dtype == DType.BFloat16 ? batch.Rounded() : batch;
            foreach (var options in n > 100 ? Variants[..3] : Variants)
            {
                var error = Run(batch, options, dtype).DistanceTo(rounded.Formula(options), n);

                Assert.True(error <= Tolerances.InfoNceLossFloat, $"{dtype} n={n} d={d} {options}: off by {error:E1}");
            }
        }
    }

    [Fact]
    public void Large_logits_do_not_overflow()
    {
        var batch = InfoNceBatch.Random(40, 8, seed: 5, scale: 100);
        foreach (var options in Variants)
            Assert.InRange(Run(batch, options, DType.Float32).DistanceTo(batch.Formula(options), 40), 0, 5e-2);
    }

    [Fact]
    public void A_common_offset_costs_distances_no_accuracy()
    {
        var batch = InfoNceBatch.Random(70, 16, seed: 5, scale: 0.25, centre: 50);
        foreach (var options in Variants.Where(options => options.Similarity
            is InfoNceSimilarity.NegativeDistance or InfoNceSimilarity.NegativeSquaredDistance))
            Assert.InRange(Run(batch, options, DType.Float32).DistanceTo(batch.Formula(options), 70), 0, Tolerances.InfoNceLossFloat);
    }

    [Fact]
    public void Vectors_that_coincide_or_vanish_have_no_gradient_of_their_own()
    {
        foreach (var similarity in Enum.GetValues<InfoNceSimilarity>())
        {
            var batch = new InfoNceBatch(3, 2);
            ((double[])[0, 0, 1, 0, 0, 2]).CopyTo(batch.Queries, 0);
            ((double[])[0, 0, 1, 0, 1, 1]).CopyTo(batch.Keys, 0);
            var options = new InfoNceOptions { Similarity = similarity };

            Assert.InRange(Run(batch, options, DType.Float32).DistanceTo(batch.Formula(options), 3), 0, Tolerances.InfoNceLossFloat);
        }
    }

    [Fact]
    public void A_NaN_anywhere_gives_a_NaN_loss()
    {
        foreach (var options in Variants)
        {
            foreach (var inKeys in (bool[])[false, true])
            {
                var batch = InfoNceBatch.Random(20, 3, seed: 6);
                (inKeys ? batch.Keys : batch.Queries)[31] = double.NaN;

                var terms = Run(batch, options, DType.Float32).Terms;

                Assert.True(double.IsNaN(terms.Total), $"{options}: {terms}");
            }
        }
    }

    [Fact]
    public void The_same_batch_gives_the_same_bits_whatever_the_workspace_held()
    {
        foreach (var options in Variants)
        {
            var batch = InfoNceBatch.Random(90, 11, seed: 8);
            var (first, second) = (Run(batch, options, DType.Float32, fill: 0x00), Run(batch, options, DType.Float32, fill: 0xff));

            Assert.Equal(first.Terms, second.Terms);
            Assert.Equal(first.QueryGradient, second.QueryGradient);
            Assert.Equal(first.KeyGradient, second.KeyGradient);
        }
    }

    [Fact]
    public void Batches_of_any_size_agree_with_the_Cpu() => // in two dimensions rows are nearly parallel, and gradients small differences
        Gen.Select(Gen.Int[2, 80], Gen.Int[2, 40], Gen.Int[0, Variants.Length - 1]).Sample(
            (n, d, variant) =>
            {
                var batch = InfoNceBatch.Random(n, d, seed: n + d);
                var expected = batch.Run(Variants[variant], DType.Float64);
                return Run(batch, Variants[variant], DType.Float32).DistanceTo(expected, n) <= 3e-4;
            },
            iter: 25);

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        var batch = InfoNceBatch.Random(20, 5, seed: 2);
        using var stream = CudaStream.Create();
        Assert.Equal(Run(batch, new(), DType.Float32).Terms, Run(batch, new(), DType.Float32, stream: stream).Terms);
    }

    [Fact]
    public void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var right = OnDevice(devices, InfoNceBatch.Random(20, 5, seed: 2), DType.Float32, 0);
        void Refused<TException>(string message, InfoNceTensors tensors, InfoNceOptions? options = null) where TException : Exception
        {
            var error = Assert.Throws<TException>(() => InfoNceLoss.Run(tensors, options ?? new()));
            Assert.Contains(message, error.Message, StringComparison.Ordinal);
        }

        Refused<ArgumentException>("Workspace: missing; uint8[", right with { Workspace = default });
        Refused<ArgumentException>(
            "or more is needed on cuda:0", right with { Workspace = devices.Keep(DeviceBuffer.Allocate<byte>(64)).View(64) });
        Refused<ArgumentException>("queryGradient overlaps keys", right with { QueryGradient = right.Keys });
        Refused<ArgumentException>("but float64 is for host memory", right with { Queries = devices.Add(new double[100], 20, 5) });
        Refused<ArgumentOutOfRangeException>("options.Temperature", right, new() { Temperature = 0 });
        var host = stackalloc float[100];
        var said = TensorView.FromPointer(host, DType.Float32, [20, 5], device: right.Keys.Device);
        Refused<ArgumentException>("is not device memory", right with { Keys = said });
        Assert.Throws<BackendUnavailableException>(() => InfoNceLoss.Run(right, new(), AuxBackend.Reference));

        Assert.All(Devices.Read<float>(right.KeyGradient), value => Assert.Equal(-7, value));
        Assert.All(Devices.Read<double>(right.Loss), value => Assert.Equal(-7, value));
        devices.CheckMargins();
    }

    [Fact]
    public void The_workspace_is_as_large_as_the_library_says()
    {
        foreach (var (n, d) in ((int, int)[])[(2, 1), (64, 7), (65, 64), (1024, 100), (4096, 64), (100_000, 256)])
        {
            var batch = new Native.InfoNce
            {
                StructSize = (uint)sizeof(Native.InfoNce), Type = DType.BFloat16, Count = n, Dimension = d, Temperature = 1,
            };
            NativeStatus.Check(Native.InfoNceWorkspace(&batch, out var bytes), "test");
            Assert.Equal(bytes, InfoNceLoss.WorkspaceBytes(n, d));
        }
    }

    private static InfoNceResult Run(
        InfoNceBatch batch, InfoNceOptions options, DType dtype, byte fill = 0x7f, CudaStream? stream = null)
    {
        using var devices = new Devices();
        var tensors = OnDevice(devices, batch, dtype, fill);
        InfoNceLoss.Run(tensors, options, stream: stream);
        var loss = Devices.Read<double>(tensors.Loss, stream);
        devices.CheckMargins();
        return new InfoNceResult(
            [.. Devices.Read<float>(tensors.QueryGradient, stream).Select(value => (double)value)],
            [.. Devices.Read<float>(tensors.KeyGradient, stream).Select(value => (double)value)])
        {
            Terms = new(loss[0], loss[1]),
        };
    }

    private static InfoNceTensors OnDevice(Devices devices, InfoNceBatch batch, DType dtype, byte fill)
    {
        var (n, d) = (batch.Count, batch.Dimension);
        TensorView Input(double[] values) =>
            dtype == DType.Float32 ? devices.Add(FbBatch.Floats(values), n, d) : devices.Add(FbBatch.Narrow(values), n, d);
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(InfoNceLoss.WorkspaceBytes(n, d)));
        workspace.FillBytes(fill);
        return new InfoNceTensors
        {
            Queries = Input(batch.Queries),
            Keys = Input(batch.Keys),
            QueryGradient = devices.Add<float>([.. Enumerable.Repeat(-7f, n * d)], n, d),
            KeyGradient = devices.Add<float>([.. Enumerable.Repeat(-7f, n * d)], n, d),
            Loss = devices.Add<double>([-7, -7], 2),
            Workspace = workspace.View(workspace.Length),
        };
    }
}
