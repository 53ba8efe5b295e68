using AuxCore.Kernels;
using AuxCore.Models;
using AuxCore.Tests.Data;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Predictive;

/// <summary>Proto-value networks: a step against the published expression, what they converge to, exact resumption.</summary>
[RequiresLibtorch]
public class ProtoValueNetworkTests
{
    private const int Tasks = 11, Actions = 3;

    private static readonly ProtoValueSettings Small = new()
    {
        Channels = 2, Height = 5, Width = 4, Actions = Actions, Tasks = Tasks, Features = 7, Filters = 3, LearningRate = 1e-3, Seed = 4,
        TargetDecay = 0.9, Discount = 0.8,
    };

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Steps_are_those_of_the_published_expression(bool normalised)
    {
        using var scope = torch.NewDisposeScope();
        using var network = new ProtoValueNetwork(Small with { Normalised = normalised });
        using var encoder = new ConvolutionalEncoder(2, 5, 4, 7, 3, seed: 4);
        using var target = new ConvolutionalEncoder(2, 5, 4, 7, 3, seed: 4);
        var heads = new TorchSharp.Modules.Parameter(network.Heads.detach().clone());
        var targetHeads = heads.detach().clone();
        var optimizer = torch.optim.Adam(encoder.parameters().Append(heads), 1e-3, eps: 1.5e-4);
        for (var step = 0; step < 5; step++)
        {
            var (batch, bits, rewards) = Batch(16, seed: step);
            Tensor wanted;
            using (torch.no_grad())
            {
                var next = torch.einsum("bf,taf->bta", target.forward(batch.NextObservations), targetHeads).mean([2L]);
                wanted = rewards * (normalised ? 0.2 : 1) + 0.8 * batch.Done.logical_not().to(torch.float32).unsqueeze(1) * next;
            }

            var all = torch.einsum("bf,taf->bta", encoder.forward(batch.Observations), heads);
            var taken = all.gather(2, batch.Actions.view(-1, 1, 1).expand(16, Tasks, 1)).squeeze(2);
            var loss = (0.5 * (wanted - taken).square()).mean();
            optimizer.zero_grad();
            loss.backward();
            using (torch.no_grad()) // from the parameters before the step
            {
                foreach (var (average, source) in target.parameters().Append(targetHeads).Zip(encoder.parameters().Append(heads)))
                    average.mul_(0.9).add_(source, alpha: 0.1);
            }

            optimizer.step();

            Assert.Equal(loss.item<float>(), network.Update(batch, bits), 1e-5f);
        }

        Assert.Equal(5, network.Steps);
        Assert.InRange((network.Heads - heads).abs().max().item<float>(), 0, 2e-5f);
        var seen = Batch(9, seed: 50).Batch.Observations;
        Assert.InRange((network.Features(seen) - encoder.forward(seen)).abs().max().item<float>(), 0, 2e-5f);
        Assert.Equal([9, Tasks, Actions], network.Values(seen).shape);
    }

    [Fact]
    public void It_learns_the_successor_measure_of_a_cycle()
    {
        // Three pictures that follow one another, whatever is done; set t holds picture t. Ψ(s, t) = γ^((t − s) mod 3) / (1 − γ³).
        using var scope = torch.NewDisposeScope();
        const double Discount = 0.5;
        using var network = new ProtoValueNetwork(
            Small with { Tasks = 3, Features = 32, Discount = Discount, LearningRate = 3e-3, Epsilon = 1e-8 });
        using var generator = new torch.Generator(1, torch.CPU);
        var pictures = torch.rand([3, 2, 5, 4], generator: generator);
        var bits = torch.tensor(new byte[] { 1, 2, 4 }, [3, 1]);
        var batch = new TransitionBatch(
            pictures, torch.tensor(new long[] { 0, 1, 2 }), pictures.index_select(0, torch.tensor(new long[] { 1, 2, 0 })),
            torch.zeros(3, torch.@bool));
        for (var step = 0; step < 1500; step++)
        {
            using var inner = torch.NewDisposeScope();
            batch = batch with { Actions = torch.tensor(new long[] { step % 3, (step + 1) % 3, (step + 2) % 3 }) };
            network.Update(batch, bits);
        }

        var values = network.Values(pictures).data<float>().ToArray();
        for (var at = 0; at < values.Length; at++)
        {
            var (state, task) = (at / 9, at / 3 % 3);
            Assert.Equal(Math.Pow(Discount, (task - state + 3) % 3) / (1 - Math.Pow(Discount, 3)), values[at], 0.02);
        }
    }

