namespace AuxCore.Models;

/// <summary>The sizes of a <see cref="MaskedAutoencoder"/>. Defaults are small: minutes on one core for images of 56 × 56.</summary>
public sealed record MaskedAutoencoderSettings
{
    /// <summary>Pixels along an edge of the square images.</summary>
    public required int Side { get; init; }

    /// <summary>Pixels along an edge of a patch; divides <see cref="Side"/>.</summary>
    public required int Patch { get; init; }

    /// <summary>Channels of the images.</summary>
    public int Channels { get; init; } = 1;

    /// <summary>Of a token in the encoder; a multiple of four and of <see cref="Heads"/>.</summary>
    public int Width { get; init; } = 64;

    /// <summary>Blocks of the encoder.</summary>
    public int Depth { get; init; } = 4;

    /// <summary>Attention heads of the encoder.</summary>
    public int Heads { get; init; } = 4;

    /// <summary>Of a token in the decoder; a multiple of four and of <see cref="DecoderHeads"/>.</summary>
    public int DecoderWidth { get; init; } = 32;

    /// <summary>Blocks of the decoder, and of the loss predictor.</summary>
    public int DecoderDepth { get; init; } = 1;

    /// <summary>Attention heads of the decoder.</summary>
    public int DecoderHeads { get; init; } = 2;

    /// <summary>
    /// Whether the target of a patch is its pixels less their mean and divided by their deviation. He et al. found this to help; the
    /// published scripts of Hard Patches Mining leave it out.
    /// </summary>
    public bool NormalisePixels { get; init; }

    /// <summary>Whether there is a <see cref="LossPredictor"/>.</summary>
    public bool PredictLosses { get; init; }

    /// <summary>L: patches of an image.</summary>
    public int Patches => Side / Patch * (Side / Patch);

    /// <summary>Pixels of a patch, over all channels.</summary>
    public int PatchPixels => Patch * Patch * Channels;

    internal void Check(string name)
    {
        Sizes.RequirePositive(
            (Of(nameof(Side)), Side), (Of(nameof(Patch)), Patch), (Of(nameof(Channels)), Channels), (Of(nameof(Width)), Width),
            (Of(nameof(Depth)), Depth), (Of(nameof(Heads)), Heads), (Of(nameof(DecoderWidth)), DecoderWidth),
            (Of(nameof(DecoderDepth)), DecoderDepth), (Of(nameof(DecoderHeads)), DecoderHeads));
        Require(Side % Patch == 0, nameof(Side), Side, $"not a multiple of the patch's edge, {Patch}");
        Require(Patches >= 2, nameof(Patch), Patch, "one patch only, so nothing could be hidden");
        RequireWidth(nameof(Width), Width, Heads);
        RequireWidth(nameof(DecoderWidth), DecoderWidth, DecoderHeads);

        string Of(string member) => $"{name}.{member}";

        void RequireWidth(string member, int width, int heads)
        {
            Require(width % 4 == 0, member, width, "not a multiple of four, which positions take");
            Require(width % heads == 0, member, width, $"not a multiple of its {heads} heads");
        }

        void Require(bool holds, string member, int value, string reason)
        {
            if (!holds)
                throw new ArgumentException($"{Of(member)} is {value}: {reason}", name);
        }
    }
}
