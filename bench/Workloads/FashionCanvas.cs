using AuxCore.Bench.Data;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>What is asked about a <see cref="FashionCanvas"/>.</summary>
internal enum CanvasQuestion
{
    /// <summary>What is in a cell: one of ten classes. A ninth of the image matters.</summary>
    What,

    /// <summary>How many items there are: every cell matters.</summary>
    HowMany,
}

/// <summary>
/// Canvases of 3 × 3 cells, each empty or with an item of Fashion-MNIST in half its size, and questions about them in two tokens, behind
/// the second of which the answer is wanted. Patches are 7 × 7, four to a cell, row by row over the canvas.
/// </summary>
internal sealed class FashionCanvas : IDisposable
{
    public const int Cells = 3, Side = 6, VisualTokens = Side * Side, PatchPixels = 49, QuestionTokens = 2;

    private const int What = 0, HowMany = 1, Everywhere = 2, FirstCell = 3, FirstClass = FirstCell + Cells * Cells,
        FirstCount = FirstClass + Classes;

    private const int Classes = 10, PerCanvas = Cells * Cells;
    private const double Occupied = 0.6;

    private readonly Tensor _items; // [n, 4, 49]
    private readonly byte[] _labels;

    /// <param name="images">28 × 28, of ten classes.</param>
    public FashionCanvas(LabelledImages images)
    {
        using var scope = NewDisposeScope();
        Tensor pixels = ((tensor(images.Images, ScalarType.Float32) / 255 - 0.286) / 0.353).view(-1, 1, 28, 28);
        // [n, 2 patches, 7, 2 patches, 7] to patches.
        _items = nn.functional.avg_pool2d(pixels, 2).view(-1, 2, 7, 2, 7).permute(0, 1, 3, 2, 4).reshape(-1, 4, PatchPixels)
            .DetachFromDisposeScope();
        _labels = images.Labels;
    }

    /// <summary>How many tokens there are: words, cells, classes, counts.</summary>
    public static int Vocabulary => FirstCount + Cells * Cells + 1;

    /// <summary>Canvases with questions, in the caller's dispose scope.</summary>
    /// <param name="count">How many canvases.</param>
    /// <param name="questions">How many questions about each.</param>
    /// <param name="random">Decides all.</param>
    /// <param name="kind">What is asked; null: three times in four what there is, else how many.</param>
    /// <returns>Patches [count, 36, 49], questions [count, 2 · questions] and answers [count, questions], int64.</returns>
    public (Tensor Patches, Tensor Questions, Tensor Answers) Draw(int count, int questions, Random random, CanvasQuestion? kind = null)
    {
        using var scope = NewDisposeScope();
        var items = new long[count * PerCanvas];
        var filled = new float[items.Length];
        long[] words = new long[count * questions * QuestionTokens], answers = new long[count * questions];
        for (int i = 0; i < count; i++)
        {
            for (int cell = i * PerCanvas; cell < (i + 1) * PerCanvas; cell++)
                (items[cell], filled[cell]) = (random.NextInt64(_labels.Length), random.NextDouble() < Occupied ? 1 : 0);
            filled[i * PerCanvas + random.Next(PerCanvas)] = 1; // there is something to name
            int[] classes =
                [.. Enumerable.Range(i * PerCanvas, PerCanvas).Select(cell => filled[cell] > 0 ? _labels[items[cell]] : -1)];
            for (int q = i * questions; q < (i + 1) * questions; q++)
                (words[2 * q], words[2 * q + 1], answers[q]) =
                    Ask(kind ?? (random.Next(4) > 0 ? CanvasQuestion.What : CanvasQuestion.HowMany), classes, random);
        }

        Tensor mask = tensor(filled).view(-1, 1, 1);
        Tensor patches = _items.index_select(0, tensor(items)) * mask + _items.min() * (1 - mask); // the least is the background
        // [count, cell row, cell column, patch row, patch column, pixels] to rows of patches over the canvas.
        patches = patches.view(count, Cells, Cells, 2, 2, PatchPixels).permute(0, 1, 3, 2, 4, 5).reshape(count, VisualTokens, PatchPixels);
        return (
            patches.MoveToOuterDisposeScope(), tensor(words, [count, questions * QuestionTokens]).MoveToOuterDisposeScope(),
            tensor(answers, [count, questions]).MoveToOuterDisposeScope());
    }

    public void Dispose() => _items.Dispose();

    // Two words and the answer.
    private static (int First, int Second, int Answer) Ask(CanvasQuestion kind, int[] classes, Random random)
    {
        int[] occupied = [.. Enumerable.Range(0, PerCanvas).Where(cell => classes[cell] >= 0)];
        if (kind == CanvasQuestion.HowMany) return (HowMany, Everywhere, FirstCount + occupied.Length);
        int cell = occupied[random.Next(occupied.Length)];
        return (What, FirstCell + cell, FirstClass + classes[cell]);
    }
}
