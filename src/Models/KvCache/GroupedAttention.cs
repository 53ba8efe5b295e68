using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Causal attention of many rows with grouped-query heads, by libtorch's fused attention. Query heads that share keys and values are views
/// into the query, one call each, so that no key or value is repeated in memory (Ainslie et al. 2023, arXiv 2305.13245).
/// </summary>
internal static class GroupedAttention
{
    /// <summary>Rows that attend to themselves and what is before them; of n keys the first n − L are before all rows.</summary>
    /// <param name="queries">float32 [B, Hq, L, d].</param>
    /// <param name="keys">float32 [B, Hkv, n, d].</param>
    /// <param name="values">float32 [B, Hkv, n, d].</param>
    /// <param name="keyMask">bool [B, L], or null: which rows others may see.</param>
    /// <returns>[B, Hq, L, d].</returns>
    public static Tensor Causal(Tensor queries, Tensor keys, Tensor values, Tensor? keyMask)
    {
        using var scope = torch.NewDisposeScope();
        var past = keys.shape[2] - queries.shape[2];
        return ByGroup(queries, keys, values, keyMask is null && past == 0 ? null : Mask(queries.shape[2], past, keyMask))
            .MoveToOuterDisposeScope();
    }

    /// <summary>Rows that attend to what a cache holds, to themselves and to what is before them.</summary>
    /// <param name="queries">float32 [B, Hq, L, d].</param>
    /// <param name="keys">float32 [B, Hkv, L, d] of the new rows.</param>
    /// <param name="values">float32 [B, Hkv, L, d] of the new rows.</param>
    /// <param name="past">What the cache held before.</param>
    public static Tensor AfterCache(Tensor queries, Tensor keys, Tensor values, KvTensors past)
    {
        using var scope = torch.NewDisposeScope();
        var (batch, heads, filled) = (keys.shape[0], keys.shape[1], past.Keys.shape[2]);
        var rows = keys.shape[2];
        var lengths = torch.tensor(past.Lengths, torch.int64).view(batch, heads, 1, 1);
        var stored = (torch.arange(filled, torch.int64).view(1, 1, 1, filled) < lengths).expand(batch, heads, rows, filled);
        var fresh = torch.ones(rows, rows, torch.@bool).tril().view(1, 1, rows, rows).expand(batch, heads, rows, rows);
        return ByGroup(
            queries, torch.cat([past.Keys, keys], 2), torch.cat([past.Values, values], 2), torch.cat([stored, fresh], 3))
            .MoveToOuterDisposeScope();
    }

    // Without a mask, it is causal. libtorch aligns its own causal mask top-left, which is right only for as many keys as queries.
    private static Tensor ByGroup(Tensor queries, Tensor keys, Tensor values, Tensor? mask)
    {
        var (batch, queryHeads, rows, depth) = (queries.shape[0], queries.shape[1], queries.shape[2], queries.shape[3]);
        var kvHeads = keys.shape[1];
        var group = queryHeads / kvHeads;
        if (group == 1)
            return Attend(queries);
        var grouped = queries.view(batch, kvHeads, group, rows, depth);
        var outputs = Enumerable.Range(0, (int)group).Select(g => Attend(grouped.select(2, g)));
        return torch.stack(outputs.ToArray(), 2).view(batch, queryHeads, rows, depth);

        Tensor Attend(Tensor q) => functional.scaled_dot_product_attention(q, keys, values, attn_mask: mask, is_casual: mask is null);
    }

    private static Tensor Mask(long rows, long past, Tensor? keyMask)
    {
        var causal = torch.ones(rows, past + rows, torch.@bool).tril(past);
        if (keyMask is null)
            return causal;
        var own = causal.narrow(1, past, rows).logical_and(keyMask.view(keyMask.shape[0], 1, 1, rows))
            .logical_or(torch.eye(rows, dtype: torch.@bool)); // padding sees itself: softmax of nothing would be NaN
        return past == 0 ? own : torch.cat([torch.ones_like(own.narrow(3, 0, 1)).expand(-1, -1, -1, past), own], 3);
    }
}
