using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace AuxCore.Bench.Workloads;

/// <summary>Patches [n, tokens, pixels] to visual tokens [n, tokens, 64]: a small vision transformer without a class token.</summary>
internal sealed class PatchEncoder : Module<Tensor, Tensor>
{
    private readonly Linear embed;
    private readonly Parameter positions;
    private readonly ModuleList<AdaptableBlock> blocks;
    private readonly LayerNorm norm;

    /// <param name="tokens">Patches of an image.</param>
    /// <param name="pixels">Numbers of a patch.</param>
    /// <param name="depth">Blocks of attention, 0 or more.</param>
    public PatchEncoder(int tokens, int pixels, int depth) : base(nameof(PatchEncoder))
    {
        const int Width = AdaptableTransformer.Width;
        embed = Linear(pixels, Width);
        positions = new Parameter(randn(1, tokens, Width) * 0.5);
        blocks = ModuleList<AdaptableBlock>([.. Enumerable.Range(0, depth).Select(_ => new AdaptableBlock())]);
        norm = LayerNorm(Width);
        RegisterComponents();
    }

    public override Tensor forward(Tensor patches)
    {
        using var scope = NewDisposeScope();
        Tensor tokens = embed.forward(patches) + positions;
        foreach (AdaptableBlock block in blocks) tokens = block.forward(tokens, []);
        return norm.forward(tokens).MoveToOuterDisposeScope();
    }
}
