using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

public sealed partial class CausalDecoder
{
    /// <summary>A cache for this model, whose memory is reserved at once.</summary>
    /// <param name="capacity">For how many tokens of a sequence there is room.</param>
    /// <param name="format">How keys and values are stored.</param>
    /// <param name="batch">How many sequences.</param>
    /// <exception cref="ArgumentException">A size is below 1, or heads are not a multiple of the format's groups.</exception>
    public KvCache CreateCache(int capacity, KvFormat format = KvFormat.F32, int batch = 1) =>
        new ContiguousKvCache(Layout(capacity, format, format, batch));

    /// <summary>A cache for this model in pages of a pool, which sequences and forks share.</summary>
    /// <param name="pool">Its formats are the cache's.</param>
    /// <param name="capacity">How many tokens of a sequence there may be.</param>
    /// <param name="batch">How many sequences.</param>
    /// <exception cref="ArgumentException">A size is below 1, or the pool's pages are of other heads.</exception>
    public KvCache CreateCache(KvPagePool pool, int capacity, int batch = 1)
    {
        ArgumentNullException.ThrowIfNull(pool);
        return new PagedKvCache(pool, Layout(capacity, pool.Keys, pool.Values, batch));
    }

    /// <summary>What a cache for this model holds.</summary>
    /// <param name="capacity">For how many tokens of a sequence there is room.</param>
    /// <param name="keys">How keys are stored.</param>
    /// <param name="values">How values are stored.</param>
    /// <param name="batch">How many sequences.</param>
    public KvLayout Layout(int capacity, KvFormat keys, KvFormat values, int batch = 1) =>
        new([.. Options.Layers.Select(layer => new KvLayer(layer.KvHeads, Options.HeadDim))], batch, capacity, keys, values);

