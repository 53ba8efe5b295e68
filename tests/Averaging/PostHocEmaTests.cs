using AuxCore.Models;
using CsCheck;
using TorchSharp;
using static AuxCore.Tests.Averaging.EmaModelTests;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public sealed class PostHocEmaTests : IDisposable
{
    private static readonly double[] Widths = [0.05, 0.10];

    private readonly string _folder = Directory.CreateTempSubdirectory().FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void The_inner_product_is_the_integral() => Gen
        .Select(Gen.Double[1, 1000], Gen.Double[1, 1000], Gen.Double[-0.35, 20], Gen.Double[-0.35, 20])
        .Sample((s, t, a, b) =>
        {
            var (p, q) = (new PowerFunctionProfile(s, a), new PowerFunctionProfile(t, b));
            // With τ = min · u^8, the singularity at 0 of negative exponents goes.
            const int Cells = 20_000;
            var (shorter, sum) = (Math.Min(s, t), 0.0);
            for (var i = 0; i < Cells; i++)
            {
                var u = (i + 0.5) / Cells;
                var tau = shorter * Math.Pow(u, 8);
                sum += Weight(p, tau) * Weight(q, tau) * 8 * shorter * Math.Pow(u, 7) / Cells;
            }

            var exact = PowerFunctionProfile.Inner(p, q);
            return Math.Abs(sum - exact) <= 1e-4 * exact && exact == PowerFunctionProfile.Inner(q, p);
        }, iter: 100);

    private static double Weight(PowerFunctionProfile p, double tau) =>
        (p.Gamma + 1) * Math.Pow(tau / p.Step, p.Gamma) / p.Step;

    [Fact]
    public void A_width_that_is_among_the_snapshots_is_that_snapshot()
    {
        var solution = PostHocEma.Solve([(500, 0.05), (1000, 0.10), (1000, 0.05)], sigma: 0.10, atStep: 1000);

        Assert.Equal([0, 1, 0], solution.Weights.Select(weight => Math.Round(weight, 9)));
        Assert.InRange(solution.Error, 0, 1e-6);
        Assert.Equal(1, solution.NoiseGain, 6);
        Assert.Equal(0, solution.LeftOut);
    }

    [Fact]
    public void No_other_combination_of_sum_one_comes_nearer()
    {
        (double, double)[] snapshots = [.. Enumerable.Range(1, 8).SelectMany(i => Widths.Select(width => (i * 100.0, width)))];
        var solution = PostHocEma.Solve(snapshots, 0.075, 800);
        var random = new Random(1);

        Assert.Equal(1, solution.Weights.Sum(), 1e-12);
        Assert.Equal(Error(solution.Weights), solution.Error, 1e-6);
        Assert.InRange(solution.Error, 1e-5, 0.05);
        for (var trial = 0; trial < 200; trial++)
        {
            double[] changed = [.. solution.Weights];
            var (i, j, by) = (random.Next(16), random.Next(16), 0.02 * (random.NextDouble() - 0.5));
            changed[i] += by;
            changed[j] -= by;
            Assert.True(Error(changed) >= solution.Error * (1 - 1e-3)); // the sum is restored afterwards, so not quite the least
        }

        // Numerically, without the closed form of the product.
        double Error(IReadOnlyList<double> weights)
        {
            var target = PowerFunctionProfile.OfSigma(800, 0.075);
            PowerFunctionProfile[] profiles = [.. snapshots.Select(entry => PowerFunctionProfile.OfSigma(entry.Item1, entry.Item2))];
            double difference = 0, length = 0;
            for (var tau = 0.05; tau < 800; tau += 0.1)
            {
                var wanted = Weight(target, tau);
                var got = profiles.Select((profile, k) => tau <= profile.Step ? weights[k] * Weight(profile, tau) : 0).Sum();
                difference += (got - wanted) * (got - wanted);
                length += wanted * wanted;
            }

            return Math.Sqrt(difference / length);
        }
    }

    [Fact]
    public void More_snapshots_never_make_it_worse_and_near_copies_are_left_out()
    {
        (double, double)[] few = [(400, 0.05), (800, 0.05), (800, 0.10)];
        var coarse = PostHocEma.Solve(few, 0.075, 800);
        var fine = PostHocEma.Solve([.. few, (600, 0.05), (700, 0.10)], 0.075, 800);
        var doubled = PostHocEma.Solve([.. few, .. few.Select(entry => (entry.Item1 * (1 + 1e-15), entry.Item2))], 0.075, 800);

        Assert.True(fine.Error < coarse.Error);
        Assert.Equal(3, doubled.LeftOut);
        Assert.Equal(coarse.Error, doubled.Error, 1e-6);
        Assert.True(doubled.Condition < 1e6);
        Assert.Equal(3, doubled.Weights.Count(weight => weight == 0));
    }

    [Fact]
    public void Snapshots_that_are_nearly_dependent_have_a_large_condition() =>
        Assert.InRange(PostHocEma.Solve([(800, 0.05), (800 + 1e-8, 0.05), (800, 0.10)], 0.075, 800).Condition, 1e9, double.MaxValue);

    [Theory]
    [InlineData(0.06, 1)]
    [InlineData(0.075, 1)]
    [InlineData(0.10, 4)]
    [InlineData(0.15, 1)]
    public void A_synthesized_width_is_near_the_one_that_was_trained(double sigma, int every)
    {
        using var scope = torch.NewDisposeScope();
        var model = Network();
        var options = new EmaOptions { Every = every, StartAfter = 8 };
        using var ema = new EmaModel(model, [.. Widths.Select(EmaSchedule.PowerFunction)], options);
        using var direct = new EmaModel(model, EmaSchedule.PowerFunction(sigma), options);
        var (start, files) = (Values(model.parameters().First()), new List<string>());
        byte[]? atThird = null;

        for (var step = 1; step <= 1208; step++)
        {
            Walk(model, step);
            ema.Update();
            direct.Update();
            if (step % 80 == 8 && step > 8)
            {
                files.Add(Path.Combine(_folder, $"{step}.safetensors"));
                ema.SaveSnapshot(files[^1]);
            }

            if (step == 968)
                atThird = Bytes(direct.StateDict()["0.weight"]);
        }

        using var synthesized = EmaModel.Synthesize(files, sigma);
        using var earlier = EmaModel.Synthesize(files, sigma, atStep: 968);

        Assert.Equal(30, synthesized.Weights.Count);
        Assert.Equal(1, synthesized.Weights.Sum(part => part.Weight), 1e-9);
        Assert.InRange(synthesized.Solution.Error, 0, sigma > 0.1 ? 0.1 : 0.03);
        Assert.InRange(Distance(Values(direct.StateDict()["0.weight"]), Values(synthesized.StateDict()["0.weight"]), start), 0, 0.01);
        Assert.InRange(Distance(Values(Floats(atThird!)), Values(earlier.StateDict()["0.weight"]).ToArray(), start), 0, 0.01);
        // and it is another than those that were trained
        Assert.True(
            sigma == 0.10 || Distance(Values(ema.StateDict(1)["0.weight"]), Values(synthesized.StateDict()["0.weight"]), start) > 0.02);

        synthesized.CopyTo(model);
        Assert.Equal(Bytes(synthesized.StateDict()["3.bias"]), Bytes(model.get_parameter("3.bias")!));
        Assert.Equal(Bytes(ema.StateDict()["1.running_mean"]), Bytes(synthesized.StateDict()["1.running_mean"]));
        Assert.NotEqual(Bytes(ema.StateDict()["1.running_mean"]), Bytes(earlier.StateDict()["1.running_mean"]));

        static torch.Tensor Floats(byte[] bytes) =>
            torch.tensor(System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(bytes).ToArray());
    }

    // A walk with a direction: the averages of different widths lag behind it by different ways.
    private static void Walk(torch.nn.Module model, int step)
    {
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        using var generator = new torch.Generator((ulong)step);
        foreach (var tensor in model.parameters().Concat(model.buffers()).Where(tensor => tensor.is_floating_point()))
            tensor.add_(torch.randn(tensor.shape, generator: generator) * 0.02 + 0.005);
    }

    private static double Distance(double[] expected, double[] actual, double[] start) =>
        Math.Sqrt(expected.Zip(actual, (e, a) => (e - a) * (e - a)).Sum() / expected.Zip(start, (e, s) => (e - s) * (e - s)).Sum());

    [Fact]
    public void Snapshots_may_be_stored_in_sixteen_bits()
    {
        using var model = Network();
        using var ema = new EmaModel(model, EmaSchedule.PowerFunction(0.1));
        Walk(model, 1);
        ema.Update();

        ema.SaveSnapshot(Path.Combine(_folder, "a"), torch.float16);

        using var file = SafetensorsFile.Open(Path.Combine(_folder, "a"));
        Assert.Equal(torch.float16, file.DType("averages.0.0.weight"));
        Assert.Equal(("ema-snapshot/1", "1", "0", "0.1"), (file.Metadata["auxcore.format"], file.Metadata["auxcore.step"],
            file.Metadata["auxcore.origin"], file.Metadata["auxcore.sigma.0"]));
        using var synthesized = EmaModel.Synthesize([Path.Combine(_folder, "a")], 0.1);
        Assert.Equal(torch.float32, synthesized.StateDict()["0.weight"].dtype);
        Assert.Throws<ArgumentException>(() => ema.SaveSnapshot(Path.Combine(_folder, "b"), torch.int8));
    }

    [Fact]
    public void Only_power_functions_are_in_a_snapshot()
    {
        using var model = Network();
        using var ema = new EmaModel(
            model, [EmaSchedule.Constant(0.9), EmaSchedule.PowerFunction(0.1), EmaSchedule.Mean()], BufferPolicy.Skip);
        using var none = new EmaModel(model, EmaSchedule.Constant(0.9));
        var path = Path.Combine(_folder, "a");

        Refused<InvalidOperationException>("no schedule", () => { none.SaveSnapshot(path); return none; });
        Refused<InvalidOperationException>("before the first", () => { ema.SaveSnapshot(path); return ema; });
        ema.Update();
        ema.SaveSnapshot(path);

        using var file = SafetensorsFile.Open(path);
        Assert.All(file.Names, name => Assert.StartsWith("averages.1.", name, StringComparison.Ordinal));
        using (ema.Swap())
            Assert.Throws<InvalidOperationException>(() => ema.SaveSnapshot(path));
    }

    [Fact]
    public void Plans_that_cannot_be_are_refused()
    {
        Refused<ArgumentNullException>("snapshots", () => PostHocEma.Solve(null!, 0.1, 1));
        Refused<ArgumentException>("at least one", () => PostHocEma.Solve([], 0.1, 1));
        Refused<ArgumentException>("two have the same", () => PostHocEma.Solve([(5, 0.1), (6, 0.1), (5, 0.1)], 0.1, 5));
        foreach (var step in (double[])[0, -1, double.NaN, double.PositiveInfinity])
            Refused<ArgumentOutOfRangeException>("step is a number above 0", () => PostHocEma.Solve([(5, 0.1), (step, 0.1)], 0.1, 5));
        foreach (var step in (double[])[0, 5.1, double.NaN])
            Refused<ArgumentOutOfRangeException>("later parameters are in none", () => PostHocEma.Solve([(5, 0.1)], 0.1, step));
        Refused<ArgumentOutOfRangeException>("sigma", () => PostHocEma.Solve([(5, 0.1)], 0.4, 5));
        Refused<ArgumentOutOfRangeException>("sigma", () => PostHocEma.Solve([(5, 0)], 0.1, 5));
    }

    [Fact]
    public void Files_of_another_kind_or_training_are_refused_by_key_and_leave_no_tensor()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Network();
        using var foreign = torch.nn.Linear(2, 2);
        using var narrowed = torch.nn.Sequential(
            torch.nn.Linear(2, 7), torch.nn.BatchNorm1d(7), torch.nn.ReLU(), torch.nn.Linear(7, 3));
        string Saved(string name, EmaModel ema)
        {
            using (ema)
            {
                for (var step = 0; step < 4; step++)
                    ema.Update();
                ema.SaveSnapshot(Path.Combine(_folder, name));
            }

            return Path.Combine(_folder, name);
        }

        var power = EmaSchedule.PowerFunction(0.1);
        var good = Saved("good", new(model, power));
        var late = Saved("late", new(model, power, new EmaOptions { StartAfter = 2 }));
        var other = Saved("other", new(foreign, power));
        var narrow = Saved("narrow", new(narrowed, power));
        var fewer = Saved("fewer", new(model, power, BufferPolicy.Skip));
        var state = Path.Combine(_folder, "state");
        using (var ema = new EmaModel(model, power))
            ema.Save(state);

        TensorLeaks.None(() =>
        {
            Refused(state, "auxcore.format", "is 'ema-model/1', not 'ema-snapshot/1'");
            Refused(late, "auxcore.origin", "is 2, but 0");
            Refused(other, "averages.0.0.bias", "is missing");
            Refused(narrow, "averages.0.0.bias", "has shape [7], but [4]");
            Refused(fewer, "buffers.1.num_batches_tracked", "is missing");
            Assert.Contains("'buffers.1.num_batches_tracked': is not in",
                Assert.Throws<StateFileException>(() => EmaModel.Synthesize([fewer, good], 0.1)).Message, StringComparison.Ordinal);
            Refused(Changed(good, metadata => metadata.Remove("auxcore.sigma.0")), "auxcore.sigma.0", "is missing");
            Refused(Changed(good, metadata => metadata["auxcore.sigma.0"] = "0.9"), "auxcore.sigma.0", "no width");
            Refused(Changed(good, metadata => metadata["auxcore.sigma.1"] = "0.2"), "averages.1.0.bias", "is missing");
            Refused(Changed(good, metadata => metadata["auxcore.step"] = "x"), "auxcore.step", "not a count");
            Refused(Changed(good, metadata => metadata["auxcore.step"] = "0"), "auxcore.step", "not after the origin");
            Assert.Throws<ArgumentException>(() => EmaModel.Synthesize([], 0.1));
            Assert.Throws<ArgumentException>(() => EmaModel.Synthesize([good, good], 0.1));
            Assert.Throws<ArgumentNullException>(() => EmaModel.Synthesize(null!, 0.1));
            Assert.Throws<ArgumentOutOfRangeException>(() => EmaModel.Synthesize([good], 0.1, atStep: 5));
            Assert.Throws<FileNotFoundException>(() => EmaModel.Synthesize([good + "?"], 0.1));
            var synthesized = EmaModel.Synthesize([good], 0.1);
            synthesized.Dispose();
            synthesized.Dispose();
            Assert.Throws<ObjectDisposedException>(() => synthesized.StateDict());
            Assert.Throws<ObjectDisposedException>(() => synthesized.CopyTo(model));
        });

        void Refused(string path, string key, string problem)
        {
            var error = Assert.Throws<StateFileException>(() => EmaModel.Synthesize([good, path], 0.1));
            Assert.Equal(key, error.Key);
            Assert.Contains(problem, error.Message, StringComparison.Ordinal);
        }

        string Changed(string from, Action<Dictionary<string, string>> change)
        {
            using var inner = torch.NewDisposeScope();
            using var file = SafetensorsFile.Open(from);
            var metadata = file.Metadata.ToDictionary(entry => entry.Key, entry => entry.Value);
            change(metadata);
            SafetensorsFile.Write(from + ".changed", file.Names.Select(name => KeyValuePair.Create(name, file.Read(name))), metadata);
            return from + ".changed";
        }
    }

    private static void Refused<TException>(string message, Func<object> action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(() => action()).Message, StringComparison.Ordinal);
}
