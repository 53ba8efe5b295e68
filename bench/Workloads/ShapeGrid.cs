using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>Images, text and answers of a batch of <see cref="ShapeGrid"/>, all int64 but the patches.</summary>
/// <param name="Patches">float32 [n, 16, 192]: a patch a cell.</param>
/// <param name="Prompt">[n, 17]: the caption, of which some words are wrong, then the colour that is asked for.</param>
/// <param name="Answers">[n, 8]: how many cells have it, counted up to the end of each step, as that step's words.</param>
internal sealed record ShapeGridBatch(Tensor Patches, Tensor Prompt, Tensor Answers) : IDisposable
{
    public void Dispose()
    {
        Patches.Dispose();
        Prompt.Dispose();
        Answers.Dispose();
    }
}

/// <summary>
/// Grids of 4 × 4 coloured shapes, and a question that needs eight steps: the running count of a colour, two cells a step. A caption names
/// the colour of each cell, wrongly in a quarter of them, so that copying it is tempting and looking at the image is better. Each step has
/// count words of its own ("after step 3: 5"): rotary positions alone do not tell a small model which step it is at.
/// </summary>
internal static class ShapeGrid
{
    public const int Cells = 16, Colours = 4, Steps = 8, Side = 4, VisualTokens = Cells,
        PatchPixels = CellPixels * CellPixels * 3;

    /// <summary>Words: each step's counts 0 to 16, four colours as a caption has them, four as a question does, the bridge.</summary>
    public const int CountWords = Cells + 1, FirstCaption = Steps * CountWords, FirstQuestion = FirstCaption + Colours,
        Bridge = FirstQuestion + Colours,
        Vocabulary = Bridge + 1;

    private const int CellPixels = 8, Shapes = 3;
    private const double WrongWords = 0.25, Noise = 0.1;

    // Red, green, blue, yellow.
    private static readonly float[,] Palette = { { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 }, { 1, 1, 0 } };

    /// <summary>A batch; everything comes from the random numbers.</summary>
    public static ShapeGridBatch Draw(int count, Random random)
    {
        var patches = new float[count * VisualTokens * PatchPixels];
        long[] prompt = new long[count * (Cells + 1)], answers = new long[count * Steps];
        for (int i = 0; i < count; i++)
        {
            int asked = random.Next(Colours), seen = 0;
            for (int cell = 0; cell < Cells; cell++)
            {
                int colour = random.Next(Colours);
                Paint(patches.AsSpan(i * VisualTokens * PatchPixels, VisualTokens * PatchPixels), cell, colour, random);
                bool wrong = random.NextDouble() < WrongWords;
                int said = wrong ? (colour + 1 + random.Next(Colours - 1)) % Colours : colour;
                prompt[i * (Cells + 1) + cell] = FirstCaption + said;
                seen += colour == asked ? 1 : 0;
                if (cell % 2 == 1) answers[i * Steps + cell / 2] = cell / 2 * CountWords + seen;
            }

            prompt[i * (Cells + 1) + Cells] = FirstQuestion + asked;
        }

        return new(
            tensor(patches, [count, VisualTokens, PatchPixels]), tensor(prompt, [count, Cells + 1]), tensor(answers, [count, Steps]));
    }

    // A square, a disc or a diamond on a dark ground, in 8 × 8 pixels.
    private static void Paint(Span<float> patches, int cell, int colour, Random random)
    {
        int shape = random.Next(Shapes);
        for (int y = 0; y < CellPixels; y++)
        {
            for (int x = 0; x < CellPixels; x++)
            {
                double dy = Math.Abs(y - 3.5), dx = Math.Abs(x - 3.5);
                bool inside = shape switch { 0 => Math.Max(dx, dy) < 3, 1 => dx * dx + dy * dy < 12, _ => dx + dy < 4.5 };
                int pixel = cell * PatchPixels + (y * CellPixels + x) * 3;
                for (int channel = 0; channel < 3; channel++)
                {
                    patches[pixel + channel] =
                        (inside ? Palette[colour, channel] : 0) - 0.4f + (float)(Noise * (2 * random.NextDouble() - 1));
                }
            }
        }
    }
}
