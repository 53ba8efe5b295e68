using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary><see cref="TokenScores"/> on TorchSharp's tensors: how much attention each key gets, a mean over heads and rows.</summary>
/// <remarks>
/// Queries are float32, bfloat16 or float16 [B, Hq, R, d], keys [B, Hkv, L, d] of the same dtype, on the CPU; Hq is a multiple of Hkv. The
/// scores are float32 [B, L] without history, in the caller's dispose scope. Every row sees all keys of its sequence.
/// </remarks>
public static class TorchTokenScores
{
    extension(TokenScores)
    {
        /// <summary>Of the last query of each sequence: FastV's score (Chen et al. 2024, arXiv 2403.06764).</summary>
        /// <param name="queries">[B, Hq, R, d]: all queries, or those at the end.</param>
        /// <param name="keys">[B, Hkv, L, d].</param>
        /// <param name="lengths">
        /// How many tokens each sequence has, from the first; what is behind is padding, and then R = L. Null: all have L.
        /// </param>
        /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
        /// <exception cref="ArgumentException">Shapes, dtypes or lengths do not fit.</exception>
        /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
        public static Tensor LastQuery(
            Tensor queries, Tensor keys, IReadOnlyList<int>? lengths = null, AuxBackend backend = AuxBackend.Auto)
        {
            RequireRank(queries, keys);
            using var scope = torch.NewDisposeScope();
            if (lengths is null)
                return Score(queries.narrow(2, queries.shape[2] - 1, 1), keys, null, backend).MoveToOuterDisposeScope();
            RequireLengths(lengths, queries, keys, least: 1);
            var last = torch.stack([.. lengths.Select((length, b) => queries[b].narrow(1, length - 1, 1))]);
            return Score(last, keys, lengths, backend).MoveToOuterDisposeScope();
        }

        /// <summary>
        /// Of the class token: the score of VisionZip (Yang et al. 2024, arXiv 2412.04467) and PruMerge (Shang et al. 2024,
        /// arXiv 2403.15388).
        /// </summary>
        /// <param name="queries">[B, Hq, R, d]; the class token's is the first.</param>
        /// <param name="keys">[B, Hkv, L, d].</param>
        /// <param name="lengths">How many tokens each sequence has, from the first; what is behind is padding. Null: all have L.</param>
        /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
        /// <inheritdoc cref="LastQuery" path="/exception"/>
        public static Tensor Cls(Tensor queries, Tensor keys, IReadOnlyList<int>? lengths = null, AuxBackend backend = AuxBackend.Auto)
        {
            RequireRank(queries, keys);
            RequireLengths(lengths, null, keys, least: 0);
            using var scope = torch.NewDisposeScope();
            return Score(queries.narrow(2, 0, 1), keys, lengths, backend).MoveToOuterDisposeScope();
        }

        /// <summary>Of chosen rows, such as the text tokens that SparseVLM takes (Zhang et al. 2024, arXiv 2410.04417).</summary>
        /// <param name="queries">[B, Hq, R, d].</param>
        /// <param name="keys">[B, Hkv, L, d].</param>
        /// <param name="rows">Which rows, from 0; at least one, the same of every sequence.</param>
        /// <param name="lengths">How many tokens each sequence has, from the first; what is behind is padding. Null: all have L.</param>
        /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
        /// <inheritdoc cref="LastQuery" path="/exception"/>
        public static Tensor Raters(
            Tensor queries, Tensor keys, IReadOnlyList<long> rows, IReadOnlyList<int>? lengths = null, AuxBackend backend = AuxBackend.Auto)
        {
            RequireRank(queries, keys);
            RequireLengths(lengths, null, keys, least: 0);
            ArgumentNullException.ThrowIfNull(rows);
            if (rows.Count == 0)
                throw new ArgumentException("rows: there are none", nameof(rows));
            if (rows.Any(row => row < 0 || row >= queries.shape[2]))
            {
                throw new ArgumentException(
                    $"rows: [{string.Join(", ", rows)}] are not all within 0 and {queries.shape[2] - 1}", nameof(rows));
            }

            using var scope = torch.NewDisposeScope();
            return Score(queries.index_select(2, torch.tensor(rows.ToArray())), keys, lengths, backend).MoveToOuterDisposeScope();
        }

