using AuxCore.Bench.Measurement;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>Trains encoders on an agent's replay without its rewards: proto-value networks, and the same with random cumulants.</summary>
/// <param name="replay">What was seen.</param>
/// <param name="settings">Sizes and rates.</param>
/// <param name="batch">Transitions an update.</param>
internal sealed class ArcadePretraining(FrameReplay replay, ProtoValueSettings settings, int batch)
{
    public const double Rate = 0.05;
    private const int Sample = 4096, Chunk = 1024;

    /// <summary>Settings for a game.</summary>
    public static ProtoValueSettings Settings(ArcadeGame game, int seed) => new()
    {
        Channels = new ArcadeEnvironment(game, 1, seed: 0).Channels, Actions = ArcadeEnvironment.Actions, Seed = seed,
        LearningRate = 3e-4, Epsilon = 1e-8,
    };

    /// <summary>An encoder that learned nothing: what the others begin as.</summary>
    public ConvolutionalEncoder Untrained()
    {
        using ProtoValueNetwork network = new(settings);
        return Copy(network.Encoder);
    }

    /// <summary>Learns the successor measures of random sets.</summary>
    /// <returns>The encoder, what the sets were like, and the mean loss of the last tenth of the updates.</returns>
    public (ConvolutionalEncoder Encoder, IndicatorReport Report, double Loss) ProtoValues(
        int updates, Action<double> progress, CancellationToken cancellation)
    {
        using RandomIndicators sets = Sets();
        int bytes = Indicators.BytesPerState(sets.Tasks);
        byte[] bits = OfAllFrames(bytes, pictures => sets.Pack(pictures).data<byte>().ToArray());
        using ProtoValueNetwork network = new(settings);
        double loss = Train(updates, indices =>
        {
            var own = new byte[indices.Length * bytes];
            for (int i = 0; i < indices.Length; i++) bits.AsSpan(indices[i] * bytes, bytes).CopyTo(own.AsSpan(i * bytes));
            return network.Update(replay.Batch(indices), torch.tensor(own, [indices.Length, bytes]));
        }, progress, cancellation);
        return (Copy(network.Encoder), sets.Report, loss);
    }

    /// <summary>
    /// Learns the values of random cumulants: the outputs of the networks that the random sets are made of, without thresholds, centred,
    /// and with the spread that membership of a set has.
    /// </summary>
    public (ConvolutionalEncoder Encoder, double Loss) Cumulants(int updates, Action<double> progress, CancellationToken cancellation)
    {
        using RandomIndicators sets = Sets();
        float[] cumulants = OfAllFrames(sets.Tasks, pictures => sets.Features(pictures).data<float>().ToArray());
        Standardise(cumulants, sets.Tasks, Math.Sqrt(Rate * (1 - Rate)));
        using ProtoValueNetwork beginning = new(settings);
        using PublishedProtoValues network = new(settings, beginning);
        double loss = Train(updates, indices =>
        {
            var own = new float[indices.Length * sets.Tasks];
            for (int i = 0; i < indices.Length; i++)
                cumulants.AsSpan(indices[i] * sets.Tasks, sets.Tasks).CopyTo(own.AsSpan(i * sets.Tasks));
            return network.Update(replay.Batch(indices), torch.tensor(own, [indices.Length, sets.Tasks]));
        }, progress, cancellation);
        return (Copy(network.Encoder), loss);
    }

    /// <summary>Updates a second, ours and the published expression's, in rounds side by side: one figure of each a round.</summary>
    public (double[] Ours, double[] Published) UpdatesPerSecond(int rounds, int updates, bool oneThread)
    {
        using RandomIndicators sets = Sets();
        using var scope = torch.NewDisposeScope();
        using ProtoValueNetwork ours = new(settings);
        using PublishedProtoValues published = new(settings, ours);
        TransitionBatch transitions = replay.Sample(batch);
        Tensor bits = sets.Pack(transitions.Observations);
        Tensor rewards = (sets.Features(transitions.Observations) + sets.Thresholds > 0).to(torch.float32);
        var options = new TimingOptions
        {
            Rounds = rounds, MinRounds = rounds, UseThreadCpuTime = oneThread, WarmUp = TimeSpan.FromMilliseconds(300),
            MinSample = TimeSpan.FromMilliseconds(2 * updates), // about a millisecond an update
        };
        PairedResult result = PairedTimer.Run(
            [new("ours", () => ours.Update(transitions, bits)), new("published", () => published.Update(transitions, rewards))], options);
        return (PerSecond("ours"), PerSecond("published"));

        double[] PerSecond(string arm) => [.. result.Samples(arm).ToArray().Select(nanoseconds => 1e9 / nanoseconds)];
    }

    private RandomIndicators Sets()
    {
        using var scope = torch.NewDisposeScope();
        var indices = new int[Math.Min(Sample, replay.Count)];
        replay.Draw(indices);
        return RandomIndicators.CalibratePictures(replay.Observations(indices), settings.Tasks, Rate, seed: settings.Seed);
    }

    private T[] OfAllFrames<T>(int width, Func<Tensor, T[]> of)
    {
        var all = new T[replay.Frames * width];
        for (int from = 0; from < replay.Frames; from += Chunk)
        {
            using var scope = torch.NewDisposeScope();
            int[] indices = [.. Enumerable.Range(from, Math.Min(Chunk, replay.Frames - from))];
            of(replay.Observations(indices)).CopyTo(all, from * width);
        }

        return all;
    }

    private double Train(int updates, Func<int[], double> update, Action<double> progress, CancellationToken cancellation)
    {
        double sum = 0;
        int last = Math.Max(1, updates / 10);
        var indices = new int[batch];
        for (int step = 0; step < updates; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = torch.NewDisposeScope();
            replay.Draw(indices);
            double loss = update(indices);
            if (step >= updates - last) sum += loss / last;
            if (step % 50 == 0) progress(step / (double)updates);
        }

        return sum;
    }

    private static void Standardise(float[] rows, int width, double spread)
    {
        int count = rows.Length / width;
        for (int column = 0; column < width; column++)
        {
            double mean = 0, square = 0;
            for (int at = column; at < rows.Length; at += width) mean += rows[at] / (double)count;
            for (int at = column; at < rows.Length; at += width) square += Math.Pow(rows[at] - mean, 2) / count;
            double scale = square > 0 ? spread / Math.Sqrt(square) : 0;
            for (int at = column; at < rows.Length; at += width) rows[at] = (float)((rows[at] - mean) * scale);
        }
    }

    private ConvolutionalEncoder Copy(ConvolutionalEncoder encoder)
    {
        var copy = new ConvolutionalEncoder(
            settings.Channels, settings.Height, settings.Width, settings.Features, settings.Filters, settings.Seed);
        using var noGrad = torch.no_grad();
        foreach (var (source, own) in encoder.parameters().Zip(copy.parameters())) own.copy_(source);
        return copy;
    }
}
