using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using CsCheck;
using TorchSharp;

namespace AuxCore.Tests.Ema;

public class ScatterEmaTests
{
    private static readonly double[] Decays = [0, 0.25, 0.5, 0.9, 0.999, 1];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Agrees_with_the_formula_for_every_entry_and_leaves_the_others(Runner runner)
    {
        foreach (var (entries, count) in ((int, int)[])[(1, 1), (5, 0), (0, 0), (7, 3), (1000, 257), (100, 1000)])
        {
            foreach (var decay in Decays)
            {
                var random = new Random(entries + count);
                var history = Enumerable.Range(0, entries + 1).Select(_ => (float)random.NextDouble() - 0.5f).ToArray();
                var index = Enumerable.Range(0, count).Select(_ => (long)random.Next(entries)).ToArray();
                var value = Enumerable.Range(0, count).Select(_ => (float)random.NextDouble() - 0.5f).ToArray();
                var (narrow, start) = ((float[])history.Clone(), (float[])history.Clone());

                runner.Run(backend =>
                {
                    ScatterEma.Update(history.AsSpan(0, entries), index, value, decay, backend: backend);
                    int[] index32 = [.. index.Select(i => (int)i)];
                    ScatterEma.Update(narrow.AsSpan(0, entries), index32, value, decay, backend: backend);
                });

                double[] expected = [.. start.Select(entry => (double)entry)];
                for (var j = 0; j < count; j++)
                    expected[index[j]] = decay * expected[index[j]] + (1 - decay) * value[j];
                for (var i = 0; i <= entries; i++)
                {
                    var times = index.Count(j => j == i);
                    Assert.InRange(Tolerances.Ulps(history[i], (float)expected[i], 1), 0, times * Tolerances.ScatterEmaUlps + times);
                }

                Assert.Equal(EmaUpdateTests.Bits(history), EmaUpdateTests.Bits(narrow));
                Assert.Equal(start[^1], history[^1]);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Repetitions_are_updates_one_after_the_other_bit_for_bit(Runner runner)
    {
        var (history, expected) = (new float[] { 1, -3, 0.3f }, new float[] { 1, -3, 0.3f });
        long[] index = [2, 0, 2, 2, 1, 0];
        float[] value = [5, 1, 0.7f, -2, -0f, 1];

        runner.Run(backend =>
        {
            foreach (var decay in Decays)
            {
                ScatterEma.Update(history, index, value, decay, backend: backend);
                for (var j = 0; j < index.Length; j++)
                    EmaUpdate.Run(expected.AsSpan((int)index[j], 1), value.AsSpan(j, 1), decay, backend);
            }
        });

        Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(history));
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void NaN_propagates_or_is_a_value_that_is_not_there(Runner runner)
    {
        foreach (var decay in (double[])[0, 0.5, 0.999, 1])
        {
            float[] propagating = [1, float.NaN, 2], missing = [1, float.NaN, 2, float.NaN];
            runner.Run(backend =>
            {
                ScatterEma.Update(propagating, (long[])[0, 1, 2], [float.NaN, 3, 2], decay, backend: backend);
                ScatterEma.Update(missing, (int[])[0, 1, 3, 1], [float.NaN, 8, float.NaN, 4], decay, NaNPolicy.Missing, backend);
            });

            // β = 1 reads nothing, β = 0 copies: as EmaUpdate.
            Assert.Equal(
                decay == 1 ? [1, float.NaN, 2] : decay == 0 ? [float.NaN, 3, 2] : [float.NaN, float.NaN, 2], propagating);
            Assert.Equal([1, decay == 0 ? 4 : decay == 1 ? 8 : decay == 0.5 ? 6 : 8 - 4 * (float)(1 - decay), 2, float.NaN], missing);
        }
    }

    [Fact]
    public void Updates_in_one_call_or_in_several_are_the_same() => Gen
        .Select(Gen.Int[0, 9].Array[0, 40], Gen.Int[0, 40], Gen.Double[0, 1])
        .Sample((index, cut, decay) =>
        {
            cut = Math.Min(cut, index.Length);
            var value = index.Select((i, j) => (float)Math.Sin(i + 10 * j)).ToArray();
            float[] whole = new float[10], parts = new float[10];
            ScatterEma.Update(whole, index, value, decay);
            ScatterEma.Update(parts, index.AsSpan(0, cut), value.AsSpan(0, cut), decay);
            ScatterEma.Update(parts, index.AsSpan(cut), value.AsSpan(cut), decay);
            return whole.SequenceEqual(parts);
        });

    [Theory]
    [InlineData(-1)]
    [InlineData(3)]
    [InlineData(int.MaxValue)]
    [InlineData(int.MinValue)]
    public void An_index_outside_the_history_is_named_before_anything_is_written(int bad)
    {
        var history = new float[] { 1, 2, 3 };

        Named(() => ScatterEma.Update(history, (int[])[0, 1, bad, 9], new float[4], 0.5));
        Named(() => ScatterEma.Update(history, (long[])[0, 1, bad, 9], new float[4], 0.5, NaNPolicy.Missing, AuxBackend.Reference));
        Named(() => ScatterEma.Update(history, (long[])[0, 1, bad, 9], new float[4], 1));

        Assert.Equal([1, 2, 3], history);

        void Named(Action action)
        {
            var error = Assert.Throws<ArgumentOutOfRangeException>(action);
            Assert.Equal("index", error.ParamName);
            Assert.Contains("index[2] is outside the history of 3 entries", error.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public unsafe void A_negative_index_is_outside_a_history_of_any_length()
    {
        var history = TensorView.FromPointer((void*)4096, DType.Float32, [5_000_000_000]); // as an unsigned number −1 would be inside
        int[] index = [-1];
        var value = new float[1];
        fixed (int* i = index)
        fixed (float* v = value)
        {
            var (indices, values) = (TensorView.FromPointer(i, DType.Int32, [1]), TensorView.FromPointer(v, DType.Float32, [1]));
            Assert.Throws<ArgumentOutOfRangeException>(() => ScatterEma.Update(history, indices, values, 0.5));
        }
    }

    [Fact]
    public void Lengths_overlap_decay_policy_and_backend_are_checked()
    {
        var history = new float[] { 1, 2, 3 };

        Refused<ArgumentException>("value: 1 elements do not match index's 2", () => ScatterEma.Update(history, (int[])[0, 1], [5], 0.5));
        Refused<ArgumentException>("value overlaps history", () => ScatterEma.Update(history, (int[])[0], history.AsSpan(2), 0.5));
        Refused<ArgumentException>("index overlaps history", () => ScatterEma.Update(
            history, System.Runtime.InteropServices.MemoryMarshal.Cast<float, int>(history.AsSpan(0, 1)), [5], 0.5));
        Refused<ArgumentOutOfRangeException>("decay", () => ScatterEma.Update(history, (int[])[0], [5], double.NaN));
        Refused<ArgumentOutOfRangeException>("Not a policy", () => ScatterEma.Update(history, (int[])[0], [5], 0.5, (NaNPolicy)7));
        foreach (var backend in (AuxBackend[])[AuxBackend.Cuda, AuxBackend.Ilgpu])
        {
            Assert.False(ScatterEma.IsSupported(backend, out var reason));
            Refused<BackendUnavailableException>(reason, () => ScatterEma.Update(history, (int[])[0], [5], 0.5, backend: backend));
        }

        Assert.Equal([1, 2, 3], history);
    }

    [Fact]
    [RequiresLibtorch]
    public void Tensors_are_updated_in_place_and_bad_ones_are_named()
    {
        using var scope = torch.NewDisposeScope();
        var (history, loss) = (torch.zeros(4), torch.ones(2, requires_grad: true) * 2);

        ScatterEma.Update(history, torch.tensor(new long[] { 3, 3 }), loss, 0.5);
        ScatterEma.Update(history, torch.tensor(new[] { 0 }), torch.full(1, 7f), 0, NaNPolicy.Missing, AuxBackend.Reference);

        Assert.Equal([7, 0, 0, 1.5f], history.data<float>());
        var (index, value) = (torch.tensor(new[] { 0 }), torch.ones(1));
        Refused<ArgumentException>("history: float32[2, 2] on cpu; float32 of one dimension",
            () => ScatterEma.Update(torch.zeros(2, 2), index, value, 0.5));
        Refused<ArgumentException>("history: float64[2]", () => ScatterEma.Update(torch.zeros(2, torch.float64), index, value, 0.5));
        Refused<ArgumentException>(
            "history requires grad", () => ScatterEma.Update(torch.zeros(2, requires_grad: true), index, value, 0.5));
        Refused<ArgumentException>(
            "index: float32[1] on cpu; int64 or int32 of one dimension", () => ScatterEma.Update(history, value, value, 0.5));
        Refused<ArgumentException>("value: int32[1]", () => ScatterEma.Update(history, index, index, 0.5));
        Refused<ArgumentException>(
            "value: float32[2] on cpu with strides [2]", () => ScatterEma.Update(
                history, torch.zeros(2, torch.int32), torch.ones(2, 2).select(1, 0), 0.5));
        Refused<ArgumentException>("index is on META", () => ScatterEma.Update(history, index.to(torch.META), value, 0.5));
        Refused<ArgumentNullException>("value", () => ScatterEma.Update(history, index, null!, 0.5));
        Assert.Equal([7, 0, 0, 1.5f], history.data<float>());
    }

    [Fact]
    public unsafe void All_operands_lie_on_one_device()
    {
        var cuda = new AuxDevice(AuxDeviceKind.Cuda);
        var far = TensorView.FromPointer((void*)4096, DType.Float32, [1], device: cuda);
        var near = TensorView.FromPointer((void*)8192, DType.Float32, [1]);
        var farIndex = TensorView.FromPointer((void*)16384, DType.Int64, [1], device: cuda);

        Refused<ArgumentException>("index: int64[1] on cuda:0", () => ScatterEma.Update(near, farIndex, near, 0.5));
        Refused<ArgumentException>("value: float32[1] on cpu; float32 of one dimension is needed, contiguous, on cuda:0",
            () => ScatterEma.Update(far, farIndex, near, 0.5));
        Refused<BackendUnavailableException>("no CUDA kernel", () => ScatterEma.Update(far, farIndex, far, 0.5));
        Refused<BackendUnavailableException>("on cuda:0", () => ScatterEma.Update(far, farIndex, far, 0.5, backend: AuxBackend.Cpu));
    }

    private static void Refused<TException>(string message, Action action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
}
