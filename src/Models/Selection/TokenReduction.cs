using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Fewer tokens in place of a batch's: a <see cref="TokenPlan"/> keeps some of them, a <see cref="TokenMerging"/> forms means. It applies
/// to any tensor with a row for each of the tokens that it was made for.
/// </summary>
/// <remarks>
/// <para>Two layouts, by what it was made from. Padded: [B, L, …], a dimension for images and one for tokens; the result is [B, K, …],
/// K being the most that any image has then, and rows behind an image's tokens are 0. Ragged: [N, …], images one after the other; the
/// result is [K, …], K being the number of all.</para>
/// <para>Results join the caller's dispose scope. What the reduction itself keeps does not: dispose it when it is no longer needed, and the
/// graphs of its results live on. Not thread-safe.</para>
/// </remarks>
public abstract class TokenReduction : IDisposable
{
    private readonly List<Tensor> _owned = [];
    private bool _disposed;

    private protected TokenReduction(TokenLayout layout, IReadOnlyList<int> counts) => (Layout, Counts) = (layout, counts);

    /// <summary>Whether there is a dimension for images; otherwise they lie one after the other.</summary>
    public bool IsPadded => Layout.IsPadded;

    /// <summary>How many images there are.</summary>
    public int Images => Layout.Images;

    /// <summary>How many tokens each image has left.</summary>
    public IReadOnlyList<int> Counts { get; }

    /// <summary>Places along the tokens' dimension of a result: the most of an image where padded, else all together.</summary>
    public long Length => IsPadded ? Counts.DefaultIfEmpty().Max() : Counts.Sum(count => (long)count);

    internal TokenLayout Layout { get; }

    /// <summary>Reduces the rows of a tensor. Differentiable, once.</summary>
    /// <param name="tokens">[B, L, …] or [N, …], as the reduction was made for; on the CPU.</param>
    /// <returns>[B, K, …] or [K, …].</returns>
    /// <exception cref="ArgumentException">It has other images or tokens.</exception>
    /// <exception cref="ObjectDisposedException">The tensor or the reduction was disposed.</exception>
    public abstract Tensor Apply(Tensor tokens);

    /// <summary>How many tokens each of those left stands for: what proportional attention adds the logarithm of to its logits.</summary>
    /// <param name="before">float32 [B, L] or [N]: the same of the tokens before; null where each stood for itself.</param>
    /// <returns>float32 [B, K] or [K]; 0 behind an image's tokens.</returns>
    /// <exception cref="ArgumentException">It has other images or tokens, or is not float32.</exception>
    /// <exception cref="ObjectDisposedException">The tensor or the reduction was disposed.</exception>
    public abstract Tensor Sizes(Tensor? before = null);

    /// <summary>
    /// Which keys a query may see after the reduction, as <c>scaled_dot_product_attention</c> takes it: true where it may.
    /// </summary>
    /// <param name="causal">Whether only tokens before it, and itself.</param>
    /// <returns>
    /// bool [B, 1, 1, K], with <paramref name="causal"/> [B, 1, K, K]; ragged [K, K], where images do not see each other.
    /// </returns>
    /// <exception cref="ObjectDisposedException">The reduction was disposed.</exception>
    public Tensor Mask(bool causal = false)
    {
        RequireLive();
        using var scope = torch.NewDisposeScope();
        var counts = torch.tensor(Counts.ToArray(), dtype: torch.ScalarType.Int64);
        Tensor mask;
        if (IsPadded)
        {
            mask = torch.arange(Length).unsqueeze(0).lt(counts.unsqueeze(1)).view(Images, 1, 1, Length);
        }
        else
        {
            var image = torch.arange(Images, dtype: torch.ScalarType.Int64).repeat_interleave(counts);
            mask = image.unsqueeze(0).eq(image.unsqueeze(1));
        }

        if (causal)
            mask = mask.logical_and(torch.ones([Length, Length], torch.@bool).tril());
        return mask.MoveToOuterDisposeScope();
    }

    /// <summary>Frees what the reduction keeps.</summary>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <inheritdoc cref="Dispose()"/>
    /// <param name="disposing">Whether it is not a finaliser that calls.</param>
    protected virtual void Dispose(bool disposing)
    {
        if (!disposing)
            return;
        _disposed = true;
        foreach (var tensor in _owned)
            tensor.Dispose();
        _owned.Clear();
    }

    /// <summary>Takes a tensor out of the caller's dispose scope, to be freed with this.</summary>
    private protected Tensor Own(Tensor tensor)
    {
        tensor = tensor.DetachFromDisposeScope();
        _owned.Add(tensor);
        return tensor;
    }

    private protected void RequireLive() => ObjectDisposedException.ThrowIf(_disposed, this);
}
