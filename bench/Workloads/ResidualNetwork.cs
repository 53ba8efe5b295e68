using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// A residual network for 28 × 28 grey images in the form of the CIFAR networks of He et al. (2016), with 15 residual blocks: three groups
/// of five, at 8, 16 and 32 channels and 14, 7 and 4 pixels along an edge, after a stem of stride 2. 0.12 million parameters.
/// </summary>
internal static class ResidualNetwork
{
    /// <summary>Residual blocks, each of which is a block of local learning.</summary>
    public const int Depth = 15;

    private const int Groups = 3, Narrowest = 8;

    /// <summary>How many layers each block of local learning has: the first one the stem too, the last one the classifier.</summary>
    public static IReadOnlyList<int> BlockSizes { get; } = [2, .. Enumerable.Repeat(1, Depth - 2), 2];

    /// <summary>Channels that residual block <paramref name="index"/> puts out.</summary>
    public static int ChannelsAfter(int index) => Narrowest << (index / (Depth / Groups));

    /// <summary>Stem, residual blocks, classifier: images [n, 1, 28, 28] to logits [n, classes].</summary>
    public static Sequential Create(int classes)
    {
        Module<Tensor, Tensor> stem = Sequential(
            Conv2d(1, Narrowest, kernel_size: 3, stride: 2, padding: 1, bias: false), BatchNorm2d(Narrowest), ReLU());
        Module<Tensor, Tensor> classifier = Sequential(AdaptiveAvgPool2d(1), Flatten(), Linear(ChannelsAfter(Depth - 1), classes));
        return Sequential([stem, .. Enumerable.Range(0, Depth).Select(Block), classifier]);
    }

    /// <summary>A new layer like the network's layer of that index, which is a residual block.</summary>
    public static Module<Tensor, Tensor> Layer(int layer) => Block(layer - 1);

    private static Module<Tensor, Tensor> Block(int index)
    {
        int from = index == 0 ? Narrowest : ChannelsAfter(index - 1), to = ChannelsAfter(index);
        return new ResidualBlock(from, to, stride: from == to ? 1 : 2);
    }
}

/// <summary>Two 3 × 3 convolutions with batch norm, around which the input goes, by a 1 × 1 convolution where shapes differ.</summary>
internal sealed class ResidualBlock : Module<Tensor, Tensor>
{
    private readonly Module<Tensor, Tensor> first, second;
    private readonly Module<Tensor, Tensor>? shortcut;

    public ResidualBlock(int from, int to, int stride) : base(nameof(ResidualBlock))
    {
        first = Sequential(Conv2d(from, to, kernel_size: 3, stride: stride, padding: 1, bias: false), BatchNorm2d(to), ReLU());
        second = Sequential(Conv2d(to, to, kernel_size: 3, padding: 1, bias: false), BatchNorm2d(to));
        if (from == to && stride == 1) shortcut = null;
        else shortcut = Sequential(Conv2d(from, to, kernel_size: 1, stride: stride, bias: false), BatchNorm2d(to));
        RegisterComponents();
    }

    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        Tensor around = shortcut is null ? input : shortcut.forward(input);
        return functional.relu(second.forward(first.forward(input)) + around).MoveToOuterDisposeScope();
    }
}
