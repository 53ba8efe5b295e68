using AuxCore.Interop;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// The auxiliary network of one block: copies of the layer that follows the block, as <see cref="AuxiliaryInput"/> says, then a
/// classifier. Its input is the block's output, its output what the block's loss takes.
/// </summary>
/// <remarks>
/// Momentum Auxiliary Network (Su et al., ECCV 2024, arXiv 2407.05623). Both copies begin as the layer is. Only parameters are averaged, as
/// in the paper's code: the running statistics of E's batch norms are those of its own forward passes.
/// </remarks>
public sealed class MomentumAuxiliaryBlock : Module<Tensor, Tensor>
{
    private readonly AuxiliaryInput _input;
    private readonly Module<Tensor, Tensor>? _following; // not registered: it is the next block's
    private readonly Parameter? _scale, _shift;

    internal MomentumAuxiliaryBlock(
        LocalLearningOptions options, Module<Tensor, Tensor>? following, Func<Module<Tensor, Tensor>> create, Module<Tensor, Tensor> head,
        Func<long> channels)
        : base(nameof(MomentumAuxiliaryBlock))
    {
        (_input, _following, Head) = (options.Input, following, head);
        try
        {
            if (options.HasCopy)
            {
                Copy = CopyOf(following!, create());
                register_module("copy", Copy);
            }

            if (options.HasMomentum)
            {
                Momentum = CopyOf(following!, create());
                register_module("momentum", Momentum);
                RequireAveragable(Momentum);
                foreach (var parameter in Momentum.parameters())
                    parameter.requires_grad_(false);
            }

            if (options.Input == AuxiliaryInput.ScaledMomentum)
            {
                var count = channels();
                (_scale, _shift) = (Tokens.Parameter(torch.ones(count)), Tokens.Parameter(torch.zeros(count)));
                register_parameter("scale", _scale);
                register_parameter("shift", _shift);
            }
        }
        catch
        {
            Copy?.Dispose();
            Momentum?.Dispose();
            throw;
        }

        register_module("head", head);
    }

    /// <summary>LB, the trained copy of the next block's first layer; null where there is none.</summary>
    public Module<Tensor, Tensor>? Copy { get; }

    /// <summary>E, the average of the next block's first layer; null where there is none.</summary>
    public Module<Tensor, Tensor>? Momentum { get; }

    /// <summary>The classifier.</summary>
    public Module<Tensor, Tensor> Head { get; }

    /// <summary>What the classifier says of a block's output.</summary>
    /// <param name="input">The block's output x, of whatever shape the layer after the block takes.</param>
    public override Tensor forward(Tensor input)
    {
        ArgumentNullException.ThrowIfNull(input);
        using var scope = torch.NewDisposeScope();
        return Head.forward(Seen(input)).MoveToOuterDisposeScope();
    }

    /// <summary>The pairs that are averaged: a parameter of the layer, and E's.</summary>
    internal IEnumerable<(Tensor Source, Tensor Average)> Pairs() => Momentum is null
        ? []
        : _following!.parameters().Zip(Momentum.parameters(), (source, average) => ((Tensor)source, (Tensor)average));

    private Tensor Seen(Tensor x) => _input switch
    {
        AuxiliaryInput.Output => x,
        AuxiliaryInput.TrainableCopy => Copy!.forward(x),
        AuxiliaryInput.Momentum => Momentum!.forward(x),
        AuxiliaryInput.MomentumAndCopy => Copy!.forward(x) + Momentum!.forward(x),
        _ => Scaled(Momentum!.forward(x)),
    };

    private Tensor Scaled(Tensor y)
    {
        var shape = new long[y.shape.Length];
        Array.Fill(shape, 1);
        shape[ChannelDimension(y)] = -1;
        return y * _scale!.view(shape) + _shift!.view(shape);
    }

    /// <summary>[n, c] and [n, c, height, width] have their channels in the second place, tokens [n, t, c] in the last.</summary>
    internal static int ChannelDimension(Tensor y) => y.shape.Length == 3 ? 2 : 1;

    private static Module<Tensor, Tensor> CopyOf(Module<Tensor, Tensor> layer, Module<Tensor, Tensor> made)
    {
        if (made is null)
            throw new ArgumentException("layers: it returned null");
        var (wanted, found) = (Named(layer), Named(made));
        if (ReferenceEquals(made, layer) || wanted.Zip(found).Any(pair => ReferenceEquals(pair.First.Tensor, pair.Second.Tensor)))
            throw new ArgumentException("layers: it returned the model's own layer; it has to make a new one at each call");
        for (var i = 0; i < Math.Max(wanted.Count, found.Count); i++)
        {
            var (want, find) = (Text(wanted, i), Text(found, i));
            if (want != find)
            {
                made.Dispose();
                throw new ArgumentException($"layers: the layer that it made has {find} where the model's has {want}");
            }
        }

        using var noGrad = torch.no_grad();
        foreach (var ((_, from), (_, to)) in wanted.Zip(found))
            to.copy_(from);
        made.train(layer.training);
        return made;

        static string Text(List<(string Name, Tensor Tensor)> tensors, int i) => i >= tensors.Count
            ? "nothing"
            : $"'{tensors[i].Name}' {tensors[i].Tensor.dtype}{TensorView.Format(tensors[i].Tensor.shape)}";
    }

    private static void RequireAveragable(Module<Tensor, Tensor> layer)
    {
        var none = true;
        foreach (var (name, parameter) in layer.named_parameters())
        {
            none = false;
            if (parameter.dtype != torch.ScalarType.Float32 || !parameter.is_contiguous())
                throw new ArgumentException($"model: '{name}' is {parameter.dtype}, and averages are of contiguous float32 parameters");
        }

        if (none)
            throw new ArgumentException("model: a block begins with a layer that has no parameters to average; cut before one that has");
    }

    private static List<(string Name, Tensor Tensor)> Named(Module module) =>
        [
            .. module.named_parameters().Select(entry => (entry.name, (Tensor)entry.parameter)),
            .. module.named_buffers().Select(entry => (entry.name, entry.buffer)),
        ];
}
