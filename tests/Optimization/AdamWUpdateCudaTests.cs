using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using CsCheck;

namespace AuxCore.Tests.Optimization;

/// <summary>
/// AdamWUpdate and GradientNorm on device memory: the bits of the CPU backend, whatever the type, length and number of tensors.
/// </summary>
public class AdamWUpdateCudaTests
{
    private static readonly string[] Types = ["float32", "bfloat16", "float16"];

    public AdamWUpdateCudaTests() => CudaDriver.Require();

    [Theory]
    [InlineData(new double[0])]
    [InlineData(new[] { 0.999 })]
    [InlineData(new[] { 0, 0.999, 1, 0.25 })]
    public void Agrees_with_the_Cpu_bit_for_bit(double[] decays)
    {
        foreach (var (parameterType, gradientType) in (from p in Types from g in Types select (p, g)).ToArray())
        {
            int[] lengths = [0, 1, 2, 3, 4, 5, 127, 128, 129, 1000, 1025, 5000];
            using var onHost = new Parameters(lengths, parameterType, gradientType, decays.Length);
            using var onDevice = new DeviceParameters(onHost);
            using var group = AdamWGroup.FromViews(onDevice.Tensors());
            using var expected = AdamWGroup.FromViews(onHost.Tensors());
            group.SetGradients(onDevice.Gradients());
            expected.SetGradients(onHost.Gradients());
            int[] settingsOf = [.. lengths.Select((_, i) => i % 2)];
            for (var step = 1; step <= 3; step++)
            {
                AdamWSettings[] settings =
                    [new() { Step = step, WeightDecay = 0.1 },
                    new() { Step = 7 + step, Decoupled = false, WeightDecay = 0.01, Maximize = true }];
                group.Update(settings, settingsOf, 0.5, decays);
                expected.Update(settings, settingsOf, 0.5, decays, AuxBackend.Cpu);
            }

            Assert.Equal(onHost.Bytes(), onDevice.Bytes());
        }
    }

    [Fact]
    public void Views_at_any_offset_are_stepped_and_what_lies_beside_them_stays()
    {
        Gen.Select(Gen.Int[0, 7], Gen.Int[0, 7], Gen.Int[0, 7], Gen.Int[0, 300]).Sample((first, second, third, length) =>
        {
            var random = new Random(length);
            float[][] host = [.. Enumerable.Range(0, 4).Select(_ =>
                Enumerable.Range(0, length + 9).Select(_ => (float)random.NextDouble()).ToArray())];
            var device = host.Select(values => DeviceBuffer.CopyOf<float>(values)).ToArray();
            using var group = AdamWGroup.FromViews(new AdamWTensors(
                device[0].ViewAt(first, length), device[1].ViewAt(second, length), device[2].ViewAt(third, length)));
            group.SetGradients(device[3].ViewAt(first, length));

            group.Update(new AdamWSettings());

            AdamWUpdate.Run(
                host[0].AsSpan(first, length), host[3].AsSpan(first, length), host[1].AsSpan(second, length), host[2].AsSpan(third, length),
                new());
            var same = host.Zip(device).All(pair => pair.First.Select(AdamWUpdateTests.Bits).SequenceEqual(
                pair.Second.ToArray().Select(AdamWUpdateTests.Bits)));
            foreach (var buffer in device)
                buffer.Dispose();
            return same;
        }, threads: 1, iter: 60);
    }

    [Fact]
    public void The_norm_has_the_bits_of_the_Cpu()
    {
        foreach (var type in Types)
        {
            int[] lengths = [0, 1, 31, 33, 4095, 4096, 4097, 20_000, 5];
            using var onHost = new Parameters(lengths, "float32", type, averages: 0);
            using var onDevice = new DeviceParameters(onHost);
            using var group = AdamWGroup.FromViews(onDevice.Tensors());
            using var expected = AdamWGroup.FromViews(onHost.Tensors());
            Assert.Equal(default, group.Norm());
            group.SetGradients(onDevice.Gradients());
            expected.SetGradients(onHost.Gradients());

            Assert.Equal(expected.Norm(AuxBackend.Cpu), group.Norm());
        }
    }

    [Theory]
    [InlineData(null, 1)]
    [InlineData(0.5, 1)]
    [InlineData(0.5, 1 / 1024.0)]
    [InlineData(1e6, 1)]
    public void A_clipped_update_has_the_bits_of_the_Cpu(double? greatest, double scale)
    {
        using var onHost = new Parameters([3000, 7], "float32", "float32", averages: 1);
        using var onDevice = new DeviceParameters(onHost);
        using var group = AdamWGroup.FromViews(onDevice.Tensors());
        using var expected = AdamWGroup.FromViews(onHost.Tensors());
        group.SetGradients(onDevice.Gradients());
        expected.SetGradients(onHost.Gradients());
        for (var step = 1; step <= 2; step++)
        {
            group.UpdateClipped(greatest, true, [new() { Step = step }], [], scale, [0.9]);
            expected.UpdateClipped(greatest, true, [new() { Step = step }], [], scale, [0.9], AuxBackend.Cpu);
        }

        Assert.Equal(expected.LastNorm(), group.LastNorm());
        Assert.Equal(onHost.Bytes(), onDevice.Bytes());
    }

