using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
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

    [ComponentName(Name = "attention_norm")]
    private readonly LayerNorm _attentionNorm;

    [ComponentName(Name = "qkv")]
    private readonly Linear _qkv;

    [ComponentName(Name = "projection")]
    private readonly Linear _projection;

    [ComponentName(Name = "perceptron_norm")]
    private readonly LayerNorm _perceptronNorm;

    [ComponentName(Name = "expand")]
    private readonly Linear _expand;

    [ComponentName(Name = "contract")]
    private readonly Linear _contract;

    public AutoencoderBlock(long width, long heads) : base(nameof(AutoencoderBlock))
    {
        _heads = heads;
        (_attentionNorm, _perceptronNorm) = (LayerNorm(width), LayerNorm(width));
        _qkv = Layers.Linear(width, 3 * width);
        _projection = Layers.Linear(width, width);
        _expand = Layers.Linear(width, 4 * width);
        _contract = Layers.Linear(4 * width, width);
        RegisterComponents();
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
    [ComponentName(Name = "blocks")]
    private readonly ModuleList<AutoencoderBlock> _blocks;

    [ComponentName(Name = "norm")]
    private readonly LayerNorm _norm;

    [ComponentName(Name = "head")]
    private readonly Linear? _head;

    /// <param name="width">Of the tokens.</param>
    /// <param name="depth">How many blocks.</param>
    /// <param name="heads">Attention heads.</param>
    /// <param name="outputs">Of the linear layer; 0: there is none.</param>
    public AutoencoderTrunk(long width, int depth, long heads, long outputs) : base(nameof(AutoencoderTrunk))
    {
        _blocks = ModuleList<AutoencoderBlock>([.. Enumerable.Range(0, depth).Select(_ => new AutoencoderBlock(width, heads))]);
        _norm = LayerNorm(width);
        _head = outputs > 0 ? Layers.Linear(width, outputs) : null;
        RegisterComponents();
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
}

/// <summary>
/// Fixed positions on a square grid [1, side², width]: sines and cosines of the row in the first half, of the column in the second, at
/// width/4 frequencies from 1 down to 1/10000 (Vaswani et al. 2017, in two dimensions as He et al. 2022 have them). No parameters, and
/// nothing of a state dict: a table, and its copy on another device.
/// </summary>
internal sealed class GridPositions : IDisposable
{
    private Tensor _table;

    public GridPositions(int side, int width)
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

        _table = torch.tensor(values, [1, side * side, width]).DetachFromDisposeScope();
    }

    /// <summary>The table where the tokens are.</summary>
    public Tensor For(Tensor tokens)
    {
        if (_table.device_type != tokens.device_type || _table.device_index != tokens.device_index)
        {
            var moved = _table.to(tokens.device).DetachFromDisposeScope();
            _table.Dispose();
            _table = moved;
        }

        return _table;
    }

    public void Dispose() => _table.Dispose();
}