    /// <summary>Reads a prompt, or more of a conversation, into a cache.</summary>
    /// <remarks>
    /// Prompts of unequal length are padded on the right with any token; padding is neither seen nor stored. Attention within the call is
    /// over keys and values as they were computed; what the cache rounds is seen by later calls. After any exception the cache is as it
    /// was, but for what a hook evicted.
    /// </remarks>
    /// <param name="ids">int64 [B, L]: tokens that follow those in the cache.</param>
    /// <param name="cache">Of this model's layers: see <c>CreateCache</c>.</param>
    /// <param name="lengths">[B]: how many of the L tokens of each sequence are real; all without.</param>
    /// <returns>float32 [B, V]: the logits of what follows the last real token.</returns>
    /// <exception cref="KvCapacityException">The cache has no room for them.</exception>
    /// <exception cref="ArgumentException">A shape, dtype or device does not fit, or a token is outside the vocabulary.</exception>
    public Tensor Prefill(Tensor ids, KvCache cache, IReadOnlyList<int>? lengths = null)
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        RequireMatrix(ids);
        return PrefillEmbeddings(Embed(ids), cache, lengths).MoveToOuterDisposeScope();
    }

    /// <summary>Reads embeddings into a cache, as <see cref="Prefill"/> does tokens.</summary>
    /// <param name="embeddings">float32 [B, L, D].</param>
    /// <param name="cache">Of this model's layers: see <c>CreateCache</c>.</param>
    /// <param name="lengths">[B]: how many of the L rows of each sequence are real; all without.</param>
    /// <param name="positions">int64 [B, L], ascending, behind those in the cache; those that come next without.</param>
    /// <returns>float32 [B, V]: the logits of what follows the last real row.</returns>
    /// <exception cref="KvCapacityException">The cache has no room for them.</exception>
    /// <exception cref="ArgumentException">A shape, dtype or device does not fit.</exception>
    public Tensor PrefillEmbeddings(Tensor embeddings, KvCache cache, IReadOnlyList<int>? lengths = null, Tensor? positions = null)
    {
        RequireCache(cache);
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var rows = Rows(embeddings, positions ?? NextPositions(embeddings, cache)) with { Lengths = lengths };
        return Step(rows, DecoderPhase.Prefill, cache).MoveToOuterDisposeScope();
    }

    /// <summary>Reads one token of each sequence, and gives the logits of the next.</summary>
    /// <param name="ids">int64 [B].</param>
    /// <param name="cache">What the sequences were before.</param>
    /// <returns>float32 [B, V].</returns>
    /// <exception cref="KvCapacityException">The cache has no room; it is unchanged.</exception>
    /// <exception cref="ArgumentException">A shape, dtype or device does not fit, or a token is outside the vocabulary.</exception>
    public Tensor Decode(Tensor ids, KvCache cache)
    {
        Tokens.RequireLive(ids, nameof(ids));
        if (ids.shape.Length != 1)
            throw new ArgumentException($"ids: {Batches.Describe(ids)} is not Int64[B], a token of each sequence", nameof(ids));
        RequireCache(cache);
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var hidden = Embed(ids).unsqueeze(1);
        return Step(Rows(hidden, NextPositions(hidden, cache)), DecoderPhase.Decode, cache).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Fills an empty cache with keys and values that somebody else has for this model: biases, norm and rotation of the keys, and storing
    /// are one op.
    /// </summary>
    /// <param name="cache">Of this model's layers, empty.</param>
    /// <param name="project">For each layer keys, before key norm and rotation, and values.</param>
    /// <param name="rows">L.</param>
    /// <param name="lengths">[B]: how many of the L rows of each sequence are stored.</param>
    internal void AppendProducts(KvCache cache, Func<int, KvProducts> project, int rows, int[] lengths)
    {
        RequireCache(cache);
        using var noGrad = torch.no_grad();
        for (var layer = 0; layer < _blocks.Length; layer++)
        {
            using var scope = torch.NewDisposeScope();
            cache.AppendProducts(layer, project(layer), rows, lengths, _blocks[layer].HeadNorms);
        }
    }

    /// <summary>All layers, and the logits of each sequence's last row. After a failure the cache is taken back to what it held.</summary>
    private Tensor Step(DecoderRows rows, DecoderPhase phase, KvCache cache)
    {
        if (rows.Hidden.shape[0] != cache.Layout.Batch)
        {
            throw new ArgumentException(
                $"{Batches.Describe(rows.Hidden)} are {rows.Hidden.shape[0]} sequences, and the cache is of {cache.Layout.Batch}");
        }

        using var before = cache.Mark(rows.Hidden.shape[1]);
        try
        {
            var last = Run(rows, phase, cache);
            var at = torch.tensor(Enumerable.Range(0, (int)last.Hidden.shape[0]).Select(b => last.Length(b) - 1L).ToArray());
            var hidden = last.Hidden.gather(1, at.view(-1, 1, 1).expand(-1, 1, Options.Width)).squeeze(1);
            return Logits(hidden);
        }
        catch
        {
            cache.ReturnTo(before);
            throw;
        }
    }

    /// <summary>int64 [B, L]: the positions behind those that a cache was given.</summary>
    private static Tensor NextPositions(Tensor hidden, KvCache cache)
    {
        var next = torch.tensor(cache.NextPositions(), torch.int64).unsqueeze(1);
        return hidden.shape.Length == 3 && hidden.shape[0] == cache.Layout.Batch
            ? torch.arange(hidden.shape[1], torch.int64) + next
            : next; // refused by whoever looks at the shape
    }

    private void RequireCache(KvCache cache)
    {
        ArgumentNullException.ThrowIfNull(cache);
        ObjectDisposedException.ThrowIf(cache.IsDisposed, cache);
        var wanted = Options.Layers.Select(layer => new KvLayer(layer.KvHeads, Options.HeadDim)).ToArray();
        for (var i = 0; i < Math.Max(wanted.Length, cache.Layout.Layers.Count); i++)
        {
            var (want, has) = (Of(wanted, i), Of(cache.Layout.Layers, i));
            if (want != has)
                throw new ArgumentException($"cache: layer {i} is {has}, and the model's is {want}", nameof(cache));
        }

        static string Of(IReadOnlyList<KvLayer> layers, int i) => i < layers.Count ? $"{layers[i]}" : "missing";
    }

    private static void RequireMatrix(Tensor ids)
    {
        Tokens.RequireLive(ids, nameof(ids));
        if (ids.shape.Length != 2)
            throw new ArgumentException($"ids: {Batches.Describe(ids)} is not Int64[B, L]", nameof(ids));
    }
}
