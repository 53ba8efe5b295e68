using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A pre-norm vision transformer with a class token (Dosovitskiy et al. 2021, arXiv 2010.11929) that reduces its tokens in any block, by
/// any <see cref="TokenPolicy"/>, in evaluation and in training.
/// <code>
/// var model = new VisionTransformer(new() { Side = 224, Patch = 16, Channels = 3, Width = 384, Depth = 12, Heads = 6 });
/// model.Pruning = [(3, new ClsAttentionPolicy(Budget.Ratio(0.5)))];
/// </code>
/// </summary>
/// <remarks>
/// A block reduces between its attention, whose queries and keys the policy sees, and its perceptron. The class token is always kept. Where
/// images keep different numbers, later attention does not see what is behind an image's tokens. Not thread-safe.
/// </remarks>
public sealed class VisionTransformer : Module<Tensor, Tensor>
{
    private readonly Conv2d _patches;
    private readonly Parameter _classToken, _positions;
    private readonly ModuleList<VisionBlock> _blocks;
    private readonly LayerNorm _norm;
    private readonly Linear _head;
    private IReadOnlyList<(int Block, TokenPolicy Policy)> _pruning = [];

    /// <summary>A model with random weights.</summary>
    /// <exception cref="ArgumentException">A size is below 1, or one does not divide another.</exception>
    public VisionTransformer(VisionTransformerOptions options) : base(nameof(VisionTransformer))
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check(nameof(options));
        Options = options;
        var tokens = options.Grid * options.Grid + 1;
        _patches = Conv2d(options.Channels, options.Width, kernel_size: options.Patch, stride: options.Patch);
        _classToken = Tokens.Parameter(torch.zeros(1, 1, options.Width));
        _positions = Tokens.Parameter(torch.randn(1, tokens, options.Width) * 0.02);
        _blocks = ModuleList<VisionBlock>([.. Enumerable.Range(0, options.Depth).Select(_ => new VisionBlock(options))]);
        _norm = LayerNorm(options.Width);
        _head = Linear(options.Width, options.Classes);
        register_module("patches", _patches);
        register_parameter("class_token", _classToken);
        register_parameter("positions", _positions);
        register_module("blocks", _blocks);
        register_module("norm", _norm);
        register_module("head", _head);
    }

    /// <summary>The sizes.</summary>
    public VisionTransformerOptions Options { get; }

    /// <summary>In which blocks, from 0, tokens are reduced, and by what; one policy a block.</summary>
    /// <exception cref="ArgumentException">There is no such block, or one is named twice.</exception>
    public IReadOnlyList<(int Block, TokenPolicy Policy)> Pruning
    {
        get => _pruning;
        set
        {
            ArgumentNullException.ThrowIfNull(value);
            foreach (var (block, policy) in value)
            {
                ArgumentNullException.ThrowIfNull(policy, nameof(value));
                if (block < 0 || block >= Options.Depth)
                    throw new ArgumentException($"Pruning: there is no block {block}; blocks are 0 to {Options.Depth - 1}", nameof(value));
            }

            if (value.DistinctBy(entry => entry.Block).Count() != value.Count)
                throw new ArgumentException("Pruning: a block is named twice", nameof(value));
            _pruning = [.. value];
        }
    }

    /// <summary>Images to logits.</summary>
    /// <param name="images">float32 [n, channels, side, side].</param>
    /// <returns>[n, classes].</returns>
    /// <exception cref="ArgumentException">The images are of another shape or dtype.</exception>
    public override Tensor forward(Tensor images) => Run(images, null);

    /// <summary>Images to logits, and what was reduced on the way.</summary>
    /// <param name="images">float32 [n, channels, side, side].</param>
    /// <param name="reductions">Gets the reductions, in the order of the blocks, which the caller then disposes.</param>
    /// <returns>[n, classes].</returns>
    /// <exception cref="ArgumentException">The images are of another shape or dtype.</exception>
    public Tensor forward(Tensor images, ICollection<TokenReduction> reductions)
    {
        ArgumentNullException.ThrowIfNull(reductions);
        return Run(images, reductions);
    }

    private Tensor Run(Tensor images, ICollection<TokenReduction>? reductions)
    {
        using var scope = torch.NewDisposeScope();
        var tokens = Embed(images);
        for (var block = 0; block < Options.Depth; block++)
        {
            var (attended, layer) = _blocks[block].Attend(tokens);
            tokens = _blocks[block].Finish(attended, layer, PolicyOf(block), reductions);
        }

        return Classify(tokens).MoveToOuterDisposeScope();
    }

    /// <summary>The class token and the patches of images, with their positions.</summary>
    internal VisionTokens Embed(Tensor images)
    {
        Batches.Require(images, nameof(images));
        if (images.dtype != torch.ScalarType.Float32 || images.shape is not [_, var channels, var height, var width]
            || channels != Options.Channels || height != Options.Side || width != Options.Side)
        {
            throw new ArgumentException(
                $"images: {Batches.Describe(images)} is not Float32[n, {Options.Channels}, {Options.Side}, {Options.Side}]",
                nameof(images));
        }

        using var scope = torch.NewDisposeScope();
        var patches = _patches.forward(images).flatten(2).transpose(1, 2);
        var hidden = torch.cat([_classToken.expand(images.shape[0], -1, -1), patches], 1) + _positions;
        return new(hidden.MoveToOuterDisposeScope(), null, null);
    }

    /// <summary>One block.</summary>
    internal VisionBlock Block(int block) => _blocks[block];

    /// <summary>Logits of what the last block gives.</summary>
    internal Tensor Classify(VisionTokens tokens) => _head.forward(_norm.forward(tokens.Hidden.select(1, 0)));

    private TokenPolicy? PolicyOf(int block) => _pruning.FirstOrDefault(entry => entry.Block == block).Policy;
}

