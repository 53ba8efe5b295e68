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
/// Canvases of 3 × 3 cells, each empty or with an item of Fashion-MNIST in half its size, and questions about them in three tokens. Patches
/// are 7 × 7, four to a cell, row by row over the canvas.
/// </summary>
internal sealed class FashionCanvas : IDisposable
{
    public const int Cells = 3, Side = 6, VisualTokens = Side * Side, PatchPixels = 49, QuestionTokens = 3;

    private const int What = 0, HowMany = 1, QuestionMark = 2, FirstCell = 3, Everywhere = FirstCell + Cells * Cells,
        FirstClass = Everywhere + 1, FirstCount = FirstClass + 10;

    private const double Occupied = 0.6;

    private readonly Tensor _items, _labels; // [n, 4, 49] and [n]

    /// <param name="images">28 × 28, of ten classes.</param>
    public FashionCanvas(LabelledImages images)
    {
        using var scope = NewDisposeScope();
        Tensor pixels = ((tensor(images.Images, ScalarType.Float32) / 255 - 0.286) / 0.353).view(-1, 1, 28, 28);
        // [n, 2 patches, 7, 2 patches, 7] to patches.
        _items = nn.functional.avg_pool2d(pixels, 2).view(-1, 2, 7, 2, 7).permute(0, 1, 3, 2, 4).reshape(-1, 4, PatchPixels)
            .DetachFromDisposeScope();
        _labels = tensor(images.Labels, ScalarType.Int64).DetachFromDisposeScope();
    }

    /// <summary>How many tokens there are: words, cells, classes, counts.</summary>
    public static int Vocabulary => FirstCount + Cells * Cells + 1;

    /// <summary>Canvases with a question each, in the caller's dispose scope.</summary>
    /// <param name="count">How many.</param>
    /// <param name="random">Decides all.</param>
    /// <param name="question">The question; null: each at random.</param>
    /// <returns>Patches [count, 36, 49], questions [count, 3] and answers [count], int64.</returns>
    public (Tensor Patches, Tensor Questions, Tensor Answers) Draw(int count, Random random, CanvasQuestion? question = null)
    {
        using var scope = NewDisposeScope();
        const int PerCanvas = Cells * Cells;
        var items = new long[count * PerCanvas];
        var filled = new float[count * PerCanvas];
        long[] questions = new long[count * QuestionTokens], cells = new long[count], counts = new long[count];
        var asksWhat = new bool[count];
        for (int i = 0; i < count; i++)
        {
            for (int cell = 0; cell < PerCanvas; cell++)
            {
                items[i * PerCanvas + cell] = random.NextInt64(_items.shape[0]);
                filled[i * PerCanvas + cell] = random.NextDouble() < Occupied ? 1 : 0;
            }

            cells[i] = random.Next(PerCanvas);
            asksWhat[i] = (question ?? (random.Next(4) < 3 ? CanvasQuestion.What : CanvasQuestion.HowMany)) == CanvasQuestion.What;
            if (asksWhat[i]) filled[i * PerCanvas + cells[i]] = 1; // there is something to name
            counts[i] = (long)filled.AsSpan(i * PerCanvas, PerCanvas).ToArray().Sum();
            (questions[i * QuestionTokens], questions[i * QuestionTokens + 1], questions[i * QuestionTokens + 2]) =
                (asksWhat[i] ? What : HowMany, asksWhat[i] ? FirstCell + cells[i] : Everywhere, QuestionMark);
        }

        Tensor chosen = tensor(items);
        Tensor empty = _items.min(); // the background of an item
        Tensor mask = tensor(filled).view(-1, 1, 1);
        Tensor patches = _items.index_select(0, chosen) * mask + empty * (1 - mask);
        // [count, cell row, cell column, patch row, patch column, pixels] to rows of patches over the canvas.
        patches = patches.view(count, Cells, Cells, 2, 2, PatchPixels).permute(0, 1, 3, 2, 4, 5).reshape(count, VisualTokens, PatchPixels);
        Tensor classes = _labels.index_select(0, chosen).view(count, PerCanvas).gather(1, tensor(cells).unsqueeze(1)).squeeze(1);
        Tensor answers = where(tensor(asksWhat), classes + FirstClass, tensor(counts) + FirstCount);
        return (
            patches.MoveToOuterDisposeScope(), tensor(questions, [count, QuestionTokens]).MoveToOuterDisposeScope(),
            answers.MoveToOuterDisposeScope());
    }

    public void Dispose()
    {
        _items.Dispose();
        _labels.Dispose();
    }
}
