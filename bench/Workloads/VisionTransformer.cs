using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace AuxCore.Bench.Workloads;

/// <summary>The sizes of a <see cref="VisionTransformer"/>.</summary>
/// <param name="Side">Pixels along an edge of the image.</param>
/// <param name="Patch">Pixels along an edge of a patch; divides <paramref name="Side"/>.</param>
/// <param name="Channels">Of the image.</param>
/// <param name="Width">Of a token.</param>
/// <param name="Depth">Blocks.</param>
/// <param name="Heads">Attention heads; divides <paramref name="Width"/>.</param>
/// <param name="Classes">What is told apart.</param>
internal sealed record VisionTransformerShape(int Side, int Patch, int Channels, int Width, int Depth, int Heads, int Classes)
{
    /// <summary>For 28 × 28 grey images: 0.2 million parameters, a training step of some 50 ms on one core at a batch of 64.</summary>
    public static VisionTransformerShape Small { get; } = new(Side: 28, Patch: 7, Channels: 1, Width: 64, Depth: 4, Heads: 4, Classes: 10);

    /// <summary>ViT-S/16 of Touvron et al. (DeiT, 2021): 22 million parameters in 152 tensors.</summary>
    public static VisionTransformerShape VitS16 { get; } =
        new(Side: 224, Patch: 16, Channels: 3, Width: 384, Depth: 12, Heads: 6, Classes: 1000);
}

/// <summary>A pre-norm vision transformer (Dosovitskiy et al. 2021) with a class token.</summary>
internal sealed class VisionTransformer : Module<Tensor, Tensor>
{
    private readonly Conv2d patches;
    private readonly Parameter class_token;
    private readonly Parameter positions;
    private readonly ModuleList<Module<Tensor, Tensor>> blocks;
    private readonly LayerNorm norm;
    private readonly Linear head;

    public VisionTransformer(VisionTransformerShape shape)
        : base(nameof(VisionTransformer))
    {
        int tokens = shape.Side / shape.Patch * (shape.Side / shape.Patch) + 1;
        patches = Conv2d(shape.Channels, shape.Width, kernel_size: shape.Patch, stride: shape.Patch);
        class_token = new Parameter(zeros(1, 1, shape.Width));
        positions = new Parameter(randn(1, tokens, shape.Width) * 0.02);
        blocks = ModuleList<Module<Tensor, Tensor>>(
            [.. Enumerable.Range(0, shape.Depth).Select(_ => new TransformerBlock(shape.Width, shape.Heads))]);
        norm = LayerNorm(shape.Width);
        head = Linear(shape.Width, shape.Classes);
        RegisterComponents();
    }

    /// <summary>Images [n, channels, side, side] to logits [n, classes].</summary>
    public override Tensor forward(Tensor images)
    {
        using var scope = NewDisposeScope();
        Tensor tokens = patches.forward(images).flatten(2).transpose(1, 2);
        tokens = cat([class_token.expand(images.shape[0], -1, -1), tokens], 1) + positions;
        foreach (Module<Tensor, Tensor> block in blocks) tokens = block.forward(tokens);
        return head.forward(norm.forward(tokens.select(1, 0))).MoveToOuterDisposeScope();
    }
}

/// <summary>Attention and a two-layer perceptron of four times the width, each after a norm and around a residual.</summary>
internal sealed class TransformerBlock : Module<Tensor, Tensor>
{
    private readonly int _heads;
    private readonly LayerNorm attention_norm;
    private readonly Linear qkv;
    private readonly Linear projection;
    private readonly LayerNorm mlp_norm;
    private readonly Linear expand;
    private readonly Linear contract;

    public TransformerBlock(int width, int heads)
        : base(nameof(TransformerBlock))
    {
        _heads = heads;
        attention_norm = LayerNorm(width);
        qkv = Linear(width, 3 * width);
        projection = Linear(width, width);
        mlp_norm = LayerNorm(width);
        expand = Linear(width, 4 * width);
        contract = Linear(4 * width, width);
        RegisterComponents();
    }

    public override Tensor forward(Tensor tokens)
    {
        (long n, long count, long width) = (tokens.shape[0], tokens.shape[1], tokens.shape[2]);
        Tensor projected = qkv.forward(attention_norm.forward(tokens)).view(n, count, 3, _heads, width / _heads);
        Tensor[] parts = [.. projected.permute(2, 0, 3, 1, 4).unbind(0)];
        Tensor mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2]);
        tokens = tokens + projection.forward(mixed.transpose(1, 2).reshape(n, count, width));
        return tokens + contract.forward(functional.gelu(expand.forward(mlp_norm.forward(tokens))));
    }
}
