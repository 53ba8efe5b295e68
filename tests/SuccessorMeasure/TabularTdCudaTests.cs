using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>TabularTd on device memory: the bits of the CPU backend, in shared memory and without.</summary>
public class TabularTdCudaTests
{
    public TabularTdCudaTests() => CudaDriver.Require();

    public static TheoryData<TransitionOrder, Start, bool> Matrix => new MatrixTheoryData<TransitionOrder, Start, bool>(
        Enum.GetValues<TransitionOrder>(), Enum.GetValues<Start>(), [false, true]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_Cpu_bit_for_bit(TransitionOrder order, Start start, bool normalised)
    {
        // 193 and 385 states are the first that do not fit a block's shared memory, with a snapshot and without.
        foreach (var (states, transitions) in ((int, int)[])[(1, 0), (1, 5), (31, 100), (33, 64), (104, 333), (192, 40), (193, 40),
            (385, 33)])
        {
            var batch = new TabularTdTests.Transitions(states, transitions, seed: states);
            var expected = (float[])batch.Table.Clone();
            TabularTd.Run(expected, states, batch.Current, batch.Next, batch.Done, 0.3, 0.9, start, normalised, order);

            using var devices = new Devices();
            var on = new DeviceTransitions(devices, batch);
            TabularTd.Run(on.Measure, on.Current, on.Next, on.Done, 0.3, 0.9, start, normalised, order, on.Scratch(order));

            Assert.Equal(Devices.Bits(expected), Devices.Bits(Devices.Read<float>(on.Measure)));
            devices.CheckMargins();
        }
    }

    [Fact]
    public void States_out_of_range_are_refused_by_their_place()
    {
        foreach (var (place, state) in ((int, int)[])[(0, -1), (299, 20), (137, int.MaxValue)])
        {
            var batch = new TabularTdTests.Transitions(20, 300, seed: 2);
            batch.Next[place] = state;
            if (place + 1 < 300)
                batch.Next[place + 1] = -7; // a later one
            using var devices = new Devices();
            var on = new DeviceTransitions(devices, batch);

            var error = Assert.Throws<ArgumentOutOfRangeException>(
                () => TabularTd.Run(on.Measure, on.Current, on.Next, on.Done, 0.3, 0.9, Start.Current, false));

            Assert.Contains($"next[{place}] is not within 0 and 19", error.Message, StringComparison.Ordinal);
            Assert.Equal(state, error.ActualValue);
            Assert.Equal(batch.Table, Devices.Read<float>(on.Measure));
        }
    }

    [Theory]
    [InlineData(20)]
    [InlineData(400)]
    public void States_that_are_trusted_and_wrong_touch_no_other_memory(int states)
    {
        var batch = new TabularTdTests.Transitions(states, 40, seed: 2);
        (batch.Current[3], batch.Current[7]) = (-1, states); // left out
        (batch.Next[5], batch.Next[6]) = (1 << 30, -5);
        (batch.Done[5], batch.Done[6]) = (false, true);
        (batch.Current[5], batch.Current[6]) = (11, 12);
        var expected = (float[])batch.Table.Clone();
        for (var i = 0; i < 40; i++)
        {
            var (s, next) = (batch.Current[i], batch.Next[i]);
            if (s < 0 || s >= states)
                continue;
            if (next >= 0 && next < states)
                TabularTd.Run(
                    expected, states, batch.Current.AsSpan(i, 1), batch.Next.AsSpan(i, 1), batch.Done.AsSpan(i, 1), 0.3, 0.9, Start.Current,
                    false);
            else
                expected.AsSpan(s * states, states).Fill(float.NaN);
        }

        using var devices = new Devices();
        var on = new DeviceTransitions(devices, batch);
        TabularTd.Run(on.Measure, on.Current, on.Next, on.Done, 0.3, 0.9, Start.Current, false, trustStates: true);

        var actual = Devices.Read<float>(on.Measure);
        Assert.True(float.IsNaN(actual[11 * states]) || expected[11 * states] == actual[11 * states]);
        for (var i = 0; i < expected.Length; i++)
            Assert.True(expected[i].Equals(actual[i]), $"{i}: {actual[i]}, not {expected[i]}");
        devices.CheckMargins();
    }

    [Fact]
    public void What_is_refused_changes_nothing()
    {
        using var devices = new Devices();
        var batch = new TabularTdTests.Transitions(6, 10, seed: 2);
        var on = new DeviceTransitions(devices, batch);
        void Refused(string text, Action call)
        {
            Assert.Contains(text, Assert.Throws<ArgumentException>(call).Message, StringComparison.Ordinal);
            Assert.Equal(batch.Table, Devices.Read<float>(on.Measure));
        }

        Refused("scratch: float32[] on cpu does not match shape [6, 6]", () => TabularTd.Run(
            on.Measure, on.Current, on.Next, on.Done, 0.3, 0.9, Start.Current, false, TransitionOrder.Snapshot));
        Refused("scratch overlaps measure", () => TabularTd.Run(
            on.Measure, on.Current, on.Next, on.Done, 0.3, 0.9, Start.Current, false, TransitionOrder.Snapshot, on.Measure));
        using var stream = CudaStream.Create();
        TabularTd.Run(on.Measure, on.Current, on.Next, on.Done, 0, 0.9, Start.Current, false, stream: stream);
        Assert.Equal(batch.Table, Devices.Read<float>(on.Measure, stream));
    }

    private sealed class DeviceTransitions(Devices devices, TabularTdTests.Transitions batch)
    {
        public TensorView Measure { get; } = devices.Add(batch.Table, batch.States, batch.States);

        public TensorView Current { get; } = devices.Add(batch.Current);

        public TensorView Next { get; } = devices.Add(batch.Next);

        public TensorView Done { get; } = devices.Add(batch.Done);

        public TensorView Scratch(TransitionOrder order) =>
            order == TransitionOrder.Snapshot ? devices.Add(new float[batch.States * batch.States], batch.States, batch.States) : default;
    }
}
