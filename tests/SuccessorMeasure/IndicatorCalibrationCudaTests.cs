using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>IndicatorCalibration on device memory: thresholds, bits, counts and gradients of the CPU backend, bit for bit.</summary>
public class IndicatorCalibrationCudaTests
{
    private static readonly (int Rows, int Tasks)[] Sizes = [(3, 1), (20, 7), (33, 32), (64, 33), (100, 65), (257, 9)];

    public IndicatorCalibrationCudaTests() => CudaDriver.Require();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Exact_thresholds_are_the_Cpus(bool narrow)
    {
        foreach (var (rows, tasks) in Sizes)
        {
            foreach (var rate in rows < 20 ? (double[])[0.3, 0.5] : [0.05, 0.5, 0.95])
            {
                var features = Features(rows, tasks);
                var (thresholds, counts) = (new float[tasks], new int[tasks]);
                _ = narrow
                    ? IndicatorCalibration.Quantile(TdBatch.Narrow(features), tasks, rate, thresholds, counts)
                    : IndicatorCalibration.Quantile(features, tasks, rate, thresholds, counts);

                using var devices = new Devices();
                var on = Add(devices, features, narrow, rows, tasks);
                var (actual, actualCounts) = (devices.Add(new float[tasks]), devices.Add(new int[tasks]));
                IndicatorCalibration.Quantile(on, rate, actual, actualCounts);
                Assert.Equal(Devices.Bits(thresholds), Devices.Bits(Devices.Read<float>(actual)));
                Assert.Equal(counts, Devices.Read<int>(actualCounts));

                var alone = devices.Add(new float[tasks]);
                IndicatorCalibration.Quantile(on, rate, alone);
                Assert.Equal(Devices.Bits(thresholds), Devices.Bits(Devices.Read<float>(alone)));
                devices.CheckMargins();
            }
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Bits_counts_and_pinball_steps_are_the_Cpus(bool narrow)
    {
        foreach (var (rows, tasks) in Sizes)
        {
            var features = Features(rows, tasks);
            var before = new TdBatch(1, tasks, seed: 5).Prediction;
            var (bits, counts, gradient) = (new byte[rows * Indicators.BytesPerState(tasks)], new int[tasks], new float[tasks]);
            var thresholds = (float[])before.Clone();
            var outputs = new PinballOutputs { Gradient = gradient, Bits = bits, ActiveCounts = counts };
            var loss = narrow
                ? IndicatorCalibration.PinballStep(TdBatch.Narrow(features), 0.1, 0.5, thresholds, outputs)
                : IndicatorCalibration.PinballStep(features, 0.1, 0.5, thresholds, outputs);

            using var devices = new Devices();
            var on = Add(devices, features, narrow, rows, tasks);
            var moved = devices.Add(before);
            var views = new PinballViews
            {
                Gradient = devices.Add(new float[tasks]),
                Loss = devices.Add(new double[1]),
                TaskLosses = devices.Add(new double[tasks]),
                Bits = devices.Add(new byte[bits.Length], rows, Indicators.BytesPerState(tasks)),
                ActiveCounts = devices.Add(new int[tasks]),
            };
            IndicatorCalibration.PinballStep(on, 0.1, 0.5, moved, views);

            Assert.Equal(bits, Devices.Read<byte>(views.Bits));
            Assert.Equal(counts, Devices.Read<int>(views.ActiveCounts));
            Assert.Equal(Devices.Bits(gradient), Devices.Bits(Devices.Read<float>(views.Gradient)));
            Assert.Equal(Devices.Bits(thresholds), Devices.Bits(Devices.Read<float>(moved)));
            var actual = Devices.Read<double>(views.Loss)[0];
            Assert.Equal(loss, actual, double.IsFinite(loss) ? 1e-12 * loss : 0);
            Assert.Equal(actual, Devices.Read<double>(views.TaskLosses).Average(), 1e-12);

            var (packed, packedCounts) = (devices.Add(new byte[bits.Length], rows, Indicators.BytesPerState(tasks)),
                devices.Add(new int[tasks]));
            IndicatorCalibration.Pack(on, devices.Add(before), packed, packedCounts);
            Assert.Equal(bits, Devices.Read<byte>(packed));
            Assert.Equal(counts, Devices.Read<int>(packedCounts));
            devices.CheckMargins();
        }
    }

    [Fact]
    public void What_is_refused_changes_nothing()
    {
        using var devices = new Devices();
        var features = devices.Add(Features(8, 4), 8, 4);
        var thresholds = devices.Add(new float[] { 1, 2, 3, 4 });
        void Refused<TException>(string text, Action call) where TException : ArgumentException
        {
            Assert.Contains(text, Assert.Throws<TException>(call).Message, StringComparison.Ordinal);
            Assert.Equal([1, 2, 3, 4], Devices.Read<float>(thresholds));
        }

        Refused<ArgumentException>("8 states are too few", () => IndicatorCalibration.Quantile(features, 0.01, thresholds));
        Refused<ArgumentOutOfRangeException>("rate", () => IndicatorCalibration.Quantile(features, 1, thresholds));
        Refused<ArgumentException>("outputs.TaskLosses: missing", () => IndicatorCalibration.PinballStep(
            features, 0.5, 1, thresholds, new PinballViews { Loss = devices.Add(new double[1]) }));
        Refused<ArgumentException>("bits: uint8[4, 1]",
            () => IndicatorCalibration.Pack(features, thresholds, devices.Add(new byte[4], 4, 1)));
        Refused<ArgumentException>("gradient overlaps thresholds",
            () => IndicatorCalibration.PinballStep(features, 0.5, 1, thresholds, new PinballViews { Gradient = thresholds }));
    }

    // Random values; a few columns of ties, zeros of both signs, infinities, and a NaN.
    private static float[] Features(int rows, int tasks)
    {
        var random = new Random(rows + tasks);
        var features = new float[rows * tasks];
        for (var n = 0; n < rows; n++)
        {
            for (var t = 0; t < tasks; t++)
                features[n * tasks + t] = (t % 6) switch
                {
                    1 => random.Next(3),
                    2 => random.Next(2) == 0 ? 0f : -0f,
                    3 => random.Next(4) == 0 ? float.PositiveInfinity : random.Next(4) == 0 ? float.NegativeInfinity : n,
                    4 => n == 2 && t > 5 ? float.NaN : -n,
                    _ => (float)random.NextDouble() - 0.5f,
                };
        }

        return features;
    }

    private static TensorView Add(Devices devices, float[] features, bool narrow, int rows, int tasks) =>
        narrow ? devices.Add(TdBatch.Narrow(features), rows, tasks) : devices.Add(features, rows, tasks);
}
