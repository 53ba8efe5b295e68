using System.Numerics.Tensors;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// Features that do not learn, centred and scaled by what they are on a sample, with a last one that is always 1. That changes nothing of
/// what a linear function of them can express, and gives every arm's the same scale for the same learning rate.
/// </summary>
internal sealed class FrozenFeatures : IDisposable
{
    private const float LeastSpread = 0.1f; // of the mean one: what hardly ever changes should not become loud

    private readonly torch.nn.Module<Tensor, Tensor>? _encoder;
    private readonly int _channels, _raw;
    private readonly float[] _means, _scales;

    private FrozenFeatures(torch.nn.Module<Tensor, Tensor>? encoder, int channels, int raw, FrameReplay sample, int size)
    {
        (_encoder, _channels, _raw, _means, _scales) = (encoder, channels, raw, new float[raw], new float[raw]);
        Array.Fill(_scales, 1);
        var rows = new float[size * raw];
        int bytes = sample.Packed.Length / sample.Frames;
        var indices = new int[size];
        sample.Draw(indices);
        var packed = new byte[size * bytes];
        for (int i = 0; i < size; i++) sample.Packed.Slice(indices[i] * bytes, bytes).CopyTo(packed.AsSpan(i * bytes));
        Raw(packed, rows);
        var spreads = new float[raw];
        for (int feature = 0; feature < raw; feature++)
        {
            double mean = 0, square = 0;
            for (int row = 0; row < size; row++) mean += rows[row * raw + feature] / (double)size;
            for (int row = 0; row < size; row++) square += Math.Pow(rows[row * raw + feature] - mean, 2) / size;
            (_means[feature], spreads[feature]) = ((float)mean, (float)Math.Sqrt(square));
        }

        float least = Math.Max(float.Epsilon, LeastSpread * spreads.Average());
        for (int feature = 0; feature < raw; feature++) _scales[feature] = 1 / Math.Max(least, spreads[feature]);
    }

    /// <summary>How many features there are, the last one included.</summary>
    public int Width => _raw + 1;

    /// <summary>What an encoder makes of a frame. It is disposed with the features.</summary>
    public static FrozenFeatures Of(ConvolutionalEncoder encoder, int channels, FrameReplay sample, int size) =>
        new(encoder, channels, (int)encoder.Features, sample, size);

    /// <summary>The cells themselves.</summary>
    public static FrozenFeatures Pixels(int channels, FrameReplay sample, int size) => new(null, channels, sample.Cells, sample, size);

    /// <summary>Frames as a tensor.</summary>
    public static Tensor Pictures(ReadOnlySpan<byte> packed, int rows, int channels)
    {
        int cells = channels * ArcadeEnvironment.Size * ArcadeEnvironment.Size;
        var values = new float[rows * cells];
        ObservationBits.Unpack(packed, cells, values);
        return torch.tensor(values, [rows, channels, ArcadeEnvironment.Size, ArcadeEnvironment.Size]);
    }

    /// <summary>Frames to features.</summary>
    /// <param name="packed">Frames, as bits.</param>
    /// <param name="features">[frames, <see cref="Width"/>].</param>
    public void Encode(ReadOnlySpan<byte> packed, Span<float> features)
    {
        int rows = features.Length / Width;
        var raw = new float[rows * _raw];
        Raw(packed, raw);
        for (int row = 0; row < rows; row++)
        {
            Span<float> to = features.Slice(row * Width, Width);
            TensorPrimitives.Subtract(raw.AsSpan(row * _raw, _raw), _means, to);
            TensorPrimitives.Multiply(to[.._raw], _scales, to);
            to[_raw] = 1;
        }
    }

    public void Dispose() => _encoder?.Dispose();

    private void Raw(ReadOnlySpan<byte> packed, Span<float> rows)
    {
        if (_encoder is null)
        {
            ObservationBits.Unpack(packed, _raw, rows);
            return;
        }

        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        _encoder.forward(Pictures(packed, rows.Length / _raw, _channels)).data<float>().CopyTo(rows);
    }
}
