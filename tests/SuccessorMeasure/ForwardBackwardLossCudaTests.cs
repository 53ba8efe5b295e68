using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>ForwardBackwardLoss on device memory against the formula in double.</summary>
public unsafe class ForwardBackwardLossCudaTests
{
    private static readonly FbOptions Options = new() { Discount = 0.9, Convention = FbConvention.MetaMotivo, Orthonormality = 0.7 };

    private static readonly FbOptions[] Variants =
    [
        Options,
        Options with { Form = FbForm.Tiled },
        Options with { Convention = FbConvention.ControllableAgent, Normalised = true },
        Options with { Target = FbTarget.Minimum, Convention = FbConvention.ControllableAgent },
        Options with { Target = FbTarget.Penalised, Penalty = 0.3, Normalised = true },
        Options with { Target = FbTarget.Penalised, Penalty = 0, Form = FbForm.Gram },
        Options with { Orthonormality = 0, Discount = 0 },
    ];

    public ForwardBackwardLossCudaTests() => CudaDriver.Require();

    [Theory]
    [InlineData(DType.Float32)]
    [InlineData(DType.BFloat16)]
    public void Agrees_with_the_formula(DType dtype)
    {
        // From less than a tile of 64 to several, in rows and in columns, and one head to four.
        foreach (var shape in (FbShape[])[new(2, 2, 1), new(1, 3, 2), new(3, 17, 7), new(2, 65, 16), new(4, 70, 5), new(2, 131, 70)])
        {
            var batch = FbBatch.Random(shape, seed: shape.Count);
            var rounded = dtype == DType.BFloat16 ? batch.Rounded() : batch;
            foreach (var options in shape.Count > 100 ? Variants[..4] : Variants)
            {
                var error = Run(batch, options, dtype).DistanceTo(rounded.Formula(options));

                Assert.True(error <= Tolerances.ForwardBackwardLossFloat, $"{dtype} {shape} {options}: off by {error:E1}");
            }
        }
    }

    [Fact]
    public void The_Gram_form_keeps_the_losses_digits_near_convergence()
    {
        foreach (var ratio in (double[])[1, 1e-1, 1e-2, 1e-3])
        {
            var batch = FbBatch.NearConvergence(new(2, 300, 20), ratio, Options.Discount, seed: 4);
            var expected = batch.Run(Options, DType.Float64, AuxBackend.Reference);

            var actual = Run(batch, Options, DType.Float32);

            Assert.InRange(Math.Abs(actual.Terms.OffDiagonal / expected.Terms.OffDiagonal - 1), 0, 1e-5);
        }
    }

    [Fact]
    public void Slices_of_Gram_matrices_add_up()
    {
        var batch = FbBatch.Random(new(2, 1100, 6), seed: 5); // eight slices
        Assert.InRange(Run(batch, Options, DType.Float32).DistanceTo(batch.Run(Options, DType.Float64, AuxBackend.Reference)), 0, 2e-6);
    }

    [Fact]
    public void A_NaN_anywhere_gives_a_NaN_loss()
    {
        foreach (var options in Variants.Where(options => options.Discount > 0))
        {
            for (var which = 0; which < 4; which++)
            {
                var batch = FbBatch.Random(new(2, 20, 5), 2);
                Array.Clear(batch.Done);
                double[][] inputs = [batch.Forward, batch.Backward, batch.TargetForward, batch.TargetBackward];
                inputs[which][33] = double.NaN;

                var terms = Run(batch, options, DType.Float32).Terms;

                Assert.True(double.IsNaN(terms.Total), $"{options}: NaN in input {which} gave {terms}");
            }
        }
    }

    [Fact]
    public void Targets_of_terminal_transitions_are_not_read()
    {
        foreach (var options in Variants)
        {
            var batch = FbBatch.Random(new(2, 30, 5), 2);
            batch.Done[3] = true;
            var expected = batch.Formula(options);
            for (var i = 0; i < 30; i++)
            {
                for (var k = 0; k < 10 && batch.Done[i]; k++)
                    batch.TargetForward[k / 5 * 150 + i * 5 + k % 5] = double.NaN;
            }

            Assert.InRange(Run(batch, options, DType.Float32).DistanceTo(expected), 0, Tolerances.ForwardBackwardLossFloat);
        }
    }

    [Fact]
    public void The_same_batch_gives_the_same_bits_whatever_the_workspace_held()
    {
        foreach (var options in Variants)
        {
            var batch = FbBatch.Random(new(2, 90, 11), 8);
            var (first, second) = (Run(batch, options, DType.Float32, fill: 0x00), Run(batch, options, DType.Float32, fill: 0xff));

            Assert.Equal(first.Terms, second.Terms);
            Assert.Equal(first.ForwardGradient, second.ForwardGradient);
            Assert.Equal(first.BackwardGradient, second.BackwardGradient);
        }
    }

