using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace AuxCore.Bench.Workloads;

/// <summary>Patches [n, tokens, pixels] to visual tokens [n, tokens, width]: a small vision transformer without a class token.</summary>
internal sealed class PatchEncoder : Module<Tensor, Tensor>
{
    private readonly Linear embed;
    private readonly Parameter positions;
    private readonly ModuleList<Module<Tensor, Tensor>> blocks;
    private readonly LayerNorm norm;

    /// <param name="tokens">Patches of an image.</param>
    /// <param name="pixels">Numbers of a patch.</param>
    /// <param name="width">Of a visual token.</param>
    /// <param name="depth">Blocks of attention, 0 or more.</param>
    public PatchEncoder(int tokens, int pixels, int width, int depth) : base(nameof(PatchEncoder))
    {
        embed = Linear(pixels, width);
        positions = new Parameter(randn(1, tokens, width) * 0.5);
        blocks = ModuleList<Module<Tensor, Tensor>>([.. Enumerable.Range(0, depth).Select(_ => new TransformerBlock(width, heads: 4))]);
        norm = LayerNorm(width);
        RegisterComponents();
    }

    public override Tensor forward(Tensor patches)
    {
        using var scope = NewDisposeScope();
        Tensor tokens = embed.forward(patches) + positions;
        foreach (Module<Tensor, Tensor> block in blocks) tokens = block.forward(tokens);
        return norm.forward(tokens).MoveToOuterDisposeScope();
    }
}
