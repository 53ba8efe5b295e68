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
    private readonly int _rotated;
    private readonly Tensor _cosines, _sines; // [B, 1, L, r / 2]

    /// <summary>Tables. They belong to the caller's dispose scope.</summary>
    /// <param name="rotary">Checked options.</param>
    /// <param name="headDim">d.</param>
    /// <param name="positions">int64 [B, L].</param>
    public RotaryTables(RotaryOptions rotary, int headDim, Tensor positions)
    {
        _rotated = rotary.Check(headDim);
        using var scope = torch.NewDisposeScope();
        var frequencies = torch.tensor(rotary.FrequenciesOf(_rotated), torch.float64);
        var angles = (positions.to(torch.float64).unsqueeze(-1) * frequencies).unsqueeze(1);
        _cosines = angles.cos().to(torch.float32).MoveToOuterDisposeScope();
        _sines = angles.sin().to(torch.float32).MoveToOuterDisposeScope();
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