/// <summary>What goes from block to block.</summary>
/// <param name="Hidden">[n, tokens, width].</param>
/// <param name="Lengths">How many tokens each image has; null where all have the same number.</param>
/// <param name="Sizes">float32 [n, tokens]: how many tokens each stands for, where attention is proportional to it.</param>
internal sealed record VisionTokens(Tensor Hidden, IReadOnlyList<int>? Lengths, Tensor? Sizes);

/// <summary>
/// Attention and a two-layer perceptron, each after a norm and around a residual; tokens are reduced between the two.
/// </summary>
internal sealed class VisionBlock : Module
{
    private readonly long _heads;
    private readonly LayerNorm _attentionNorm, _mlpNorm;
    private readonly Linear _qkv, _projection, _expand, _contract;

    public VisionBlock(VisionTransformerOptions options) : base(nameof(VisionBlock))
    {
        _heads = options.Heads;
        var (width, hidden) = (options.Width, options.MlpRatio * options.Width);
        _attentionNorm = LayerNorm(width);
        _qkv = Linear(width, 3 * width);
        _projection = Linear(width, width);
        _mlpNorm = LayerNorm(width);
        _expand = Linear(width, hidden);
        _contract = Linear(hidden, width);
        register_module("attention_norm", _attentionNorm);
        register_module("qkv", _qkv);
        register_module("projection", _projection);
        register_module("mlp_norm", _mlpNorm);
        register_module("expand", _expand);
        register_module("contract", _contract);
    }

    /// <summary>The attention, with its residual, and what a policy may look at.</summary>
    public (VisionTokens Attended, PruningLayer Layer) Attend(VisionTokens tokens)
    {
        var (n, count, width) = (tokens.Hidden.shape[0], tokens.Hidden.shape[1], tokens.Hidden.shape[2]);
        var projected = _qkv.forward(_attentionNorm.forward(tokens.Hidden)).view(n, count, 3, _heads, width / _heads);
        Tensor[] parts = [.. projected.permute(2, 0, 3, 1, 4).unbind(0)];
        var mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], BiasOf(tokens));
        var hidden = tokens.Hidden + _projection.forward(mixed.transpose(1, 2).reshape(n, count, width));
        var layer = new PruningLayer
        {
            Hidden = hidden, Queries = parts[0], Keys = parts[1], Protected = 1, Lengths = tokens.Lengths, Sizes = tokens.Sizes,
        };
        return (tokens with { Hidden = hidden }, layer);
    }

    /// <summary>The reduction, if there is one, and the perceptron.</summary>
    /// <param name="tokens">What <see cref="Attend"/> gave.</param>
    /// <param name="layer">Likewise.</param>
    /// <param name="policy">Null: all tokens go on.</param>
    /// <param name="reductions">Gets the reduction, which then is the caller's to dispose; null: it ends here.</param>
    public VisionTokens Finish(
        VisionTokens tokens, PruningLayer layer, TokenPolicy? policy = null, ICollection<TokenReduction>? reductions = null)
    {
        if (policy is not null)
        {
            var reduction = policy.Reduce(layer);
            var sizes = policy.HasProportionalAttention || tokens.Sizes is not null ? reduction.Sizes(tokens.Sizes) : null;
            var isEven = reduction.Counts.All(count => count == reduction.Length);
            tokens = new(reduction.Apply(tokens.Hidden), isEven ? null : reduction.Counts, sizes);
            if (reductions is null)
                reduction.Dispose();
            else
                reductions.Add(reduction);
        }

        var hidden = tokens.Hidden;
        hidden = hidden + _contract.forward(functional.gelu(_expand.forward(_mlpNorm.forward(hidden))));
        return tokens with { Hidden = hidden };
    }

    // What is added to the logits of each key: log size, and −∞ behind an image's tokens. Null where it would be 0.
    private static Tensor? BiasOf(VisionTokens tokens)
    {
        var (images, count) = (tokens.Hidden.shape[0], tokens.Hidden.shape[1]);
        if (tokens.Sizes is not null)
            return tokens.Sizes.log().view(images, 1, 1, count); // the size of what is not there is 0
        if (tokens.Lengths is null)
            return null;
        var lengths = torch.tensor(tokens.Lengths.ToArray()).unsqueeze(1);
        return torch.zeros(images, count).masked_fill(torch.arange(count).unsqueeze(0).ge(lengths), float.NegativeInfinity)
            .view(images, 1, 1, count);
    }
}
