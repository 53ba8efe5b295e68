using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>How an image's tokens are averaged before the decoder reads them again, by <see cref="TokenPool"/>.</summary>
/// <remarks>
/// Sun et al. (2025, arXiv 2503.13360) say "4 × 4 average pooling". That may be a window, which leaves a sixteenth, or the size of what is
/// left; their ablation reads like a window. Both are here, and the window is the default.
/// </remarks>
public sealed record VisualPooling
{
    private readonly Func<int, int, PoolGrid>? _grid;

    private VisualPooling(string name, Func<int, int, PoolGrid>? grid) => (Name, _grid) = (name, grid);

    /// <summary>What it does, for reports.</summary>
    public string Name { get; }

    /// <summary>All tokens as they are.</summary>
    public static VisualPooling None { get; } = new("no pooling", null);

    /// <summary>Means of windows; those at the lower and right edge have what is there.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public static VisualPooling PoolWindow(int height, int width)
    {
        Sizes.RequirePositive((nameof(height), height), (nameof(width), width));
        return new($"windows of {height} x {width}", (rows, columns) => PoolGrid.Window(rows, columns, height, width));
    }

    /// <summary>So many means, whatever the image's size; it has at least as many tokens along each side.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public static VisualPooling PoolToGrid(int rows, int columns)
    {
        Sizes.RequirePositive((nameof(rows), rows), (nameof(columns), columns));
        return new($"to a grid of {rows} x {columns}", (height, width) => PoolGrid.ToGrid(height, width, rows, columns));
    }

    /// <summary>How many tokens an image has left.</summary>
    /// <param name="height">Rows of its tokens.</param>
    /// <param name="width">Tokens of a row.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1, or fewer than the grid's.</exception>
    public int Count(int height, int width)
    {
        Sizes.RequirePositive((nameof(height), height), (nameof(width), width));
        return _grid?.Invoke(height, width).Cells ?? height * width;
    }

    /// <summary>Averages the tokens of images. Differentiable, once.</summary>
    /// <param name="visual">float32 [B, height · width, D], on the CPU.</param>
    /// <param name="height">Rows of an image's tokens.</param>
    /// <param name="width">Tokens of a row.</param>
    /// <returns>float32 [B, count, D].</returns>
    /// <exception cref="ArgumentException">The tensor is of another shape or dtype.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1, or fewer than the grid's.</exception>
    public Tensor Apply(Tensor visual, int height, int width)
    {
        Batches.Require(visual, nameof(visual));
        _ = Count(height, width);
        if (visual.dtype != torch.ScalarType.Float32 || visual.shape.Length != 3 || visual.shape[1] != (long)height * width)
        {
            throw new ArgumentException(
                $"visual: {Batches.Describe(visual)} is not Float32[B, {(long)height * width}, D], {height} rows of {width} tokens",
                nameof(visual));
        }

        if (_grid is null)
            return visual.alias();
        AuxRuntime.ThrowIfFailed();
        var (grid, shape) = (_grid(height, width), visual.shape);
        using var scope = torch.NewDisposeScope();
        Tensor pooled;
        using (torch.no_grad())
        {
            pooled = torch.empty([shape[0], grid.Cells, shape[2]]);
            TokenPool.Run(visual.contiguous().ToTensorView(nameof(visual)), grid, pooled.ToTensorView());
        }

        return KernelFunction.Attach(visual, pooled, (_, gradient) =>
        {
            var spread = torch.empty(shape);
            TokenPool.Backward(gradient.ToTensorView(), grid, spread.ToTensorView());
            return spread;
        }).MoveToOuterDisposeScope();
    }
}