    [Fact]
    public void Batches_of_any_size_agree_with_the_Cpu() =>
        Gen.Select(Gen.Int[2, 80], Gen.Int[1, 40], Gen.Int[1, 3], Gen.Int[0, Variants.Length - 1]).Sample(
            (n, d, heads, variant) =>
            {
                var batch = FbBatch.Random(new(heads, n, d), seed: n + d);
                var expected = batch.Run(Variants[variant], DType.Float64);
                return Run(batch, Variants[variant], DType.Float32).DistanceTo(expected) <= 1e-5;
            },
            iter: 25);

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        var batch = FbBatch.Random(new(2, 20, 5), 2);
        using var stream = CudaStream.Create();
        Assert.Equal(Run(batch, Options, DType.Float32).Terms, Run(batch, Options, DType.Float32, stream: stream).Terms);
    }

    [Fact]
    public void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var right = OnDevice(devices, FbBatch.Random(new(2, 20, 5), 2), Options, DType.Float32, 0);
        void Refused<TException>(string message, FbTensors tensors, FbOptions? options = null) where TException : Exception
        {
            var error = Assert.Throws<TException>(() => ForwardBackwardLoss.Run(tensors, options ?? Options));
            Assert.Contains(message, error.Message, StringComparison.Ordinal);
        }

        var small = devices.Keep(DeviceBuffer.Allocate<byte>(64));
        Refused<ArgumentException>("Workspace: missing; uint8[", right with { Workspace = default });
        Refused<ArgumentException>("or more is needed on cuda:0", right with { Workspace = small.View(64) });
        var needed = ForwardBackwardLoss.WorkspaceBytes(new(2, 20, 5), Options);
        var shifted = devices.Keep(DeviceBuffer.Allocate<byte>(needed + 64));
        Refused<ArgumentException>("is not aligned to 256 bytes", right with { Workspace = shifted.ViewAt(64, needed) });
        Refused<ArgumentException>("forwardGradient overlaps forward", right with { ForwardGradient = right.Forward });
        Refused<ArgumentException>("but float64 is for host memory", right with { Forward = devices.Add(new double[200], 2, 20, 5) });
        Refused<ArgumentOutOfRangeException>("options.Discount", right, Options with { Discount = 1 });
        var freed = DeviceBuffer.Allocate<float>(100);
        var gone = freed.View(20, 5);
        freed.Dispose();
        Refused<ObjectDisposedException>("Backward", right with { Backward = gone });
        var host = stackalloc float[100];
        var said = TensorView.FromPointer(host, DType.Float32, [20, 5], device: right.Forward.Device);
        Refused<ArgumentException>("is not device memory", right with { TargetBackward = said });
        Assert.Throws<BackendUnavailableException>(() => ForwardBackwardLoss.Run(right, Options, AuxBackend.Cpu));

        Assert.All(Devices.Read<float>(right.ForwardGradient), value => Assert.Equal(-7, value));
        Assert.All(Devices.Read<double>(right.Loss), value => Assert.Equal(-7, value));
        devices.CheckMargins();
    }

    [Fact]
    public void The_workspace_is_as_large_as_the_library_says()
    {
        foreach (var options in Variants)
        {
            foreach (var (heads, n, d) in ((int, int, int)[])
                [(1, 2, 1), (2, 1024, 100), (2, 1024, 256), (3, 65, 64), (2, 4096, 50), (16, 100_000, 7), (1, 63, 500)])
            {
                var batch = new Native.ForwardBackward
                {
                    StructSize = (uint)sizeof(Native.ForwardBackward), Type = DType.Float32, Heads = heads, Count = n, Dimension = d,
                    Target = (int)options.Target, IsGram = options.IsGram ? 1u : 0, Penalty = options.Penalty,
                };
                NativeStatus.Check(Native.ForwardBackwardWorkspace(&batch, out var bytes), "test");
                Assert.Equal(bytes, ForwardBackwardLoss.WorkspaceBytes(new(heads, n, d), options));
            }
        }
    }

    private static FbResult Run(FbBatch batch, FbOptions options, DType dtype, byte fill = 0x7f, CudaStream? stream = null)
    {
        using var devices = new Devices();
        var tensors = OnDevice(devices, batch, options, dtype, fill);
        ForwardBackwardLoss.Run(tensors, options, stream: stream);
        var loss = Devices.Read<double>(tensors.Loss, stream);
        devices.CheckMargins();
        return new FbResult(
            [.. Devices.Read<float>(tensors.ForwardGradient, stream).Select(value => (double)value)],
            [.. Devices.Read<float>(tensors.BackwardGradient, stream).Select(value => (double)value)])
        {
            Terms = new(loss[0], loss[1], loss[2], loss[3]),
        };
    }

    private static FbTensors OnDevice(Devices devices, FbBatch batch, FbOptions options, DType dtype, byte fill)
    {
        var (heads, n, d) = batch.Shape;
        TensorView Input(double[] values, params ReadOnlySpan<long> shape) =>
            dtype == DType.Float32 ? devices.Add(FbBatch.Floats(values), shape) : devices.Add(FbBatch.Narrow(values), shape);
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(ForwardBackwardLoss.WorkspaceBytes(batch.Shape, options)));
        workspace.FillBytes(fill);
        return new FbTensors
        {
            Forward = Input(batch.Forward, heads, n, d),
            Backward = Input(batch.Backward, n, d),
            TargetForward = Input(batch.TargetForward, heads, n, d),
            TargetBackward = Input(batch.TargetBackward, n, d),
            Done = devices.Add(batch.Done, n),
            ForwardGradient = devices.Add<float>([.. Enumerable.Repeat(-7f, heads * n * d)], heads, n, d),
            BackwardGradient = devices.Add<float>([.. Enumerable.Repeat(-7f, n * d)], n, d),
            Loss = devices.Add<double>([-7, -7, -7, -7], 4),
            Workspace = workspace.View(workspace.Length),
        };
    }
}
