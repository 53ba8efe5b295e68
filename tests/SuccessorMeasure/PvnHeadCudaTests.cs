using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>PvnHead on device memory against the published expression in double.</summary>
public class PvnHeadCudaTests
{
    private const double Discount = 0.9;

    public PvnHeadCudaTests() => CudaDriver.Require();

    public static TheoryData<Given> Kinds => [.. Enum.GetValues<Given>()];

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Agrees_with_the_published_expression_in_double(Given given)
    {
        foreach (var (rows, features, tasks, actions) in ((int, int, int, int)[])
            [(1, 1, 1, 1), (3, 5, 2, 4), (33, 31, 33, 2), (70, 40, 35, 1), (40, 33, 64, 18), (300, 20, 5, 3)])
        {
            var batch = new PvnBatch(rows, features, tasks, actions, seed: rows);
            var expected = batch.Expect(given, Discount, normalised: true);
            using var devices = new Devices();
            var on = new DevicePvn(devices, batch, given);

            PvnHead.MeanOverActions(on.TargetWeights, on.TargetMean);
            on.Run(normalised: true);

            var where = $"{given} B={rows} F={features} T={tasks} A={actions}";
            Close(where, [expected.Loss], Devices.Read<double>(on.Outputs.Loss), expected.Loss + 1);
            Close(where, expected.RowLosses, Devices.Read<double>(on.Outputs.RowLosses), expected.RowLosses.Max() + 1);
            Close(where, expected.FeatureGradient, Widened(on.Outputs.FeatureGradient), expected.FeatureScale);
            Close(where, expected.WeightGradient, Widened(on.Outputs.WeightGradient), expected.WeightScale);
            var (counts, errors) = (new int[tasks], new float[tasks]);
            PvnHead.Run(
                batch.Features, batch.NextFeatures, batch.Weights, batch.TargetMean, batch.Actions, batch.Td.Done, batch.Td.Sets(given),
                batch.Shape, Discount, Start.Current, true, default,
                new TdStatistics { ActiveCounts = counts, MeanAbsoluteErrors = errors });
            Assert.Equal(counts, Devices.Read<int>(on.Outputs.ActiveCounts));
            Close(where, errors.Select(x => (double)x), Widened(on.Outputs.MeanAbsoluteErrors), errors.Max() + 1);
            devices.CheckMargins();
        }

        static IEnumerable<double> Widened(TensorView view) => Devices.Read<float>(view).Select(x => (double)x);

        static void Close(string where, IEnumerable<double> expected, IEnumerable<double> actual, double scale)
        {
            foreach (var (e, a) in expected.Zip(actual))
                Assert.True(Math.Abs(e - a) <= Tolerances.PvnHeadRelative * scale, $"{where}: {a:R}, not {e:R} (scale {scale:R})");
        }
    }

    [Fact]
    public void The_mean_over_actions_is_the_Cpus_bit_for_bit()
    {
        foreach (var (features, tasks, actions) in ((int, int, int)[])[(1, 1, 1), (33, 17, 6), (512, 3, 18)])
        {
            var batch = new PvnBatch(1, features, tasks, actions, seed: 3);
            var expected = new float[tasks * features];
            PvnHead.MeanOverActions(batch.Weights, batch.Shape, expected);
            using var devices = new Devices();
            var mean = devices.Add(new float[tasks * features], tasks, features);
            PvnHead.MeanOverActions(devices.Add(batch.Weights, tasks, actions, features), mean);
            Assert.Equal(Devices.Bits(expected), Devices.Bits(Devices.Read<float>(mean)));
            devices.CheckMargins();
        }
    }

