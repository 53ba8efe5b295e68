using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A vision-language model of LLaVA's kind (Liu et al. 2023, arXiv 2304.08485; the projector of two layers is that of arXiv 2310.03744): an
/// image encoder, a projector, and a <see cref="CausalDecoder"/> that reads the image's tokens and then text.
/// <code>
/// using var model = new VisionLanguageModel(encoder, encoderWidth: 64, decoder);
/// var logits = model.forward(images, text);                        // for learning
/// using (model.Prune(new FastV(2, Budget.Ratio(0.25))))
///     next = model.Prefill(images, question, cache);               // then decoder.Decode
/// </code>
/// </summary>
/// <remarks>One thread's at a time. Encoder and decoder belong to the model and are disposed with it.</remarks>
public sealed class VisionLanguageModel : Module<Tensor, Tensor, Tensor>
{
    private readonly int _encoderWidth;
    private readonly Module<Tensor, Tensor> _encoder;
    private readonly Linear _first, _second;
    private VisualPruning? _pruning;

    /// <summary>A model with a random projector, from torch's generator.</summary>
    /// <param name="encoder">Images to visual tokens: float32 [B, tokens, width].</param>
    /// <param name="encoderWidth">The width of those.</param>
    /// <param name="decoder">What reads them.</param>
    /// <exception cref="ArgumentOutOfRangeException">The width is below 1.</exception>
    public VisionLanguageModel(Module<Tensor, Tensor> encoder, int encoderWidth, CausalDecoder decoder) : base(nameof(VisionLanguageModel))
    {
        ArgumentNullException.ThrowIfNull(encoder);
        ArgumentNullException.ThrowIfNull(decoder);
        Sizes.RequirePositive((nameof(encoderWidth), encoderWidth));
        (_encoder, _encoderWidth, Decoder) = (encoder, encoderWidth, decoder);
        _first = Linear(encoderWidth, decoder.Options.Width);
        _second = Linear(decoder.Options.Width, decoder.Options.Width);
        register_module("encoder", encoder);
        register_module("projector_in", _first);
        register_module("projector_out", _second);
        register_module("decoder", decoder);
    }

    /// <summary>What reads the tokens.</summary>
    public CausalDecoder Decoder { get; }

    /// <summary>What prunes now; null where nothing does.</summary>
    public VisualPruning? Pruning => _pruning;

    /// <summary>Lets a policy prune all passes until the result is disposed. One policy at a time.</summary>
    /// <param name="policy">What decides.</param>
    /// <exception cref="InvalidOperationException">Another policy prunes already.</exception>
    /// <exception cref="ArgumentException">The policy cuts after the last layer or later.</exception>
    public IDisposable Prune(DecoderPruning policy)
    {
        if (_pruning is not null)
            throw new InvalidOperationException("Another policy prunes already; dispose what Prune returned.");
        _pruning = VisualPruning.Of(Decoder, policy);
        return new PruningScope(this);
    }

    /// <summary>The visual tokens of images, as the decoder reads them. Differentiable.</summary>
    /// <param name="images">What the encoder takes.</param>
    /// <returns>float32 [B, tokens, D].</returns>
    /// <exception cref="InvalidOperationException">The encoder made something else.</exception>
    public Tensor Visual(Tensor images)
    {
        Batches.Require(images, nameof(images));
        using var scope = torch.NewDisposeScope();
        var encoded = _encoder.forward(images);
        if (encoded.dtype != torch.ScalarType.Float32 || encoded.shape.Length != 3 || encoded.shape[2] != _encoderWidth)
        {
            throw new InvalidOperationException(
                $"The encoder made {Batches.Describe(encoded)} and not Float32[B, tokens, {_encoderWidth}].");
        }

        return _second.forward(functional.gelu(_first.forward(encoded))).MoveToOuterDisposeScope();
    }

    /// <summary>Logits of the text, differentiable: of each text token, those of the one that follows it.</summary>
    /// <param name="images">What the encoder takes.</param>
    /// <param name="text">int64 [B, T]: what follows the images.</param>
    /// <returns>float32 [B, T, V].</returns>
    /// <exception cref="ArgumentException">Text is not int64 [B, T] of the vocabulary, or its number differs from the images'.</exception>
    public override Tensor forward(Tensor images, Tensor text)
    {
        using var scope = torch.NewDisposeScope();
        var (embeddings, layout) = Embed(images, text);
        _pruning?.Begin(layout, embeddings);
        var logits = Decoder.ForwardEmbeddings(embeddings);
        return TextRows(logits, _pruning?.Layout ?? layout, text.shape[1]).MoveToOuterDisposeScope();
    }

    /// <summary>Reads images and text into an empty cache.</summary>
    /// <param name="images">What the encoder takes.</param>
    /// <param name="text">int64 [B, T]: what follows the images.</param>
    /// <param name="cache">Of the decoder; room for the tokens of both.</param>
    /// <returns>float32 [B, V]: logits of the token that follows.</returns>
    /// <exception cref="ArgumentException">As for <see cref="forward"/>, or the cache is of another decoder or too small.</exception>
    public Tensor Prefill(Tensor images, Tensor text, KvCache cache)
    {
        ArgumentNullException.ThrowIfNull(cache);
        using var scope = torch.NewDisposeScope();
        var (embeddings, layout) = Embed(images, text);
        _pruning?.Begin(layout, embeddings);
        return Decoder.PrefillEmbeddings(embeddings, cache).MoveToOuterDisposeScope();
    }

    private (Tensor Embeddings, SequenceLayout Layout) Embed(Tensor images, Tensor text)
    {
        Batches.Require(text, nameof(text));
        if (text.shape.Length != 2)
            throw new ArgumentException($"text: {Batches.Describe(text)} is not Int64[B, T]", nameof(text));
        var words = Decoder.Embed(text);
        var visual = Visual(images);
        if (visual.shape[0] != text.shape[0])
            throw new ArgumentException($"text: {text.shape[0]} sequences for {visual.shape[0]} images", nameof(text));
        var (tokens, length) = ((int)visual.shape[1], (int)(visual.shape[1] + text.shape[1]));
        return (torch.cat([visual, words], 1), SequenceLayout.Uniform((int)text.shape[0], length, 0..tokens));
    }

    // Text is last in each sequence and never dropped.
    private static Tensor TextRows(Tensor logits, SequenceLayout layout, long count)
    {
        if (logits.shape[1] == count)
            return logits;
        var ends = Enumerable.Range(0, layout.Batch).Select(layout.Length).ToArray();
        if (ends.AsSpan().IndexOfAnyExcept(ends[0]) < 0)
            return logits.narrow(1, ends[0] - count, count);
        var rows = torch.tensor(ends.SelectMany(end => Enumerable.Range(0, (int)count).Select(i => end - count + i)).ToArray());
        var index = rows.view(layout.Batch, count, 1).expand(layout.Batch, count, logits.shape[2]);
        return logits.gather(1, index);
    }

    private sealed class PruningScope(VisionLanguageModel model) : IDisposable
    {
        public void Dispose()
        {
            model._pruning?.Dispose();
            model._pruning = null;
        }
    }
}
