using AuxCore.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// KV Prediction (Horton et al. 2024, arXiv 2410.08391): a small auxiliary model reads the prompt, its keys and values predict those of
/// the base, and the base, which is frozen, reads only the last token of the prompt. The first token comes after little more than the
/// auxiliary model's work; those that follow are the base's, over the predicted cache.
/// </summary>
/// <remarks>
/// <para>Training: <c>prediction.Loss(ids).Total.backward()</c> with an optimiser over <see cref="TrainedParameters"/>. Gradients pass
/// through the base to predictor and auxiliary model.</para>
/// <para>Inference: <see cref="Prefill"/> in place of <see cref="CausalDecoder.Prefill"/>, then <see cref="CausalDecoder.Decode"/> of the
/// base. Both models stay the caller's. One thread's at a time.</para>
/// </remarks>
public sealed class KvPrediction
{
    /// <summary>Joins the three.</summary>
    /// <param name="baseModel">The decoder that generates. Its parameters are frozen from here on.</param>
    /// <param name="auxiliary">The decoder that reads prompts, of the same vocabulary.</param>
    /// <param name="predictor">Made for the sizes of the two.</param>
    /// <exception cref="ArgumentException">The vocabularies differ, or the predictor was made for other sizes.</exception>
    public KvPrediction(CausalDecoder baseModel, CausalDecoder auxiliary, KvPredictor predictor)
    {
        ArgumentNullException.ThrowIfNull(baseModel);
        ArgumentNullException.ThrowIfNull(auxiliary);
        ArgumentNullException.ThrowIfNull(predictor);
        if (baseModel.Options.Vocabulary != auxiliary.Options.Vocabulary)
        {
            throw new ArgumentException(
                $"auxiliary: its vocabulary of {auxiliary.Options.Vocabulary} is not the base's of {baseModel.Options.Vocabulary}",
                nameof(auxiliary));
        }

        RequireSame(predictor.BaseOptions, baseModel.Options, "base");
        RequireSame(predictor.AuxiliaryOptions, auxiliary.Options, "auxiliary model");
        (Base, Auxiliary, Predictor) = (baseModel, auxiliary, predictor);
        foreach (var parameter in baseModel.parameters())
            parameter.requires_grad = false;
    }

    /// <summary>The decoder that generates.</summary>
    public CausalDecoder Base { get; }

    /// <summary>The decoder that reads prompts.</summary>
    public CausalDecoder Auxiliary { get; }

    /// <summary>From the keys and values of one to those of the other.</summary>
    public KvPredictor Predictor { get; }

    /// <summary>What is trained: the parameters of auxiliary model and predictor.</summary>
    public IEnumerable<TorchSharp.Modules.Parameter> TrainedParameters() => [.. Auxiliary.parameters(), .. Predictor.parameters()];

    /// <summary>
    /// λ_B · CE(base) + λ_A · CE(auxiliary) + λ_C · Σ_i (mean |K̂_i − K_i| + mean |V̂_i − V_i|) (paper, section 3.3), where K_i are the
    /// keys after the key norm that the base has without prediction.
    /// </summary>
    /// <param name="ids">int64 [B, L], L ≥ 2: tokens; each but the first is predicted from those before it.</param>
    /// <param name="options">Weights; as published without.</param>
    /// <exception cref="ArgumentException">
    /// Not int64 [B, L], a token is outside the vocabulary, or sequences are no longer than the prompt.
    /// </exception>
    public KvPredictionLoss Loss(Tensor ids, KvPredictionOptions? options = null)
    {
        options ??= new();
        options.Check();
        Batches.Require(ids, nameof(ids));
        if (ids.shape.Length != 2 || ids.shape[1] < 2)
            throw new ArgumentException($"ids: {Batches.Describe(ids)} is not Int64[B, L] with L ≥ 2", nameof(ids));
        if (options.PromptLength >= ids.shape[1])
        {
            throw new ArgumentException(
                $"ids: {ids.shape[1]} tokens are no longer than the prompt of {options.PromptLength}", nameof(ids));
        }

        using var scope = torch.NewDisposeScope();
        var inputs = ids.narrow(1, 0, ids.shape[1] - 1);
        // Rows whose keys and values are predicted: all inputs, or the prompt but its last token.
        var predicted = options.PromptLength is { } prompt ? prompt - 1 : inputs.shape[1];
        using var targets = new TargetRecorder(predicted);
        using (torch.no_grad())
        using (Base.AddHook(targets))
            Base.ForwardLayers(inputs);
        using var known = new ProjectionRecorder();
        Tensor auxiliaryLogits;
        using (Auxiliary.AddHook(known))
            auxiliaryLogits = Auxiliary.forward(inputs);
        using var substitution = new Substitution(this, known, targets, predicted);
        var begin = predicted == inputs.shape[1] ? 0 : predicted;
        Tensor baseLogits;
        using (Base.AddHook(substitution))
        {
            var rows = inputs.narrow(1, begin, inputs.shape[1] - begin);
            var positions = torch.arange(begin, inputs.shape[1], torch.int64).expand(inputs.shape[0], -1);
            baseLogits = Base.forward(rows, positions);
        }

        var (baseLoss, baseTotal) = CrossEntropy(baseLogits, ids.narrow(1, begin + 1, ids.shape[1] - begin - 1), options);
        var (auxiliaryLoss, auxiliaryTotal) = CrossEntropy(auxiliaryLogits, ids.narrow(1, 1, ids.shape[1] - 1), options);
        var cache = substitution.CacheLoss!;
        var total = baseTotal * options.BaseWeight + auxiliaryTotal * options.AuxiliaryWeight
            + cache * (options.CacheWeight ?? 1.0 / Base.Options.Layers.Count);
        return new(
            total.MoveToOuterDisposeScope(), baseLoss.MoveToOuterDisposeScope(), auxiliaryLoss.MoveToOuterDisposeScope(),
            cache.MoveToOuterDisposeScope());
    }

