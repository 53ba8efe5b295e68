using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A baseline for other policies: the means of a grid's cells take the place of its tokens (<see cref="TokenPool"/>), whatever they show.
/// </summary>
/// <param name="grid">Which tokens become one; its tokens are all visual tokens of an image, row by row.</param>
/// <exception cref="ArgumentException">The grid is a default value.</exception>
public sealed class PoolingPolicy(PoolGrid grid) : TokenPolicy
{
    private readonly PoolGrid _grid = grid.Cells > 0
        ? grid
        : throw new ArgumentException("grid: a default value; make one by PoolGrid.Window or ToGrid", nameof(grid));

    /// <inheritdoc/>
    /// <remarks>Only where all tokens of the grid are there.</remarks>
    protected override TokenReduction Decide(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        if (layer.VisualTokens != _grid.Tokens || layer.Lengths is { } lengths && lengths.Any(length => length != layer.Length))
        {
            throw new ArgumentException(
                $"Hidden: {layer.VisualTokens} visual tokens are not the grid of {_grid.Height} x {_grid.Width}", nameof(layer));
        }

        return new PooledTokens(_grid, layer.Images, layer.Protected, layer.Backend);
    }

    private sealed class PooledTokens(PoolGrid grid, int images, int first, AuxBackend backend) : TokenReduction(
        TokenLayout.Padded(images, first + grid.Tokens), [.. Enumerable.Repeat(first + grid.Cells, images)])
    {
        public override Tensor Apply(Tensor tokens)
        {
            AuxRuntime.ThrowIfFailed();
            RequireLive();
            Layout.Require(tokens, 1, 0, nameof(tokens), "pooling");
            using var scope = torch.NewDisposeScope();
            var rows = tokens.shape.Length == 2 ? tokens.unsqueeze(2) : tokens.flatten(2);
            var pooled = Pool(rows.narrow(1, first, grid.Tokens).contiguous());
            long[] shape = [images, Length, .. tokens.shape[2..]];
            return torch.cat([rows.narrow(1, 0, first), pooled], 1).view(shape).MoveToOuterDisposeScope();
        }

        public override Tensor Sizes(Tensor? before = null)
        {
            TokenMerging.RequireSizes(before, Layout, nameof(before));
            using var scope = torch.NewDisposeScope();
            var cells = torch.ones(Length);
            for (var cell = 0; cell < grid.Cells; cell++)
            {
                var (rows, columns) = (grid.RowsOf(cell / grid.Columns), grid.ColumnsOf(cell % grid.Columns));
                cells[first + cell] = (float)((rows.To - rows.From) * (columns.To - columns.From));
            }

            return (Apply(before ?? torch.ones(Layout.Shape)) * cells).MoveToOuterDisposeScope();
        }

        private Tensor Pool(Tensor visual)
        {
            long[] shape = visual.shape;
            var pooled = torch.empty([images, grid.Cells, shape[2]], dtype: visual.dtype, device: visual.device);
            using (torch.no_grad())
                TokenPool.Run(visual.ToTensorView("tokens"), grid, pooled.ToTensorView(), backend);
            var (pooling, on) = (grid, backend);
            return KernelFunction.Attach(visual, pooled, (_, gradient) =>
            {
                var spread = torch.empty(shape, dtype: gradient.dtype, device: gradient.device);
                TokenPool.Backward(gradient.ToTensorView(), pooling, spread.ToTensorView(), on);
                return spread;
            });
        }
    }
}
