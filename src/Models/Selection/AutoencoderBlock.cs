using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A pre-norm transformer block (Dosovitskiy et al. 2021): attention, and a two-layer perceptron of four times the width, each after a norm
/// and around a residual. [n, tokens, width] to the same.
/// </summary>
internal sealed class AutoencoderBlock : Module<Tensor, Tensor>
{
    private readonly long _heads;
    private readonly LayerNorm _attentionNorm, _perceptronNorm;
    private readonly Linear _qkv, _projection, _expand, _contract;

    public AutoencoderBlock(long width, long heads) : base(nameof(AutoencoderBlock))
    {
        _heads = heads;
        register_module("attention_norm", _attentionNorm = LayerNorm(width));
        register_module("qkv", _qkv = Layers.Linear(width, 3 * width));
        register_module("projection", _projection = Layers.Linear(width, width));
        register_module("perceptron_norm", _perceptronNorm = LayerNorm(width));
        register_module("expand", _expand = Layers.Linear(width, 4 * width));
        register_module("contract", _contract = Layers.Linear(4 * width, width));
    }

    public override Tensor forward(Tensor tokens)
    {
        using var scope = torch.NewDisposeScope();
        var (n, count, width) = (tokens.shape[0], tokens.shape[1], tokens.shape[2]);
        var projected = _qkv.forward(_attentionNorm.forward(tokens)).view(n, count, 3, _heads, width / _heads);
        var parts = projected.permute(2, 0, 3, 1, 4).unbind(0);
        var mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2]);
        var attended = tokens + _projection.forward(mixed.transpose(1, 2).reshape(n, count, width));
        var perceptron = _contract.forward(functional.gelu(_expand.forward(_perceptronNorm.forward(attended))));
        return (attended + perceptron).MoveToOuterDisposeScope();
    }
}

/// <summary>Blocks one after the other, a norm, and a linear layer to whatever is wanted of each token.</summary>
internal sealed class AutoencoderTrunk : Module<Tensor, Tensor>
{
    private readonly ModuleList<AutoencoderBlock> _blocks;
    private readonly LayerNorm _norm;
    private readonly Linear? _head;

    /// <param name="width">Of the tokens.</param>
    /// <param name="depth">How many blocks.</param>
    /// <param name="heads">Attention heads.</param>
    /// <param name="outputs">Of the linear layer; 0: there is none.</param>
    public AutoencoderTrunk(long width, int depth, long heads, long outputs) : base(nameof(AutoencoderTrunk))
    {
        _blocks = ModuleList<AutoencoderBlock>([.. Enumerable.Range(0, depth).Select(_ => new AutoencoderBlock(width, heads))]);
        register_module("blocks", _blocks);
        register_module("norm", _norm = LayerNorm(width));
        if (outputs > 0)
            register_module("head", _head = Layers.Linear(width, outputs));
    }

    public override Tensor forward(Tensor tokens)
    {
        using var scope = torch.NewDisposeScope();
        var x = tokens;
        foreach (var block in _blocks)
            x = block.forward(x);
        x = _norm.forward(x);
        return (_head?.forward(x) ?? x).MoveToOuterDisposeScope();
    }
}

/// <summary>What the autoencoder's parts are made of.</summary>
internal static class Layers
{
    /// <summary>A linear layer as vision transformers begin: Xavier's uniform weights, no bias.</summary>
    public static Linear Linear(long inputs, long outputs)
    {
        var layer = torch.nn.Linear(inputs, outputs);
        init.xavier_uniform_(layer.weight);
        init.zeros_(layer.bias!);
        return layer;
    }

    /// <summary>
    /// Fixed positions on a square grid [1, side², width]: sines and cosines of the row in the first half, of the column in the second, at
    /// width/4 frequencies from 1 down to 1/10000 (Vaswani et al. 2017, in two dimensions as He et al. 2022 have them).
    /// </summary>
    public static Tensor Positions(int side, int width)
    {
        var frequencies = width / 4;
        var values = new float[side * side * width];
        for (var place = 0; place < side * side; place++)
        {
            for (var i = 0; i < width; i++)
            {
                var coordinate = i < width / 2 ? place / side : place % side;
                var angle = coordinate / Math.Pow(10000, i % frequencies / (double)frequencies);
                values[place * width + i] = (float)(i % (width / 2) < frequencies ? Math.Sin(angle) : Math.Cos(angle));
            }
        }

        return torch.tensor(values, [1, side * side, width]).DetachFromDisposeScope();
    }
}