        /// <summary>Of all rows: the mean of each column of the attention matrix, which is not formed.</summary>
        /// <param name="queries">[B, Hq, L, d].</param>
        /// <param name="keys">[B, Hkv, L, d].</param>
        /// <param name="lengths">How many tokens each sequence has, from the first; what is behind is padding. Null: all have L.</param>
        /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
        /// <inheritdoc cref="LastQuery" path="/exception"/>
        public static Tensor ColumnMean(
            Tensor queries, Tensor keys, IReadOnlyList<int>? lengths = null, AuxBackend backend = AuxBackend.Auto)
        {
            RequireRank(queries, keys);
            using var scope = torch.NewDisposeScope();
            if (lengths is null)
                return Score(queries, keys, null, backend).MoveToOuterDisposeScope();
            RequireLengths(lengths, queries, keys, least: 0);
            var scores = torch.zeros(keys.shape[0], keys.shape[2]);
            for (var b = 0; b < lengths.Count; b++)
            {
                // Rows behind a sequence's tokens are padding too.
                var length = lengths[b];
                Tensor Own(Tensor tensor) => tensor.narrow(0, b, 1).narrow(2, 0, length);
                scores[b].narrow(0, 0, length).copy_(Score(Own(queries), Own(keys), null, backend)[0]);
            }

            return scores.MoveToOuterDisposeScope();
        }
    }

    private static Tensor Score(Tensor queries, Tensor keys, IReadOnlyList<int>? lengths, AuxBackend backend)
    {
        using var noGrad = torch.no_grad();
        var scores = torch.empty(keys.shape[0], keys.shape[2], device: keys.device);
        TokenScores.Run(
            new()
            {
                Queries = Dense(queries.detach()).ToTensorView(nameof(queries)),
                Keys = Dense(keys.detach()).ToTensorView(nameof(keys)),
                Lengths = lengths is null ? default : torch.tensor(lengths.ToArray()).ToTensorView(),
                Scores = scores.ToTensorView(),
            },
            backend: backend);
        return scores;
    }

    private static Tensor Dense(Tensor tensor) => tensor.stride()[3] == 1 ? tensor : tensor.contiguous();

    private static void RequireRank(Tensor queries, Tensor keys)
    {
        Batches.Require(queries, nameof(queries));
        Batches.Require(keys, nameof(keys));
        if (queries.shape.Length != 4 || keys.shape.Length != 4)
        {
            throw new ArgumentException(
                $"queries: {Batches.Describe(queries)}, keys: {Batches.Describe(keys)}; both are [batch, heads, rows, depth]",
                nameof(queries));
        }

        if (queries.shape[2] == 0)
            throw new ArgumentException($"queries: {Batches.Describe(queries)} has no rows", nameof(queries));
    }

    private static void RequireLengths(IReadOnlyList<int>? lengths, Tensor? queries, Tensor keys, int least)
    {
        if (lengths is null)
            return;
        if (lengths.Count != keys.shape[0] || lengths.Any(length => length < least || length > keys.shape[2]))
        {
            throw new ArgumentException(
                $"lengths: [{string.Join(", ", lengths)}] are not {keys.shape[0]} numbers within {least} and {keys.shape[2]}",
                nameof(lengths));
        }

        if (queries is not null && queries.shape[2] != keys.shape[2])
        {
            throw new ArgumentException(
                $"queries: {Batches.Describe(queries)} has other rows than the {keys.shape[2]} keys; with lengths it has the same",
                nameof(queries));
        }
    }
}
