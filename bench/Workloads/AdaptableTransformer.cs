using AuxCore.Models;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace AuxCore.Bench.Workloads;

/// <summary>What is put into a frozen transformer's attention, block by block.</summary>
internal enum EfficientKind
{
    /// <summary>An adapter beside each attention.</summary>
    Adapter,

    /// <summary>Low-rank additions to keys and values.</summary>
    Lora,

    /// <summary>Learned keys and values.</summary>
    Prefix,
}

/// <summary>The small modules of one expert: a block has an <see cref="Adapter"/>, two LoRA, or a <see cref="PrefixAttention"/>.</summary>
internal sealed class EfficientModules : Module
{
    private readonly ModuleList<Module> modules_;

    public EfficientModules(EfficientKind kind) : base(nameof(EfficientModules))
    {
        const int Width = AdaptableTransformer.Width;
        modules_ = ModuleList<Module>([.. Enumerable.Range(0, AdaptableTransformer.Depth).SelectMany(_ => kind switch
        {
            EfficientKind.Adapter => (Module[])[new Adapter(Width)],
            EfficientKind.Lora => [new LowRankAdapter(Width, Width), new LowRankAdapter(Width, Width)],
            _ => [new PrefixAttention(AdaptableTransformer.Heads, Width / AdaptableTransformer.Heads)],
        })]);
        register_module("modules", modules_);
    }

    /// <summary>Those of one block.</summary>
    public IReadOnlyList<Module> Of(int block)
    {
        int each = modules_.Count / AdaptableTransformer.Depth;
        return [.. Enumerable.Range(block * each, each).Select(i => modules_[i])];
    }
}

/// <summary>
/// A pre-norm vision transformer for 28 × 28 grey images in patches of 7 × 7, with places for <see cref="EfficientModules"/> and, for
/// masked pre-training, for a choice of patches.
/// </summary>
internal sealed class AdaptableTransformer : Module
{
    public const int Width = 64, Depth = 4, Heads = 4, Patch = 7, Tokens = 16, PatchPixels = Patch * Patch;

    private readonly Linear embed;
    private readonly Parameter positions;
    private readonly ModuleList<AdaptableBlock> blocks;
    private readonly LayerNorm norm;

    public AdaptableTransformer() : base(nameof(AdaptableTransformer))
    {
        embed = Linear(PatchPixels, Width);
        positions = new Parameter(randn(1, Tokens, Width) * 0.02);
        blocks = ModuleList<AdaptableBlock>([.. Enumerable.Range(0, Depth).Select(_ => new AdaptableBlock())]);
        norm = LayerNorm(Width);
        RegisterComponents();
    }

    /// <summary>Images [n, 1, 28, 28] to patches [n, 16, 49].</summary>
    public static Tensor Patches(Tensor images)
    {
        const int Side = 28 / Patch;
        using var scope = NewDisposeScope();
        return images.view(-1, Side, Patch, Side, Patch).permute(0, 1, 3, 2, 4).reshape(-1, Tokens, PatchPixels).MoveToOuterDisposeScope();
    }

    /// <summary>Patches to tokens.</summary>
    /// <param name="patches">[n, 16, 49].</param>
    /// <param name="visible">Which are seen, [n, k], int64; null: all.</param>
    /// <param name="expert">What is put into the attention; null: nothing.</param>
    /// <returns>[n, k, 64].</returns>
    public Tensor Encode(Tensor patches, Tensor? visible = null, EfficientModules? expert = null)
    {
        using var scope = NewDisposeScope();
        Tensor tokens = embed.forward(patches) + positions;
        if (visible is not null)
            tokens = tokens.gather(1, visible.unsqueeze(2).expand(visible.shape[0], visible.shape[1], Width));
        for (int i = 0; i < Depth; i++) tokens = blocks[i].forward(tokens, expert?.Of(i) ?? []);
        return norm.forward(tokens).MoveToOuterDisposeScope();
    }

    /// <summary>Images to features [n, 64]: the mean over tokens.</summary>
    public Tensor Features(EfficientModules? expert, Tensor images)
    {
        using var scope = NewDisposeScope();
        return Encode(Patches(images), expert: expert).mean([1]).MoveToOuterDisposeScope();
    }
}

/// <summary>Attention and a two-layer perceptron, each after a norm and around a residual.</summary>
internal sealed class AdaptableBlock : Module<Tensor, IReadOnlyList<Module>, Tensor>
{
    private readonly LayerNorm attention_norm, mlp_norm;
    private readonly Linear qkv, projection, expand, contract;

