using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>Which pass of a <see cref="CausalDecoder"/> a hook sees.</summary>
public enum DecoderPhase
{
    /// <summary>All tokens at once, without a cache; differentiable.</summary>
    Forward,

    /// <summary>Rows that go into a cache.</summary>
    Prefill,

    /// <summary>One token of each sequence, which attends to a cache.</summary>
    Decode,
}

/// <summary>
/// What one attention layer has projected from its rows. Tensors live until the hook returns; keep a copy, or detach one from the dispose
/// scope.
/// </summary>
/// <param name="Layer">Which layer.</param>
/// <param name="Keys">float32 [B, Hkv, L, d], before the key norm and the rotary embedding.</param>
/// <param name="Values">float32 [B, Hkv, L, d].</param>
/// <param name="Rows">The rows that the layer got: positions and lengths.</param>
public sealed record LayerProjection(int Layer, Tensor Keys, Tensor Values, DecoderRows Rows);

/// <summary>
/// What one attention layer read and wrote. Tensors live until the hook returns; keep a copy, or detach one from the dispose scope.
/// </summary>
/// <param name="Layer">Which layer.</param>
/// <param name="Phase">Which pass.</param>
/// <param name="UnrotatedQueries">float32 [B, Hq, L, d], after the query norm and before the rotary embedding.</param>
/// <param name="Queries">float32 [B, Hq, L, d], rotated.</param>
/// <param name="UnrotatedKeys">float32 [B, Hkv, L, d], after the key norm and before the rotary embedding.</param>
/// <param name="Keys">float32 [B, Hkv, L, d], rotated: those of these L rows, not those that the cache held before.</param>
/// <param name="Values">float32 [B, Hkv, L, d].</param>
/// <param name="Rows">The rows that the layer got: positions and lengths.</param>
/// <param name="Cache">Where keys and values are now stored; null without a cache.</param>
public sealed record LayerAttention(
    int Layer, DecoderPhase Phase, Tensor UnrotatedQueries, Tensor Queries, Tensor UnrotatedKeys, Tensor Keys, Tensor Values,
    DecoderRows Rows, KvCache? Cache);

/// <summary>
/// Follows a <see cref="CausalDecoder"/> through its layers: reads what attention reads, and may drop rows between layers, as pruning of
/// visual tokens does. Overrides do what they want and leave the rest. Add one by <see cref="CausalDecoder.AddHook"/>.
/// </summary>
/// <remarks>An exception of a hook ends the pass; keys and values that the pass appended are taken out of the cache again.</remarks>
public abstract class DecoderHook
{
    /// <summary>Whether <see cref="AfterAttention"/> wants to be called in such a pass. Where no hook does, a step is faster.</summary>
    /// <param name="phase">Which pass.</param>
    public virtual bool ReadsAttention(DecoderPhase phase) => true;

    /// <summary>
    /// Called in the forward pass, when a layer has projected its rows, before the key norm. Other keys and values may take their place, of
    /// n ≥ L rows: the first n − L stand at the positions before those of the rows, and all rows see them.
    /// </summary>
    /// <param name="projection">What the layer has projected.</param>
    /// <returns>float32 [B, Hkv, n, d] each: what the layer attends to, through whose graph gradients flow.</returns>
    public virtual (Tensor Keys, Tensor Values) BeforeAttention(LayerProjection projection)
    {
        ArgumentNullException.ThrowIfNull(projection);
        return (projection.Keys, projection.Values);
    }

    /// <summary>Called when a layer has attended, and its keys and values are in the cache.</summary>
    /// <param name="attention">What it read and wrote.</param>
    public virtual void AfterAttention(LayerAttention attention)
    {
    }

    /// <summary>
    /// Called after each layer. The rows that it returns are what the next layer gets; fewer rows make its cache shorter.
    /// </summary>
    /// <param name="layer">Which layer.</param>
    /// <param name="phase">Which pass.</param>
    /// <param name="rows">What the layer made.</param>
    /// <returns>The same rows, or some of each sequence's in their order, with their positions. At least one of each.</returns>
    public virtual DecoderRows AfterLayer(int layer, DecoderPhase phase, DecoderRows rows) => rows;

    /// <summary>Called when a pass is through, with its cache; not where it failed.</summary>
    /// <param name="phase">Which pass.</param>
    /// <param name="cache">The cache; null without one.</param>
    public virtual void AfterPass(DecoderPhase phase, KvCache? cache)
    {
    }
}
