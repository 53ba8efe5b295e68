using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>What a decoder has when a policy is to prune: the layers that ran, the layer that ran last, the sequences.</summary>
/// <remarks>Tensors are the decoder's own and live until the policy has answered. Scores have no gradient.</remarks>
public sealed class DecoderState
{
    private readonly Func<(Tensor Queries, Tensor Keys)> _projectNext;

    internal DecoderState(Func<(Tensor Queries, Tensor Keys)> projectNext) => _projectNext = projectNext;

    /// <summary>How many layers ran.</summary>
    public required int Layers { get; init; }

    /// <summary>The sequences as they are now, padded at the end in all tensors but <see cref="Inputs"/>.</summary>
    public required SequenceLayout Layout { get; init; }

    /// <summary>[B, L, D]: the output of the layer that ran last.</summary>
    public required Tensor Hidden { get; init; }

    /// <summary>[B, Hq, L, d]: queries of the layer that ran last, rotated.</summary>
    public required Tensor Queries { get; init; }

    /// <summary>[B, Hkv, L, d]: keys of the layer that ran last, rotated.</summary>
    public required Tensor Keys { get; init; }

    /// <summary>[B, L₀, D]: what the decoder was given.</summary>
    public required Tensor Inputs { get; init; }

    /// <summary>The sequences as the decoder was given them.</summary>
    public required SequenceLayout InputLayout { get; init; }

    /// <summary>Queries and keys that the next layer's projections make of what there is, rotated and without gradient.</summary>
    public (Tensor Queries, Tensor Keys) ProjectNext()
    {
        using var noGrad = torch.no_grad();
        return _projectNext();
    }

    /// <summary>For each visual token the attention that its sequence's last token pays to it, the mean over heads.</summary>
    /// <param name="queries">[B, Hq, L, d].</param>
    /// <param name="keys">[B, Hkv, L, d].</param>
    public float[] LastQueryAttention(Tensor queries, Tensor keys) =>
        RowAttention(queries, keys, [.. Enumerable.Range(0, Layout.Batch).Select(b => (int[])[Layout.Length(b) - 1])]);

    /// <summary>For each visual token the attention of some tokens of its sequence to it, the mean over them and over heads.</summary>
    /// <param name="queries">[B, Hq, L, d].</param>
    /// <param name="keys">[B, Hkv, L, d].</param>
    /// <param name="rows">For each sequence the places of those tokens, each of which sees keys up to its own.</param>
    /// <exception cref="ArgumentException">Tensors do not hold these sequences, or a place is outside its sequence.</exception>
    public float[] RowAttention(Tensor queries, Tensor keys, IReadOnlyList<IReadOnlyList<int>> rows)
    {
        RequireHeads(queries, nameof(queries));
        RequireHeads(keys, nameof(keys));
        ArgumentNullException.ThrowIfNull(rows);
        if (rows.Count != Layout.Batch)
            throw new ArgumentException($"rows: {rows.Count} lists for {Layout.Batch} sequences", nameof(rows));
        using var noGrad = torch.no_grad();
        var scores = new float[Layout.VisualTokens];
        var attention = new float[Layout.Longest];
        for (var b = 0; b < Layout.Batch; b++)
        {
            foreach (var row in rows[b])
            {
                if (row < 0 || row >= Layout.Length(b))
                    throw new ArgumentException($"rows[{b}]: {row} is outside the {Layout.Length(b)} tokens", nameof(rows));
                OfRow(queries, keys, b, row, attention.AsSpan(0, row + 1));
                var visual = Layout.Visual(b);
                var slot = Layout.VisualSegments[b];
                for (var token = 0; token < visual.Length; token++)
                {
                    if (!visual[token])
                        continue;
                    scores[slot++] += token <= row ? attention[token] / rows[b].Count : 0;
                }
            }
        }

        return scores;
    }

    /// <summary>[Nv, D]: the hidden states of the visual tokens, row-major.</summary>
    public float[] VisualHidden()
    {
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        return [.. Hidden.flatten(0, 1).index_select(0, Layout.VisualRows()).to(torch.float32).contiguous().data<float>()];
    }

    private static unsafe void OfRow(Tensor queries, Tensor keys, int sequence, int row, Span<float> scores)
    {
        using var scope = torch.NewDisposeScope();
        var query = queries.narrow(0, sequence, 1).narrow(2, row, 1);
        var seen = keys.narrow(0, sequence, 1).narrow(2, 0, row + 1);
        fixed (float* s = scores)
        {
            TokenScores.Run(new ScoreTensors
            {
                Queries = query.ToTensorView(nameof(queries)),
                Keys = seen.ToTensorView(nameof(keys)),
                Scores = TensorView.FromPointer(s, DType.Float32, [1, row + 1]),
            });
        }
    }

    private void RequireHeads(Tensor tensor, string name)
    {
        Batches.Require(tensor, name);
        if (tensor.shape.Length != 4 || tensor.shape[0] != Layout.Batch || tensor.shape[2] != Layout.Longest)
        {
            throw new ArgumentException(
                $"{name}: {Batches.Describe(tensor)} is not [{Layout.Batch}, heads, {Layout.Longest}, depth]", name);
        }
    }
}
