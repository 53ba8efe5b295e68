using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>SuccessorSweep on device memory: the bits of the CPU backend.</summary>
public class SuccessorSweepCudaTests
{
    public SuccessorSweepCudaTests() => CudaDriver.Require();

    public static TheoryData<SweepOrder, Start> Matrix =>
        new MatrixTheoryData<SweepOrder, Start>(Enum.GetValues<SweepOrder>(), Enum.GetValues<Start>());

    [Theory]
    [MemberData(nameof(Matrix))]
    public unsafe void Agrees_with_the_Cpu_bit_for_bit(SweepOrder order, Start start)
    {
        foreach (var (states, sweeps) in ((int, int)[])[(1, 1), (2, 3), (31, 2), (33, 1), (104, 4), (129, 3), (260, 1)])
        {
            var world = TransitionMatrix.FromDense(Worlds.Random(states, 3, 0.1, seed: states), states);
            var random = new Random(states);
            float[] before = [.. Enumerable.Range(0, states * states).Select(_ => (float)random.NextDouble())];
            if (states > 30)
                before[40] = float.NaN;
            var (expected, changes) = ((float[])before.Clone(), new float[states]);
            fixed (float* m = expected, c = changes)
            {
                SuccessorSweep.Run(
                    world, TensorView.FromPointer(m, DType.Float32, [states, states]), 0.9, start, true, sweeps, order,
                    TensorView.FromPointer(c, DType.Float32, [states]));
            }

            using var devices = new Devices();
            var measure = devices.Add(before, states, states);
            var actualChanges = devices.Add(new float[states]);
            SuccessorSweep.Run(world, measure, 0.9, start, true, sweeps, order, actualChanges);
            var alone = devices.Add(before, states, states);
            SuccessorSweep.Run(world, alone, 0.9, start, true, sweeps, order);

            Assert.Equal(Devices.Bits(expected), Devices.Bits(Devices.Read<float>(measure)));
            Assert.Equal(Devices.Bits(expected), Devices.Bits(Devices.Read<float>(alone)));
            Assert.Equal(changes, Devices.Read<float>(actualChanges));
            devices.CheckMargins();
        }
    }

    [Fact]
    public void A_matrix_without_entries_leaves_what_counts()
    {
        using var devices = new Devices();
        var measure = devices.Add(new float[] { 7, 7, 7, 7 }, 2, 2);
        SuccessorSweep.Run(TransitionMatrix.FromRows([0, 0, 0], [], []), measure, 0.5, Start.Current, false);
        Assert.Equal([1, 0, 0, 1], Devices.Read<float>(measure));
    }
}