    public AdaptableBlock() : base(nameof(AdaptableBlock))
    {
        const int Width = AdaptableTransformer.Width;
        attention_norm = LayerNorm(Width);
        qkv = Linear(Width, 3 * Width);
        projection = Linear(Width, Width);
        mlp_norm = LayerNorm(Width);
        expand = Linear(Width, 4 * Width);
        contract = Linear(4 * Width, Width);
        RegisterComponents();
    }

    public override Tensor forward(Tensor tokens, IReadOnlyList<Module> efficient)
    {
        using var scope = NewDisposeScope();
        Tensor seen = attention_norm.forward(tokens);
        Tensor[] parts = [.. qkv.forward(seen).chunk(3, 2)];
        if (efficient is [LowRankAdapter keys, LowRankAdapter values])
            (parts[1], parts[2]) = (parts[1] + keys.forward(seen), parts[2] + values.forward(seen));
        (Tensor q, Tensor k, Tensor v) = (PerHead(parts[0]), PerHead(parts[1]), PerHead(parts[2]));
        Tensor mixed = efficient is [PrefixAttention prefix] ? prefix.forward(q, k, v) : functional.scaled_dot_product_attention(q, k, v);
        Tensor attended = projection.forward(mixed.transpose(1, 2).reshape(tokens.shape));
        if (efficient is [Adapter adapter]) attended = attended + adapter.forward(seen);
        tokens = tokens + attended;
        return (tokens + contract.forward(functional.gelu(expand.forward(mlp_norm.forward(tokens))))).MoveToOuterDisposeScope();
    }

    private static Tensor PerHead(Tensor x) => x.view(
        x.shape[0], x.shape[1], AdaptableTransformer.Heads, AdaptableTransformer.Width / AdaptableTransformer.Heads).transpose(1, 2);
}

/// <summary>
/// Masked autoencoder (He et al., CVPR 2022): the encoder sees half of the patches, a light decoder predicts the pixels of the others. No
/// label is used.
/// </summary>
internal sealed class AdaptableAutoencoder : Module
{
    private const int Visible = AdaptableTransformer.Tokens / 2;

    private readonly Parameter mask_token, positions;
    private readonly AdaptableBlock decoder;
    private readonly Linear to_pixels;

    public AdaptableAutoencoder(AdaptableTransformer encoder) : base(nameof(AdaptableAutoencoder))
    {
        Encoder = encoder;
        mask_token = new Parameter(zeros(1, 1, AdaptableTransformer.Width));
        positions = new Parameter(randn(1, AdaptableTransformer.Tokens, AdaptableTransformer.Width) * 0.02);
        decoder = new AdaptableBlock();
        to_pixels = Linear(AdaptableTransformer.Width, AdaptableTransformer.PatchPixels);
        register_module("encoder", encoder);
        RegisterComponents();
    }

    /// <summary>What is kept after the pre-training.</summary>
    public AdaptableTransformer Encoder { get; }

    /// <summary>The mean squared error of the patches that were not seen.</summary>
    public Tensor Loss(Tensor images, Generator random)
    {
        using var scope = NewDisposeScope();
        Tensor patches = AdaptableTransformer.Patches(images);
        long n = patches.shape[0];
        Tensor order = rand([n, AdaptableTransformer.Tokens], generator: random).argsort(1);
        Tensor visible = order.narrow(1, 0, Visible), hidden = order.narrow(1, Visible, AdaptableTransformer.Tokens - Visible);
        Tensor seen = Encoder.Encode(patches, visible);
        Tensor masks = mask_token.expand(n, hidden.shape[1], AdaptableTransformer.Width);
        Tensor places = positions.expand(n, AdaptableTransformer.Tokens, AdaptableTransformer.Width)
            .gather(1, Wide(order, AdaptableTransformer.Width));
        Tensor decoded = decoder.forward(cat([seen, masks], 1) + places, []).narrow(1, Visible, hidden.shape[1]);
        Tensor wanted = patches.gather(1, Wide(hidden, AdaptableTransformer.PatchPixels));
        return functional.mse_loss(to_pixels.forward(decoded), wanted).MoveToOuterDisposeScope();
    }

    private static Tensor Wide(Tensor index, long width) => index.unsqueeze(2).expand(index.shape[0], index.shape[1], width);
}