    [Fact]
    public void After_a_checkpoint_training_goes_on_with_the_same_bits()
    {
        using var scope = torch.NewDisposeScope();
        using var folder = new TempFolder();
        var path = folder["network.safetensors"];
        using var whole = new ProtoValueNetwork(Small);
        using var resumed = new ProtoValueNetwork(Small with { Seed = 99 });
        for (var step = 0; step < 4; step++)
            Update(whole, step);
        whole.Save(path);
        Update(resumed, 20); // it was somewhere else
        resumed.Load(path);
        Assert.Equal(4, resumed.Steps);
        for (var step = 4; step < 9; step++)
            Assert.Equal(Update(whole, step), Update(resumed, step));

        Assert.Equal(Bits(whole), Bits(resumed));

        static double Update(ProtoValueNetwork network, int seed)
        {
            var (batch, bits, _) = Batch(16, seed);
            return network.Update(batch, bits);
        }
    }

    [Fact]
    public void Files_that_do_not_belong_here_or_together_change_nothing()
    {
        using var scope = torch.NewDisposeScope();
        using var folder = new TempFolder();
        var path = folder["a.safetensors"];
        using var network = new ProtoValueNetwork(Small);
        var (batch, bits, _) = Batch(8, 1);
        network.Update(batch, bits);
        network.Save(path);
        var before = File.ReadAllBytes(path);
        network.Update(batch, bits);
        network.Save(path);
        File.WriteAllBytes(path, before); // of step 1, beside an optimiser of step 2
        network.Update(batch, bits);
        var state = Bits(network);

        var error = Assert.Throws<StateFileException>(() => network.Load(path));
        Assert.Contains("says 2 steps, but the file beside it 1", error.Message, StringComparison.Ordinal);
        Assert.Equal(3, network.Steps);
        Assert.Equal(state, Bits(network));

        using var wider = new ProtoValueNetwork(Small with { Features = 8 });
        Assert.Contains("encoder", Assert.Throws<StateFileException>(() => wider.Load(path)).Message, StringComparison.Ordinal);
        File.Delete(ProtoValueNetwork.OptimizerPath(path));
        Assert.Throws<FileNotFoundException>(() => network.Load(path));
        Assert.Equal(state, Bits(network));
        File.WriteAllBytes(path, before[..^3]);
        Assert.Throws<StateFileException>(() => network.Load(path));
        Assert.Equal(state, Bits(network));
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_nothing_is_learned()
    {
        using var scope = torch.NewDisposeScope();
        using var network = new ProtoValueNetwork(Small);
        var (batch, bits, _) = Batch(8, 1);
        var before = Bits(network);
        Assert.Throws<ArgumentException>(() => network.Update(batch, bits.narrow(0, 0, 7)));
        Assert.Throws<ArgumentException>(() => network.Update(batch with { Observations = torch.zeros(8, 2, 4, 5) }, bits));
        Assert.Throws<ArgumentException>(() => network.Update(batch with { Observations = torch.zeros(7, 2, 5, 4) }, bits));
        Assert.Throws<ArgumentOutOfRangeException>(
            () => network.Update(batch with { Actions = torch.full([8], 3L, torch.int64) }, bits));
        Assert.Throws<ArgumentException>(() => network.Features(torch.zeros(2, 3, 5, 4)));
        Assert.Equal(0, network.Steps);
        Assert.Equal(before, Bits(network));

        Refused(Small with { Channels = 0 }, "Channels");
        Refused(Small with { Actions = 0 }, "Actions");
        Refused(Small with { Tasks = 0 }, "Tasks");
        Refused(Small with { Features = 0 }, "Features");
        Refused(Small with { Filters = 0 }, "Filters");
        Refused(Small with { Height = 2 }, "height");
        Refused(Small with { Width = 2 }, "width");
        Refused(Small with { Discount = 1 }, "discount");
        Refused(Small with { TargetDecay = 1 }, "TargetDecay");
        Refused(Small with { LearningRate = double.NaN }, "LearningRate");
        Refused(Small with { Epsilon = -1 }, "Epsilon");
        Assert.Throws<ArgumentNullException>(() => new ProtoValueNetwork(null!));
        network.Dispose();
        Assert.Throws<ObjectDisposedException>(() => network.Update(batch, bits));
        Assert.Throws<ObjectDisposedException>(() => network.Features(batch.Observations));
        Assert.Throws<ObjectDisposedException>(() => network.Save("nowhere"));

        static void Refused(ProtoValueSettings settings, string culprit)
        {
            var error = Assert.ThrowsAny<ArgumentException>(() => new ProtoValueNetwork(settings));
            Assert.Contains(culprit, error.Message, StringComparison.OrdinalIgnoreCase);
        }
    }

    [Fact]
    public void Nothing_is_left_behind_and_the_global_generator_is_left_alone()
    {
        var (batch, bits, _) = Batch(8, 1);
        torch.manual_seed(3);
        using var expected = torch.rand(4);
        torch.manual_seed(3);
        TensorLeaks.None(() =>
        {
            using var network = new ProtoValueNetwork(Small);
            network.Update(batch, bits);
            network.Features(batch.Observations).Dispose();
        });
        using var drawn = torch.rand(4);
        Assert.Equal(expected.data<float>().ToArray(), drawn.data<float>().ToArray());
    }

    [Fact]
    public void Pictures_have_random_sets_whose_thresholds_are_exact_and_of_which_few_are_dead()
    {
        using var scope = torch.NewDisposeScope();
        var games = new ArcadeEnvironment(ArcadeGame.Breakout, 64, seed: 1);
        var (actions, rewards, done) = (new int[64], new float[64], new bool[64]);
        List<Tensor> seen = [];
        for (var step = 0; step < 16; step++)
        {
            games.ActUniformly(actions);
            games.Step(actions, rewards, done);
            seen.Add(games.Observe());
        }

        var frames = torch.cat(seen);
        using var sets = RandomIndicators.CalibratePictures(frames, 25, 0.05, seed: 1);
        using var again = RandomIndicators.CalibratePictures(frames, 25, 0.05, seed: 1);
        using var others = RandomIndicators.CalibratePictures(frames, 25, 0.05, seed: 2);
        Assert.Equal((25, 1024), (sets.Tasks, sets.Report.States));
        Assert.Empty(sets.Report.DeadTasks);
        Assert.InRange(sets.Report.MeanRate, 0.03, 0.06); // less where frames repeat: a tie is outside
        Assert.Equal(sets.Pack(frames).data<byte>().ToArray(), again.Pack(frames).data<byte>().ToArray());
        Assert.NotEqual(sets.Pack(frames).data<byte>().ToArray(), others.Pack(frames).data<byte>().ToArray());
        Assert.True((sets.Features(frames) < 0).any().item<bool>()); // linear outputs

        Assert.Contains("Float32[N, C, H, W]", Assert.Throws<ArgumentException>(
            () => RandomIndicators.CalibratePictures(torch.zeros(9, 4), 25, 0.2)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => RandomIndicators.CalibratePictures(torch.zeros(9, 1, 2, 3), 25, 0.2));
        Assert.Throws<ArgumentOutOfRangeException>(() => RandomIndicators.CalibratePictures(frames, 0, 0.2));
        Assert.Throws<ArgumentOutOfRangeException>(() => RandomIndicators.CalibratePictures(frames, 5, 0.2, tasksPerNetwork: 0));
    }

    private static (TransitionBatch Batch, Tensor Bits, Tensor Rewards) Batch(int n, int seed)
    {
        using var generator = new torch.Generator((ulong)seed, torch.CPU);
        var inside = (torch.rand([n, Tasks], generator: generator) < 0.3).to(torch.uint8);
        var values = inside.data<byte>().ToArray();
        var bytes = new byte[n * Indicators.BytesPerState(Tasks)];
        for (var i = 0; i < values.Length; i++)
            bytes[i / Tasks * Indicators.BytesPerState(Tasks) + i % Tasks / 8] |= (byte)(values[i] << i % Tasks % 8);
        return (
            new TransitionBatch(
                torch.rand([n, 2, 5, 4], generator: generator), torch.randint(0, Actions, [n], torch.int64, generator: generator),
                torch.rand([n, 2, 5, 4], generator: generator), torch.rand([n], generator: generator) < 0.2),
            torch.tensor(bytes, [n, Indicators.BytesPerState(Tasks)]),
            inside.to(torch.float32));
    }

    private static float[] Bits(ProtoValueNetwork network) =>
    [
        .. network.Heads.data<float>().ToArray(),
        .. network.Encoder.parameters().SelectMany(parameter => parameter.data<float>().ToArray()),
    ];
}
