using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Which patches of each image of a batch are hidden: as many of every image. <see cref="HardPatchMiner"/> makes them. In no dispose scope;
/// it lives until it is disposed.
/// </summary>
public sealed class PatchMask : IDisposable
{
    internal PatchMask(Tensor visible, Tensor hidden, int hard, long patches) =>
        (Visible, Hidden, HardCount, Patches) = (visible.DetachFromDisposeScope(), hidden.DetachFromDisposeScope(), hard, patches);

    /// <summary>int64 [n, visible patches], ascending within each image.</summary>
    public Tensor Visible { get; }

    /// <summary>int64 [n, hidden patches], ascending within each image.</summary>
    public Tensor Hidden { get; }

    /// <summary>How many of the hidden patches of each image are its hardest; the others are random.</summary>
    public int HardCount { get; }

    /// <summary>L: visible and hidden patches of an image.</summary>
    public long Patches { get; }

    /// <summary>n: images.</summary>
    public long Images => Visible.shape[0];

    /// <summary>bool [n, L]: true where a patch is hidden.</summary>
    /// <exception cref="ObjectDisposedException">The mask was disposed.</exception>
    public Tensor ToTensor()
    {
        ObjectDisposedException.ThrowIf(Hidden.IsInvalid, this);
        using var scope = torch.NewDisposeScope();
        var none = torch.zeros([Images, Patches], torch.@bool, Hidden.device);
        return none.scatter(1, Hidden, torch.ones_like(Hidden, torch.@bool)).MoveToOuterDisposeScope();
    }

    /// <summary>Frees the indices.</summary>
    public void Dispose()
    {
        Visible.Dispose();
        Hidden.Dispose();
    }

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
