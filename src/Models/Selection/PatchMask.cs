using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Which patches of each image of a batch are hidden: as many of every image. <see cref="HardPatchMiner"/> makes them. In no dispose scope;
/// it lives until it is disposed.
/// </summary>
public sealed class PatchMask : IDisposable
{
    private readonly TokenPlan _visible, _hidden;

    internal PatchMask(TokenPlan visible, TokenPlan hidden, int hard)
    {
        using var scope = torch.NewDisposeScope();
        (_visible, _hidden, HardCount) = (visible, hidden, hard);
        (Visible, Hidden) = (visible.Positions().DetachFromDisposeScope(), hidden.Positions().DetachFromDisposeScope());
    }

    /// <summary>int64 [n, visible patches], ascending within each image.</summary>
    public Tensor Visible { get; }

    /// <summary>int64 [n, hidden patches], ascending within each image.</summary>
    public Tensor Hidden { get; }

    /// <summary>How many of the hidden patches of each image are its hardest; the others are random.</summary>
    public int HardCount { get; }

    /// <summary>L: visible and hidden patches of an image.</summary>
    public long Patches => Visible.shape[1] + Hidden.shape[1];

    /// <summary>n: images.</summary>
    public long Images => Visible.shape[0];

    /// <summary>bool [n, L]: true where a patch is hidden.</summary>
    /// <exception cref="ObjectDisposedException">The mask was disposed.</exception>
    public Tensor ToTensor()
    {
        ObjectDisposedException.ThrowIf(Hidden.IsInvalid, this);
        return _hidden.Keep();
    }

    /// <summary>Frees the indices.</summary>
    public void Dispose()
    {
        _visible.Dispose();
        _hidden.Dispose();
        Visible.Dispose();
        Hidden.Dispose();
    }

    /// <summary>The rows of the visible patches, [n, L, …] to [n, visible patches, …]. Differentiable.</summary>
    internal Tensor KeepVisible(Tensor rows) => _visible.Apply(rows);

    /// <summary>The rows of the hidden patches.</summary>
    internal Tensor KeepHidden(Tensor rows) => _hidden.Apply(rows);

    internal void Require(Tensor images, long patches, string name)
    {
        ObjectDisposedException.ThrowIf(Hidden.IsInvalid, this);
        if (Images != images.shape[0] || Patches != patches)
        {
            throw new ArgumentException(
                $"{name}: it is of {Images} images of {Patches} patches, not of {images.shape[0]} of {patches}", name);
        }
    }
}
