using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests;

/// <summary>Small decoders of random weights, and tokens for them.</summary>
internal static class TinyDecoder
{
    public const int Vocabulary = 23;

    /// <summary>Two or three layers of unequal heads, with whatever the option adds.</summary>
    public static DecoderOptions Options(bool biases = false, bool norms = false, bool tied = false) => new()
    {
        Vocabulary = Vocabulary,
        Width = 24,
        HeadDim = 32,
        Layers = [new(4, 2, 40), new(6, 3, 17), new(2, 2, 33)],
        Rotary = new() { Base = 1000 },
        QkvBias = biases,
        OutputBias = biases,
        FeedForwardBias = biases,
        QueryKeyNorm = norms,
        TiedHead = tied,
        InitialDeviation = 0.3,
    };

    /// <summary>A model none of whose parameters is 0 or 1.</summary>
    public static CausalDecoder Model(DecoderOptions? options = null, int seed = 1)
    {
        torch.manual_seed(seed);
        var model = new CausalDecoder(options ?? Options());
        using var noGrad = torch.no_grad();
        foreach (var (name, parameter) in model.named_parameters())
        {
            if (name.Contains("norm", StringComparison.Ordinal) || name.EndsWith("bias", StringComparison.Ordinal))
            {
                using var noise = torch.randn_like(parameter);
                using var scaled = noise * 0.2;
                parameter.add_(scaled);
            }
        }

        return model;
    }

    /// <summary>[B, L] tokens.</summary>
    public static Tensor Tokens(int batch, int length, int seed = 7)
    {
        var random = new Random(seed);
        return torch.tensor(Enumerable.Range(0, batch * length).Select(_ => random.NextInt64(Vocabulary)).ToArray()).view(batch, length);
    }

    /// <summary>The greatest difference of two tensors.</summary>
    public static double Distance(Tensor a, Tensor b)
    {
        Assert.Equal(a.shape, b.shape);
        using var scope = torch.NewDisposeScope();
        return a.numel() == 0 ? 0 : (a - b).abs().max().item<float>();
    }
}