    /// <summary>
    /// Reads a prompt into the base's cache: the auxiliary model reads all of it but the last token, the predictor fills the cache, and the
    /// base reads the last token. A prompt of one token is the base's alone.
    /// </summary>
    /// <param name="ids">int64 [B, L]: the prompts.</param>
    /// <param name="cache">An empty one of the base.</param>
    /// <param name="lengths">[B]: how many of the L tokens of each prompt are real, padded on the right; all without.</param>
    /// <returns>float32 [B, V]: the base's logits of what follows the prompt.</returns>
    /// <exception cref="ArgumentException">
    /// A shape or dtype does not fit, a token is outside the vocabulary, or the cache is another model's or holds something. It is
    /// unchanged.
    /// </exception>
    /// <exception cref="KvCapacityException">The cache has no room. It is unchanged.</exception>
    public Tensor Prefill(Tensor ids, KvCache cache, IReadOnlyList<int>? lengths = null)
    {
        Batches.Require(ids, nameof(ids));
        ArgumentNullException.ThrowIfNull(cache);
        ObjectDisposedException.ThrowIf(cache.IsDisposed, cache);
        if (ids.shape.Length != 2 || ids.shape[1] < 1 || ids.shape[0] != cache.Layout.Batch)
        {
            throw new ArgumentException(
                $"ids: {Batches.Describe(ids)} is not Int64[{cache.Layout.Batch}, L], a prompt a sequence of the cache", nameof(ids));
        }

        var real = Lengths(ids, lengths);
        RequireEmpty(cache);
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var last = ids.gather(1, torch.tensor(real.Select(length => length - 1L).ToArray()).unsqueeze(1)).squeeze(1);
        var start = cache.NextPositions();
        try
        {
            if (ids.shape[1] > 1 && real.Max() > 1)
                Fill(cache, ids.narrow(1, 0, real.Max() - 1), [.. real.Select(length => length - 1)]);
            return Base.Decode(last, cache).MoveToOuterDisposeScope();
        }
        catch
        {
            cache.Rewind(start);
            throw;
        }
    }

    /// <summary>The base's cache of some tokens, predicted: keys are normed and rotated as the base does it.</summary>
    private void Fill(KvCache cache, Tensor ids, int[] lengths)
    {
        using var known = new ProjectionRecorder();
        using (Auxiliary.AddHook(known))
            Auxiliary.ForwardLayers(ids);
        Base.AppendProjected(cache, layer => Predict(layer, known), ids.shape[1], lengths);
    }

    private (Tensor Keys, Tensor Values) Predict(int layer, ProjectionRecorder known)
    {
        var (keys, values) = known[Predictor.Map[layer]];
        return Predictor.Predict(layer, keys, values);
    }

    /// <summary>Cross-entropy in nats a token, and the same with the z-loss.</summary>
    private static (Tensor Loss, Tensor Total) CrossEntropy(Tensor logits, Tensor targets, KvPredictionOptions options)
    {
        var flat = logits.reshape(-1, logits.shape[2]);
        var loss = functional.cross_entropy(flat, targets.reshape(-1));
        return options.LogPartitionWeight == 0
            ? (loss, loss)
            : (loss, loss + flat.logsumexp(1).square().mean() * options.LogPartitionWeight);
    }

