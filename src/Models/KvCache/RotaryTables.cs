using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Cosines and sines of rows at some positions, for a rotary embedding by halves (Su et al. 2021, arXiv 2104.09864). Angles are formed in
/// double: in float32 those of position 100,000 would be off by several thousandths.
/// </summary>
internal sealed class RotaryTables
{
    private readonly RotaryOptions _rotary;
    private readonly int _headDim, _rotated;
    private readonly Tensor _positions; // [B, L]
    private readonly Tensor _cosines, _sines; // [B, 1, L, r / 2]

    /// <summary>Tables. They belong to the caller's dispose scope.</summary>
    /// <param name="rotary">Checked options.</param>
    /// <param name="headDim">d.</param>
    /// <param name="positions">int64 [B, L].</param>
    public RotaryTables(RotaryOptions rotary, int headDim, Tensor positions)
    {
        (_rotary, _headDim, _rotated, _positions) = (rotary, headDim, rotary.Check(headDim), positions);
        using var scope = torch.NewDisposeScope();
        var frequencies = torch.tensor(rotary.FrequenciesOf(_rotated), torch.float64);
        var angles = (positions.to(torch.float64).unsqueeze(-1) * frequencies).unsqueeze(1);
        _cosines = angles.cos().to(torch.float32).MoveToOuterDisposeScope();
        _sines = angles.sin().to(torch.float32).MoveToOuterDisposeScope();
    }

    /// <summary>Tables for rows that stand at the positions before these, and for these.</summary>
    /// <param name="rows">n: how many in all.</param>
    /// <exception cref="ArgumentException">There are not so many positions before the first row.</exception>
    public RotaryTables WithPast(long rows)
    {
        using var scope = torch.NewDisposeScope();
        var past = rows - _positions.shape[1];
        var first = _positions.narrow(1, 0, 1);
        var least = first.min().item<long>();
        if (least < past)
            throw new ArgumentException($"keys: {past} rows do not fit before position {least}", nameof(rows));
        var positions = torch.cat([first + torch.arange(-past, 0, torch.int64), _positions], 1).MoveToOuterDisposeScope();
        var tables = new RotaryTables(_rotary, _headDim, positions);
        tables._cosines.MoveToOuterDisposeScope();
        tables._sines.MoveToOuterDisposeScope();
        return tables;
    }

    /// <summary>Rotates float32 [B, H, L, d].</summary>
    public Tensor Rotate(Tensor heads)
    {
        using var scope = torch.NewDisposeScope();
        var (half, depth) = (_rotated / 2, heads.shape[3]);
        var (first, second) = (heads.narrow(3, 0, half), heads.narrow(3, half, half));
        var parts = new List<Tensor> { first * _cosines - second * _sines, second * _cosines + first * _sines };
        if (depth > _rotated)
            parts.Add(heads.narrow(3, _rotated, depth - _rotated));
        return torch.cat(parts, 3).MoveToOuterDisposeScope();
    }
}
