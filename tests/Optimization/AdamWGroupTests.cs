using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.Optimization;

public class AdamWGroupTests
{
    private static readonly string[] Types = ["float32", "bfloat16", "float16"];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_group_does_what_each_tensor_alone_would(Runner runner)
    {
        int[] lengths = [0, 1, 7, 300, 70_001, 0, 4096, 33];
        using var together = new Parameters(lengths, "float32", "float32", averages: 0);
        using var alone = new Parameters(lengths, "float32", "float32", averages: 0);
        var group = AdamWGroup.FromViews(together.Tensors());
        AdamWSettings[] settings = [new() { Step = 2 }, new() { Step = 5, LearningRate = 0.1, WeightDecay = 0.1 }];
        int[] settingsOf = [0, 1, 0, 1, 0, 1, 0, 1];
        group.SetGradients(together.Gradients());

        runner.Run(backend =>
        {
            group.Update(settings, settingsOf, 0.5, [], backend);
            for (var i = 0; i < lengths.Length; i++)
                AdamWUpdate.Run(
                    alone[i].Parameter.Float32, alone[i].Gradient.Float32, alone[i].First.Float32, alone[i].Second.Float32,
                    settings[settingsOf[i]],
                    0.5, backend);
        });

        Assert.Equal(alone.Bytes(), together.Bytes());
        Assert.Equal((8, 74_438L, 0), (group.Count, group.ElementCount, group.AverageCount));
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Averages_in_the_pass_equal_EmaUpdate_after_it_bit_for_bit(Runner runner)
    {
        foreach (var (parameterType, gradientType) in (from p in Types from g in Types select (p, g)).ToArray())
        {
            int[] lengths = [5, 8, 300, gradientType == parameterType ? 70_001 : 33, 16]; // enough for two threads
            foreach (var decays in (double[][])[[0.999], [0.9, 0.99], [0, 0.999, 1], [0.25, 0.9999, 0.75, 0.5]])
            {
                using var fused = new Parameters(lengths, parameterType, gradientType, decays.Length);
                using var apart = new Parameters(lengths, parameterType, gradientType, decays.Length);
                var group = AdamWGroup.FromViews(fused.Tensors());
                group.SetGradients(fused.Gradients());
                var withoutAverages = AdamWGroup.FromViews([.. apart.Tensors().ToArray().Select(tensors =>
                    tensors with { Averages = null })]);
                withoutAverages.SetGradients(apart.Gradients());
                for (var step = 1; step <= 3; step++)
                {
                    var settings = new AdamWSettings { Step = step, WeightDecay = 0.1 };
                    runner.Run(backend =>
                    {
                        group.Update(settings, 1, decays, backend);
                        withoutAverages.Update(settings, 1, [], backend);
                        for (var i = 0; i < lengths.Length; i++)
                        {
                            for (var k = 0; k < decays.Length; k++)
                                apart[i].Follow(k, decays[k], backend);
                        }
                    });
                }

                Assert.Equal(apart.Bytes(), fused.Bytes());
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_parameter_may_be_without_averages(Runner runner)
    {
        using var some = new Parameters([30, 40, 50], "float32", "float32", averages: 2);
        using var all = new Parameters([30, 40, 50], "float32", "float32", averages: 2);
        var tensors = some.Tensors();
        tensors[1] = tensors[1] with { Averages = null };
        var (group, expected) = (AdamWGroup.FromViews(tensors), AdamWGroup.FromViews(all.Tensors()));
        group.SetGradients(some.Gradients());
        expected.SetGradients(all.Gradients());
        var untouched = some[1].Averages[0].Bytes.ToArray();

        runner.Run(backend => group.Update(new(), 1, [0.5, 0.9], backend));
        runner.Run(backend => expected.Update(new(), 1, [0.5, 0.9], backend));

        Assert.Equal(untouched, some[1].Averages[0].Bytes);
        Assert.Equal(all[1].Parameter.Bytes, some[1].Parameter.Bytes);
        Assert.Equal([.. all[0].Bytes(), .. all[2].Bytes()], (byte[])[.. some[0].Bytes(), .. some[2].Bytes()]);
        Assert.Equal(2, group.AverageCount);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_parameter_of_sixteen_bits_is_its_master_rounded(Runner runner)
    {
        foreach (var (parameterType, gradientType) in (from p in Types[1..] from g in Types select (p, g)).ToArray())
        {
            using var narrow = new Parameters([1003], parameterType, gradientType, averages: 0);
            using var wide = new Parameters([1003], "float32", gradientType, averages: 0);
            narrow[0].Master!.Float32.CopyTo(wide[0].Parameter.Float32);
            var (group, expected) = (AdamWGroup.FromViews(narrow.Tensors()), AdamWGroup.FromViews(wide.Tensors()));
            group.SetGradients(narrow.Gradients());
            expected.SetGradients(wide.Gradients());
            for (var step = 1; step <= 20; step++)
            {
                runner.Run(backend => group.Update(new() { Step = step, LearningRate = 1e-5 }, 1, [], backend));
                runner.Run(backend => expected.Update(new() { Step = step, LearningRate = 1e-5 }, 1, [], backend));
            }

            Assert.Equal(wide[0].Parameter.Float32, narrow[0].Master!.Float32); // the same steps, as if there were no narrow copy
            Assert.Equal(Rounded(narrow[0].Master!.Float32, parameterType), narrow[0].Parameter.ToFloat32());
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_parameter_that_somebody_wrote_to_is_followed_by_its_master(Runner runner)
    {
        foreach (var type in Types[1..])
        {
            using var parameters = new Parameters([20], type, type, averages: 0);
            var group = AdamWGroup.FromViews(parameters.Tensors());
            parameters[0].Gradient.Clear();
            group.SetGradients(parameters.Gradients());
            var master = parameters[0].Master!.Float32;
            master[3] += master[3] * 1e-5f; // what is lost in the narrow type stays in the master
            var kept = master[3];
            parameters[0].Parameter.Set(5, 12.5f);

            runner.Run(backend => group.Update(new() { LearningRate = 0 }, 1, [], backend));

            Assert.Equal((kept, 12.5f), (parameters[0].Master!.Float32[3], parameters[0].Master!.Float32[5]));
            Assert.Equal(12.5f, parameters[0].Parameter.ToFloat32()[5]);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void What_has_no_gradient_stays_as_it_is(Runner runner)
    {
        using var parameters = new Parameters([9, 40, 9], "float32", "float32", averages: 2);
        var group = AdamWGroup.FromViews(parameters.Tensors());
        var before = parameters.Bytes();

        runner.Run(backend => group.Update(new(), 1, [0.5, 0.9], backend)); // no gradients at all
        Assert.Equal(before, parameters.Bytes());

        group.SetGradients([default, parameters.Gradients()[1], default]);
        runner.Run(backend => group.Update(new(), 1, [0.5, 0.9], backend));
        using var expected = new Parameters([9, 40, 9], "float32", "float32", averages: 2);
        Assert.Equal(expected[0].Bytes(), parameters[0].Bytes());
        Assert.Equal(expected[2].Bytes(), parameters[2].Bytes());
        Assert.NotEqual(expected[1].Bytes(), parameters[1].Bytes());

        runner.Run(backend => Assert.Equal(GradientNorm.Run(parameters[1].Gradient.Float32, backend), group.Norm(backend)));
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void The_norm_is_that_of_all_gradients_together(Runner runner)
    {
        using var parameters = new Parameters([10, 0, 5000, 3], "float32", "float16", averages: 0);
        var group = AdamWGroup.FromViews(parameters.Tensors());
        runner.Run(backend => Assert.Equal(default, group.Norm(backend)));
        group.SetGradients(parameters.Gradients());

        var expected = Enumerable.Range(0, 4).Sum(i => parameters[i].Gradient.ToFloat32().Sum(g => (double)g * g));

        runner.Run(backend => Assert.Equal(expected, group.Norm(backend).SumOfSquares, 1e-12 * expected));
    }

    [Fact]
    public void Five_thousand_small_tensors_equal_a_loop_over_them()
    {
        var lengths = Enumerable.Range(0, 5000).Select(i => i % 41).ToArray();
        using var together = new Parameters(lengths, "float32", "float32", averages: 1);
        using var alone = new Parameters(lengths, "float32", "float32", averages: 1);
        var group = AdamWGroup.FromViews(together.Tensors());
        group.SetGradients(together.Gradients());

        for (var step = 1; step <= 3; step++)
        {
            var settings = new AdamWSettings { Step = step };
            group.Update(settings, 1, [0.99]);
            for (var i = 0; i < lengths.Length; i++)
            {
                AdamWUpdate.Run(alone[i].Parameter.Float32, alone[i].Gradient.Float32, alone[i].First.Float32, alone[i].Second.Float32,
                    settings);
                EmaUpdate.Run(alone[i].Averages[0].Float32, alone[i].Parameter.Float32, 0.99);
            }
        }

        Assert.Equal(alone.Bytes(), together.Bytes());
    }

    public static TheoryData<string, string> Misfits => new()
    {
        { "parameters[1]: float32[6] on cpu is its own master; pass none", "master of a float32" },
        { "parameters[1]: bfloat16[6] on cpu needs a float32 master", "no master" },
        { "masters[1]: bfloat16[6] on cpu is not float32", "narrow master" },
        { "parameters[1]: float64[6] on cpu is not float32, bfloat16 or float16", "float64" },
        { "parameters[1]: float32[3, 2] on cpu with strides [1, 3] is not contiguous", "strides" },
        { "parameters[1]: float32[6] on cuda:0 is not on cpu, where parameters[0] is", "device" },
        { "firstMoments[1]: float32[5] on cpu is not of its parameter's shape [6]", "shape of m" },
        { "firstMoments[1]: float16[6] on cpu is not float32", "type of m" },
        { "secondMoments[1]: float32[2, 3] on cpu is not of its parameter's shape [6]", "shape of v" },
        { "averages[0][1]: float32[1, 6] on cpu is not of its parameter's shape [6]", "shape of average" },
        { "averages[0][1]: bfloat16[6] on cpu is not float32", "type of average" },
        { "parameters[0]: float32[6] on cpu has 1 averages, another parameter has 2", "more averages" },
        { "parameters[1]: float32[6] on cpu has 0 averages, another parameter has 1", "an empty list" },
        { "parameters[1] overlaps parameters[0]", "same parameter" },
        { "secondMoments[1] overlaps firstMoments[1]", "same moments" },
    };

    [Theory]
    [MemberData(nameof(Misfits))]
    public void Tensors_that_do_not_fit_are_refused_by_name(string message, string what)
    {
        using var parameters = new Parameters([6, 6], "float32", "float32", averages: 1);
        using var brains = new Parameters([6, 6], "bfloat16", "float32", averages: 1);
        using var block = new Block(new float[12], "bfloat16");
        using var half = new Block(new float[12], "float16");
        var good = parameters.Tensors();
        var (first, second) = (good[0], good[1]);
        var bad = what switch
        {
            "master of a float32" => second with { Master = second.FirstMoment },
            "no master" => brains.Tensors()[1] with { Master = null },
            "narrow master" => brains.Tensors()[1] with { Master = block.ViewAs([6]) },
            "float64" => second with { Parameter = Float64() },
            "strides" => second with { Parameter = parameters[1].Parameter.ViewAs([3, 2], [1, 3]) },
            "device" => second with { Parameter = parameters[1].Parameter.ViewAs([6], null, new(AuxDeviceKind.Cuda)) },
            "shape of m" => second with { FirstMoment = parameters[1].First.ViewAs([5]) },
            "type of m" => second with { FirstMoment = half.ViewAs([6]) },
            "shape of v" => second with { SecondMoment = parameters[1].Second.ViewAs([2, 3]) },
            "shape of average" => second with { Averages = [parameters[1].Averages[0].ViewAs([1, 6])] },
            "type of average" => second with { Averages = [block.ViewAs([6])] },
            "more averages" => second with { Averages = [second.Averages![0], second.Averages[0]] },
            "an empty list" => second with { Averages = [] },
            "same parameter" => second with { Parameter = first.Parameter },
            _ => second with { SecondMoment = second.FirstMoment },
        };

        Assert.Contains(message, Assert.Throws<ArgumentException>(() => AdamWGroup.FromViews(first, bad)).Message,
            StringComparison.Ordinal);

        unsafe TensorView Float64() => TensorView.FromPointer((void*)parameters[1].Parameter.View.Address, DType.Float64, [6]);
    }

    [Fact]
    public void More_than_four_averages_are_refused()
    {
        using var parameters = new Parameters([6], "float32", "float32", averages: 5);

        Assert.Contains("has 5 averages; a pass carries 4 at most", Assert.Throws<ArgumentException>(
            () => AdamWGroup.FromViews(parameters.Tensors())).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("gradients: 1 for 2 parameters", "count")]
    [InlineData("gradients[1]: float32[2, 3] on cpu is not of its parameter's shape [6]", "shape")]
    [InlineData("gradients[1]: float32[6] on cpu with strides [2] is not contiguous", "strides")]
    [InlineData("gradients[1]: float32[6] on cuda:1 is not on cpu", "device")]
    [InlineData("gradients[1]: float64[6] on cpu is not float32, bfloat16 or float16", "type")]
    [InlineData("gradients[1] overlaps averages[0][0]", "overlap")]
    public void Gradients_that_do_not_fit_are_refused_and_the_old_ones_stay(string message, string what)
    {
        using var parameters = new Parameters([6, 6], "float32", "float32", averages: 1);
        using var block = new Block(new float[12], "float32");
        var group = AdamWGroup.FromViews(parameters.Tensors());
        group.SetGradients(parameters.Gradients());
        var (norm, good) = (group.Norm(), block.ViewAs([6]));
        TensorView[] bad = what switch
        {
            "count" => [good],
            "shape" => [good, block.ViewAs([2, 3])],
            "strides" => [good, block.ViewAs([6], [2])],
            "device" => [good, block.ViewAs([6], null, new(AuxDeviceKind.Cuda, 1))],
            "type" => [good, Float64()],
            _ => [good, parameters[0].Averages[0].View],
        };

        Assert.Contains(message, Assert.Throws<ArgumentException>(() => group.SetGradients(bad)).Message, StringComparison.Ordinal);
        Assert.Equal(norm, group.Norm());
        group.SetGradients(good, good); // gradients may share memory

        unsafe TensorView Float64() => TensorView.FromPointer((void*)block.View.Address, DType.Float64, [6]);
    }

    [Fact]
    public void Arguments_of_an_update_are_checked_before_anything_is_written()
    {
        using var parameters = new Parameters([6, 6], "float32", "float32", averages: 1);
        var group = AdamWGroup.FromViews(parameters.Tensors());
        group.SetGradients(parameters.Gradients());
        var before = parameters.Bytes();

        Refused<ArgumentException>("settings: at least one", () => group.Update([], [], 1, [0.5]));
        Refused<ArgumentOutOfRangeException>("settings[1].Beta1", () => group.Update([new(), new() { Beta1 = 2 }], [0, 0], 1, [0.5]));
        Refused<ArgumentException>("settingsOf: 1 for 2 parameters", () => group.Update([new()], [0], 1, [0.5]));
        Refused<ArgumentOutOfRangeException>("settingsOf[1]", () => group.Update([new()], [0, 1], 1, [0.5]));
        Refused<ArgumentOutOfRangeException>("settingsOf[0]", () => group.Update([new()], [-1, 0], 1, [0.5]));
        Refused<ArgumentException>("decays: 0 for 1 averages", () => group.Update(new AdamWSettings()));
        Refused<ArgumentException>("decays: 2 for 1 averages", () => group.Update(new AdamWSettings(), 1, [0.5, 0.5]));
        Refused<ArgumentOutOfRangeException>("decays[0]", () => group.Update(new AdamWSettings(), 1, [1.5]));
        Refused<ArgumentOutOfRangeException>("gradientScale", () => group.Update(new AdamWSettings(), double.NaN, [0.5]));
        Refused<BackendUnavailableException>("Ilgpu", () => group.Update(new AdamWSettings(), 1, [0.5], AuxBackend.Ilgpu));
        Refused<BackendUnavailableException>("Ilgpu", () => group.Norm(AuxBackend.Ilgpu));
        Assert.Equal(before, parameters.Bytes());

        static void Refused<T>(string message, Action action) where T : Exception =>
            Assert.Contains(message, Assert.Throws<T>(action).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_group_of_nothing_is_allowed()
    {
        var group = AdamWGroup.FromViews();

        group.SetGradients();
        group.Update(new AdamWSettings());

        Assert.Equal((0, 0L, AuxDevice.Host, 0.0), (group.Count, group.ElementCount, group.Device, group.Norm().Norm));
    }

    internal static float[] Rounded(ReadOnlySpan<float> values, string type)
    {
        var rounded = values.ToArray();
        for (var i = 0; i < rounded.Length; i++)
            rounded[i] = type == "bfloat16" ? (BFloat16)rounded[i] : (float)(Half)rounded[i];
        return rounded;
    }
}