    [Theory]
    [InlineData(AuxBackend.Cpu)]
    [InlineData(AuxBackend.Cuda)]
    public void A_step_that_is_not_finite_is_left_out_or_taken_unclipped(AuxBackend backend)
    {
        using var onHost = new Parameters([100], "float32", "float32", averages: 0);
        onHost[0].Gradient.Float32[50] = float.PositiveInfinity;
        using var onDevice = new DeviceParameters(onHost);
        using var group = AdamWGroup.FromViews(backend == AuxBackend.Cuda ? onDevice.Tensors() : onHost.Tensors());
        group.SetGradients(backend == AuxBackend.Cuda ? onDevice.Gradients() : onHost.Gradients());
        byte[] Now() => backend == AuxBackend.Cuda ? onDevice.Bytes() : onHost.Bytes();
        var before = Now();

        group.UpdateClipped(1, skipNonFinite: true, [new()], backend: backend);
        Assert.Equal(before, Now());
        Assert.Equal(1, group.LastNorm().NonFinite);
        Assert.Equal(0, group.FirstNonFinite(backend));

        group.UpdateClipped(1, skipNonFinite: false, [new()], backend: backend);
        Assert.NotEqual(before, Now());
    }

    [Fact]
    public void Gradients_and_settings_may_change_from_step_to_step()
    {
        using var onHost = new Parameters([40, 50, 60], "float32", "float32", averages: 0);
        using var onDevice = new DeviceParameters(onHost);
        using var other = DeviceBuffer.CopyOf<float>(Enumerable.Repeat(2f, 50).ToArray());
        using var stream = CudaStream.Create();
        using var group = AdamWGroup.FromViews(onDevice.Tensors());
        using var expected = AdamWGroup.FromViews(onHost.Tensors());
        using var otherOnHost = new Block([.. Enumerable.Repeat(2f, 50)], "float32");
        for (var step = 1; step <= 6; step++)
        {
            var (gradients, hostGradients) = (onDevice.Gradients(), onHost.Gradients());
            if (step % 2 == 0)
                (gradients[1], hostGradients[1]) = (other.View(50), otherOnHost.View);
            if (step % 3 == 0)
                (gradients[2], hostGradients[2]) = (default, default);
            group.SetGradients(gradients);
            expected.SetGradients(hostGradients);
            int[] settingsOf = [0, step % 2, 0];
            AdamWSettings[] settings = [new() { Step = step }, new() { Step = step, LearningRate = 0.1 }];
            group.Update(settings, settingsOf, stream: stream);
            expected.Update(settings, settingsOf, backend: AuxBackend.Cpu);
        }

        stream.Synchronize();
        Assert.Equal(onHost.Bytes(), onDevice.Bytes());
    }

    [Fact]
    public void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var onHost = new Parameters([40], "float32", "float32", averages: 0);
        using var onDevice = new DeviceParameters(onHost);
        using var group = AdamWGroup.FromViews(onDevice.Tensors());
        group.SetGradients(onDevice.Gradients());

        Assert.Throws<BackendUnavailableException>(() => group.Update(new AdamWSettings(), backend: AuxBackend.Cpu));
        Assert.Throws<BackendUnavailableException>(() => group.Norm(AuxBackend.Reference));
        Assert.Throws<ArgumentOutOfRangeException>(() => group.UpdateClipped(0, true, [new()]));
        Assert.Throws<ArgumentOutOfRangeException>(() => group.UpdateClipped(double.NaN, true, [new()]));
        Assert.Throws<ArgumentException>(() => group.UpdateClipped(1, true, []));
        Assert.Throws<InvalidOperationException>(() => group.LastNorm());
        Assert.Throws<InvalidOperationException>(() => group.SetForReplay([new()]));
        using (var nowhere = AdamWGroup.FromViews(OnHostButSaidToBeOnTheDevice(onHost)))
        {
            nowhere.SetGradients(onDevice.Gradients());
            Assert.Contains("parameters[0]", Assert.Throws<ArgumentException>(
                () => nowhere.Update(new AdamWSettings())).Message, StringComparison.Ordinal);
        }

        Assert.Equal(onHost.Bytes(), onDevice.Bytes());
        onDevice.Dispose();
        Assert.Throws<ObjectDisposedException>(() => group.Update(new AdamWSettings()));
        Assert.Throws<ObjectDisposedException>(() => group.Norm());
        group.Dispose();
        group.Dispose();
        Assert.Throws<ObjectDisposedException>(() => group.UpdateClipped(1, true, [new()]));
        Assert.Throws<ObjectDisposedException>(() => group.LastNorm());
        Assert.Throws<ObjectDisposedException>(() => group.SetForReplay([new()]));
    }

    private static AdamWTensors OnHostButSaidToBeOnTheDevice(Parameters parameters)
    {
        var (device, one) = (new AuxDevice(AuxDeviceKind.Cuda), parameters[0]);
        return new(one.Parameter.ViewAs([40], null, device), one.First.ViewAs([40], null, device), one.Second.ViewAs([40], null, device));
    }

    /// <summary>The same as <see cref="Parameters"/>, on the device.</summary>
    private sealed unsafe class DeviceParameters(Parameters host) : IDisposable
    {
        private readonly Dictionary<Block, DeviceBuffer<byte>> _buffers =
            host.Blocks().ToDictionary(block => block, block => DeviceBuffer.CopyOf<byte>(block.Bytes));

        public AdamWTensors[] Tensors() => [.. host.Each().Select(one => new AdamWTensors(
            View(one.Parameter), View(one.First), View(one.Second), one.Master is null ? null : View(one.Master),
            one.Averages.Length == 0 ? null : [.. one.Averages.Select(View)]))];

        public TensorView[] Gradients() => [.. host.Each().Select(one => View(one.Gradient))];

        public byte[] Bytes() => [.. host.Blocks().SelectMany(block => _buffers[block].ToArray())];

        public void Dispose()
        {
            foreach (var buffer in _buffers.Values)
                buffer.Dispose();
        }

        private TensorView View(Block block)
        {
            var buffer = _buffers[block];
            var view = buffer.View(buffer.Length);
            return TensorView.FromPointer((void*)view.Address, block.View.DType, block.View.Shape, device: view.Device, owner: buffer);
        }
    }
}
