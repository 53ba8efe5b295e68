using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.VisualTokens;

/// <summary>A small decoder with grouped-query heads, and prompts of a word, an image and some words.</summary>
internal sealed class PruningScene : IDisposable
{
    public const int Before = 1, Visual = 12, After = 3, Length = Before + Visual + After, Vocabulary = 11, Width = 16, DecoderLayers = 4;

    private readonly torch.Generator _random = new(5);

    public PruningScene(int batch = 2)
    {
        Decoder = new CausalDecoder(DecoderOptions.Uniform(Vocabulary, Width, DecoderLayers, queryHeads: 4, kvHeads: 2, feedForward: 24));
        using var noGrad = torch.no_grad();
        foreach (var parameter in Decoder.parameters())
        {
            if (parameter.shape.Length == 2) // strong weights, so that attention is far from even
                parameter.copy_(torch.randn(parameter.shape, generator: _random) * 0.4);
        }

        Plain = new PlainDecoder(Decoder);
        Embeddings = Random(batch, Length, Width);
        Layout = SequenceLayout.Uniform(batch, Length, Before..(Before + Visual));
    }

    public CausalDecoder Decoder { get; }

    public PlainDecoder Plain { get; }

    /// <summary>[B, L, D].</summary>
    public Tensor Embeddings { get; }

    public SequenceLayout Layout { get; }

    public int Batch => Layout.Batch;

    public static Tensor Positions(Tensor rows, long from = 0) =>
        torch.arange(from, from + rows.shape[1], torch.int64).expand(rows.shape[0], rows.shape[1]);

    public static double Distance(Tensor a, Tensor b)
    {
        Assert.Equal(a.shape, b.shape);
        return (a - b).abs().max().item<float>();
    }

    public static byte[] Bits(Tensor tensor) => tensor.detach().contiguous().bytes.ToArray();

    public Tensor Random(params long[] shape) => torch.randn(shape, generator: _random);

    public Tensor Ids(int count) => torch.randint(0, Vocabulary, [Batch, count], generator: _random);

    /// <summary>
    /// Logits of all rows where tokens are not dropped but masked: from layer to layer, which may be seen, and at which position each is.
    /// </summary>
    public Tensor Masked(Tensor embeddings, Func<int, (Tensor Positions, Tensor Visible)> layer)
    {
        var hidden = embeddings;
        for (var i = 0; i < DecoderLayers; i++)
        {
            var (positions, visible) = layer(i);
            hidden = Plain.Layer(i, hidden, positions, visible);
        }

        return Plain.Logits(hidden);
    }

    public void Dispose()
    {
        Decoder.Dispose();
        Embeddings.Dispose();
        _random.Dispose();
    }
}

/// <summary>A policy that keeps what it is told, and remembers the states it saw.</summary>
internal sealed class ChosenTokens(IReadOnlyList<int> cuts, Func<DecoderState, int, VisualSelection> choose, PositionMode mode)
    : DecoderPruning(cuts, mode)
{
    /// <summary>For each cut and sequence, the numbers of its visual tokens that go on.</summary>
    public ChosenTokens(IReadOnlyList<int> cuts, int[][][] kept, PositionMode mode = PositionMode.Keep)
        : this(cuts, (state, cut) => Keep(state.Layout, kept[cut]), mode)
    {
    }

    public static VisualSelection Keep(SequenceLayout layout, int[][] kept)
    {
        var owners = new int[layout.VisualTokens];
        Array.Fill(owners, -1);
        for (var b = 0; b < layout.Batch; b++)
        {
            foreach (var token in kept[b])
                owners[layout.VisualSegments[b] + token] = layout.VisualSegments[b] + token;
        }

        return VisualSelection.Groups(owners, layout);
    }

    protected internal override VisualSelection Choose(DecoderState state, int cut) => choose(state, cut);
}
