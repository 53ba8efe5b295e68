namespace AuxCore.Models;

/// <summary>The sizes of a <see cref="VisionTransformer"/>.</summary>
public sealed record VisionTransformerOptions
{
    /// <summary>Pixels along an edge of the image.</summary>
    public int Side { get; init; } = 28;

    /// <summary>Pixels along an edge of a patch; divides <see cref="Side"/>.</summary>
    public int Patch { get; init; } = 7;

    /// <summary>Of the image.</summary>
    public int Channels { get; init; } = 1;

    /// <summary>Of a token.</summary>
    public int Width { get; init; } = 64;

    /// <summary>Blocks.</summary>
    public int Depth { get; init; } = 4;

    /// <summary>Attention heads; divides <see cref="Width"/>.</summary>
    public int Heads { get; init; } = 4;

    /// <summary>The hidden width of a block's perceptron, in widths of a token.</summary>
    public int MlpRatio { get; init; } = 4;

    /// <summary>What is told apart.</summary>
    public int Classes { get; init; } = 10;

    /// <summary>Patches along an edge.</summary>
    public int Grid => Side / Patch;

    internal void Check(string name)
    {
        foreach (var (property, value) in ((string, int)[])
            [
                (nameof(Side), Side), (nameof(Patch), Patch), (nameof(Channels), Channels), (nameof(Width), Width), (nameof(Depth), Depth),
                (nameof(Heads), Heads), (nameof(MlpRatio), MlpRatio), (nameof(Classes), Classes),
            ])
        {
            if (value < 1)
                throw new ArgumentException($"{name}.{property} is {value}; it is at least 1", name);
        }

        if (Side % Patch != 0)
            throw new ArgumentException($"{name}.Patch: {Patch} does not divide a side of {Side}", name);
        if (Width % Heads != 0)
            throw new ArgumentException($"{name}.Heads: {Heads} do not divide a width of {Width}", name);
    }
}