    private static int[] Lengths(Tensor ids, IReadOnlyList<int>? lengths)
    {
        if (lengths is null)
            return [.. Enumerable.Repeat((int)ids.shape[1], (int)ids.shape[0])];
        if (lengths.Count != ids.shape[0])
            throw new ArgumentException($"lengths: {lengths.Count} numbers for {ids.shape[0]} prompts", nameof(lengths));
        for (var b = 0; b < lengths.Count; b++)
        {
            if (lengths[b] < 1 || lengths[b] > ids.shape[1])
                throw new ArgumentOutOfRangeException(nameof(lengths), lengths[b], $"lengths[{b}] is not within 1 and {ids.shape[1]}.");
        }

        return [.. lengths];
    }

    private static void RequireEmpty(KvCache cache)
    {
        for (var layer = 0; layer < cache.Layout.Layers.Count; layer++)
        {
            if (!cache.IsEmpty(layer))
                throw new ArgumentException($"cache: layer {layer} holds tokens; prediction begins with an empty cache", nameof(cache));
        }
    }

    private static void RequireSame(DecoderOptions predictor, DecoderOptions model, string what)
    {
        if (predictor.HeadDim != model.HeadDim
            || !predictor.Layers.Select(layer => layer.KvHeads).SequenceEqual(model.Layers.Select(layer => layer.KvHeads)))
        {
            throw new ArgumentException(
                $"predictor: it was made for a{(what[0] == 'a' ? "n" : "")} {what} of {predictor.Layers.Count} layers, heads of "
                + $"{predictor.HeadDim}; this one has {model.Layers.Count} layers, heads of {model.HeadDim}, or other numbers of them");
        }
    }

    /// <summary>Keeps keys and values as a model projects them: before key norm and rotation.</summary>
    private sealed class ProjectionRecorder : DecoderHook, IDisposable
    {
        private readonly List<(Tensor Keys, Tensor Values)> _layers = [];

        public (Tensor Keys, Tensor Values) this[int layer] => _layers[layer];

        public override (Tensor Keys, Tensor Values) BeforeAttention(LayerProjection projection)
        {
            _layers.Add((projection.Keys.alias().DetachFromDisposeScope(), projection.Values.alias().DetachFromDisposeScope()));
            return base.BeforeAttention(projection);
        }

        public void Dispose()
        {
            foreach (var (keys, values) in _layers)
            {
                keys.Dispose();
                values.Dispose();
            }
        }
    }

    /// <summary>Keeps what the base has without prediction: keys after the key norm, and values, of the first rows.</summary>
    private sealed class TargetRecorder(long rows) : DecoderHook, IDisposable
    {
        private readonly List<(Tensor Keys, Tensor Values)> _layers = [];

        public (Tensor Keys, Tensor Values) this[int layer] => _layers[layer];

        public override void AfterAttention(LayerAttention attention) => _layers.Add((
            attention.UnrotatedKeys.narrow(2, 0, rows).DetachFromDisposeScope(),
            attention.Values.narrow(2, 0, rows).DetachFromDisposeScope()));

        public void Dispose()
        {
            foreach (var (keys, values) in _layers)
            {
                keys.Dispose();
                values.Dispose();
            }
        }
    }

    /// <summary>Puts predictions in the place of the base's keys and values, and sums how far off they are.</summary>
    private sealed class Substitution(KvPrediction prediction, ProjectionRecorder known, TargetRecorder targets, long predicted)
        : DecoderHook, IDisposable
    {
        private readonly List<Tensor> _errors = [];

        /// <summary>Σ over layers; null before the pass.</summary>
        public Tensor? CacheLoss => _errors.Count == 0 ? null : torch.stack(_errors).sum();

        public override (Tensor Keys, Tensor Values) BeforeAttention(LayerProjection projection)
        {
            var (keys, values) = prediction.Predict(projection.Layer, known);
            if (keys.shape[2] > predicted)
                (keys, values) = (keys.narrow(2, 0, predicted), values.narrow(2, 0, predicted));
            var whole = projection.Keys.shape[2] == known[0].Keys.shape[2];
            return whole
                ? (keys, values)
                : (torch.cat([keys, projection.Keys], 2), torch.cat([values, projection.Values], 2));
        }

        public override void AfterAttention(LayerAttention attention)
        {
            using var scope = torch.NewDisposeScope();
            var (keys, values) = targets[attention.Layer];
            var error = (attention.UnrotatedKeys.narrow(2, 0, predicted) - keys).abs().mean()
                + (attention.Values.narrow(2, 0, predicted) - values).abs().mean();
            _errors.Add(error.DetachFromDisposeScope());
        }

        public void Dispose() => _errors.ForEach(error => error.Dispose());
    }
}
