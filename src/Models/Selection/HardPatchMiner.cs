using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Chooses the patches that a masked autoencoder does not see: some of the hardest, as a loss predictor tells them, and the rest at random
/// from all others (Hard Patches Mining, Wang et al., CVPR 2023, arXiv 2304.05919). Selections are <see cref="TokenPlan"/>s.
/// </summary>
/// <remarks>
/// Of L patches, M = ⌊ratio · L + ½⌋ are hidden, of which ⌊share · M⌋ are the hardest: those of greatest predicted loss, of equal ones the
/// first. A NaN is below all numbers. The random numbers are a function of the seed, and as many are drawn whatever the share, so that
/// masks of different shares differ in nothing else. Not thread-safe.
/// </remarks>
public sealed class HardPatchMiner : IDisposable
{
    private readonly torch.Generator _generator;
    private bool _disposed;

    /// <summary>A miner.</summary>
    /// <param name="maskRatio">M / L, within (0, 1); 0.75 in the paper.</param>
    /// <param name="seed">Of the random part; libtorch's own generator is left alone.</param>
    /// <exception cref="ArgumentOutOfRangeException">The ratio is out of its range.</exception>
    public HardPatchMiner(double maskRatio = 0.75, int seed = 0)
    {
        if (!(maskRatio is > 0 and < 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(maskRatio), maskRatio, "A mask ratio lies within (0, 1).");
        MaskRatio = maskRatio;
        _generator = new torch.Generator((uint)seed, torch.CPU);
    }

    /// <summary>M / L.</summary>
    public double MaskRatio { get; }

    /// <summary>
    /// The share of the hidden patches that are the hardest, from easy to hard: α_t = most · (t + 1) / epochs in epoch t.
    /// </summary>
    /// <param name="epoch">t, from 0.</param>
    /// <param name="epochs">Of the whole training.</param>
    /// <param name="most">The share in the last epoch, within [0, 1]; 0.5 in the paper.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number is out of its range.</exception>
    public static double HardShareAt(int epoch, int epochs, double most = 0.5)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(epochs, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(epoch);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(epoch, epochs);
        RequireShare(most, nameof(most));
        return most * (epoch + 1) / epochs;
    }

    /// <summary>A mask with some of the hardest patches and random ones.</summary>
    /// <param name="predictedLosses">[n, L], float32; no gradient goes there. Only their order within an image counts.</param>
    /// <param name="hardShare">α_t, within [0, 1].</param>
    /// <returns>A mask that is the caller's to dispose.</returns>
    /// <exception cref="ArgumentException">The tensor does not fit, or the ratio hides none or all of so few patches.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The share is out of its range.</exception>
    /// <exception cref="ObjectDisposedException">The tensor, or the miner, was disposed.</exception>
    public PatchMask Mask(Tensor predictedLosses, double hardShare)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Batches.Require(predictedLosses, nameof(predictedLosses));
        if (predictedLosses.dtype != torch.ScalarType.Float32 || predictedLosses.shape.Length != 2 || predictedLosses.shape[0] < 1)
        {
            throw new ArgumentException(
                $"predictedLosses: {Batches.Describe(predictedLosses)} is not Float32[n, patches] of at least one image",
                nameof(predictedLosses));
        }

        RequireShare(hardShare, nameof(hardShare));
        var (images, patches) = (predictedLosses.shape[0], predictedLosses.shape[1]);
        var hard = (int)(hardShare * HiddenOf(patches));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        if (hard == 0)
            return Random(images, patches, predictedLosses.device);
        using var hardest = TokenPlan.Select(predictedLosses, Budget.Count(hard));
        return Complete(Noise(images, patches, predictedLosses.device), hard, hardest.Keep());
    }

    /// <summary>A mask of random patches alone.</summary>
    /// <param name="images">n, at least 1.</param>
    /// <param name="patches">L.</param>
    /// <param name="device">Where the mask is; null for the CPU.</param>
    /// <returns>A mask that is the caller's to dispose.</returns>
    /// <exception cref="ArgumentException">A number is below 1, or the ratio hides none or all of so few patches.</exception>
    /// <exception cref="ObjectDisposedException">The miner was disposed.</exception>
    public PatchMask Random(long images, long patches, torch.Device? device = null)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Sizes.RequirePositive((nameof(images), images), (nameof(patches), patches));
        HiddenOf(patches);
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        return Complete(Noise(images, patches, device ?? torch.CPU), 0, null);
    }

    /// <summary>M of L patches.</summary>
    /// <exception cref="ArgumentException">It is none of them, or all.</exception>
    public int HiddenOf(long patches)
    {
        var hidden = (long)Math.Floor(MaskRatio * patches + 0.5);
        return hidden >= 1 && hidden < patches
            ? (int)hidden
            : throw new ArgumentException(
                $"patches: a mask ratio of {MaskRatio} hides {Math.Max(0, hidden)} of {patches}; one has to be hidden and one to be seen",
                nameof(patches));
    }

    /// <summary>Frees the generator.</summary>
    public void Dispose()
    {
        _disposed = true;
        _generator.Dispose();
    }

    private Tensor Noise(long images, long patches, torch.Device device) =>
        torch.rand([images, patches], generator: _generator).to(device);

    // The hardest are kept whatever their noise, and count towards M. What is not hidden is visible.
    private PatchMask Complete(Tensor noise, int hard, Tensor? hardest)
    {
        var patches = noise.shape[1];
        var hiddenCount = HiddenOf(patches);
        var hidden = TokenPlan.Select(noise, Budget.Count(hiddenCount), always: hardest);
        var visible = TokenPlan.Select(hidden.Keep().logical_not().to(torch.float32), Budget.Count((int)patches - hiddenCount));
        return new(visible, hidden, hard);
    }

    private static void RequireShare(double share, string name)
    {
        if (!(share is >= 0 and <= 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(name, share, "A share lies within [0, 1].");
    }
}