    [Fact]
    public void Actions_out_of_range_are_refused_or_where_trusted_give_NaN()
    {
        var batch = new PvnBatch(40, 9, 7, 3, seed: 4);
        (batch.Actions[5], batch.Actions[30]) = (3, -2);
        using var devices = new Devices();
        var on = new DevicePvn(devices, batch, Given.Features);

        var error = Assert.Throws<ArgumentOutOfRangeException>(() => on.Run(normalised: false));
        Assert.Contains("actions[5] is not within 0 and 2", error.Message, StringComparison.Ordinal);
        Assert.Equal(0, Devices.Read<double>(on.Outputs.Loss)[0]);

        on.Run(normalised: false, trusted: true);
        Assert.True(double.IsNaN(Devices.Read<double>(on.Outputs.Loss)[0]));
        Assert.Equal([5, 30], Places(Devices.Read<double>(on.Outputs.RowLosses).Select(double.IsNaN)));
        Assert.Equal(
            Enumerable.Range(45, 9).Concat(Enumerable.Range(270, 9)),
            Places(Devices.Read<float>(on.Outputs.FeatureGradient).Select(float.IsNaN)));
        Assert.DoesNotContain(float.NaN, Devices.Read<float>(on.Outputs.WeightGradient));
        devices.CheckMargins();

        static IEnumerable<int> Places(IEnumerable<bool> hits) => hits.Select((hit, i) => hit ? i : -1).Where(i => i >= 0);
    }

    [Fact]
    public void A_workspace_is_wanted_and_as_large_as_the_library_says()
    {
        foreach (var (rows, tasks, actions) in ((int, int, int)[])[(1, 1, 1), (256, 100, 6), (33, 33, 18), (1000, 1025, 300)])
        {
            NativeStatus.Check(Native.PvnHeadWorkspace(rows, tasks, actions, out var bytes), "test");
            Assert.Equal(bytes, PvnHead.WorkspaceBytes(rows, new PvnShape(5, tasks, actions)));
        }

        var batch = new PvnBatch(4, 9, 7, 3, seed: 4);
        using var devices = new Devices();
        var on = new DevicePvn(devices, batch, Given.Bits);
        foreach (var workspace in (TensorView[])[default, devices.Keep(DeviceBuffer.Allocate<byte>(100)).View(100)])
            Assert.Contains("or more is needed on cuda:0",
                Assert.Throws<ArgumentException>(() => on.Run(normalised: false, workspace: workspace)).Message, StringComparison.Ordinal);
    }

    private sealed class DevicePvn
    {
        private readonly TensorView _features, _next, _weights, _actions, _done, _workspace;
        private readonly IndicatorViews _sets;

        public DevicePvn(Devices devices, PvnBatch batch, Given given)
        {
            var ((features, tasks, actions), rows) = (batch.Shape, batch.Td.Rows);
            var td = new IndicatorTdCudaTests.DeviceBatch(devices, batch.Td, given, narrow: false);
            _features = devices.Add(batch.Features, rows, features);
            _next = devices.Add(batch.NextFeatures, rows, features);
            _weights = devices.Add(batch.Weights, tasks, actions, features);
            TargetWeights = devices.Add(batch.TargetWeights, tasks, actions, features);
            TargetMean = devices.Add(new float[tasks * features], tasks, features);
            _actions = devices.Add(batch.Actions);
            (_done, _sets) = (td.Done, td.Sets);
            Outputs = new PvnOutputs
            {
                FeatureGradient = devices.Add(new float[rows * features], rows, features),
                WeightGradient = devices.Add(new float[tasks * actions * features], tasks, actions, features),
                Loss = td.Outputs.Loss,
                RowLosses = td.Outputs.RowLosses,
                ActiveCounts = td.Outputs.ActiveCounts,
                MeanAbsoluteErrors = td.Outputs.MeanAbsoluteErrors,
            };
            var bytes = PvnHead.WorkspaceBytes(rows, batch.Shape);
            var memory = devices.Keep(DeviceBuffer.Allocate<byte>(bytes));
            memory.FillBytes(0xcd);
            _workspace = memory.View(bytes);
        }

        public TensorView TargetWeights { get; }

        public TensorView TargetMean { get; }

        public PvnOutputs Outputs { get; }

        public void Run(bool normalised, bool trusted = false, TensorView? workspace = null) => PvnHead.Run(
            _features, _next, _weights, TargetMean, _actions, _done, _sets, Discount, Start.Current, normalised, Outputs,
            workspace ?? _workspace, trusted);
    }
}
