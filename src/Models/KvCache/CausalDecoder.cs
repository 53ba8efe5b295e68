using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A causal decoder, trained or loaded from a checkpoint: grouped-query attention, rotary embedding by halves, root mean square
/// norms, gated feed-forward networks (see <see cref="DecoderOptions"/>). <see cref="forward(Tensor)"/> trains; <see cref="Prefill"/> and
/// <see cref="Decode"/> generate through a <see cref="KvCache"/>; <see cref="DecoderHook"/>s read and prune between layers.
/// </summary>
/// <remarks>
/// All shapes are checked before libtorch sees them. A model is one thread's at a time. Parameters are named
/// <c>embed_tokens.weight</c>, <c>layers.0.q_proj.weight</c>, …, <c>norm.weight</c> and, without a tied head, <c>lm_head.weight</c>.
/// </remarks>
public sealed partial class CausalDecoder : Module<Tensor, Tensor>
{
    private readonly Embedding _embedding;
    private readonly DecoderBlock[] _blocks;
    private readonly RootMeanSquareNorm _norm;
    private readonly Linear? _head;
    private readonly List<DecoderHook> _hooks = [];

    /// <summary>A decoder with random weights, from torch's generator.</summary>
    /// <param name="options">Its sizes.</param>
    /// <exception cref="ArgumentException">Sizes do not go together; the message names them.</exception>
    public CausalDecoder(DecoderOptions options) : base(nameof(CausalDecoder))
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        Options = options;
        _embedding = Embedding(options.Vocabulary, options.Width, dtype: options.WeightType);
        using (torch.NewDisposeScope())
            init.normal_(_embedding.weight!, 0, options.InitialDeviation); // returns a tensor of its own
        register_module("embed_tokens", _embedding);
        _blocks = [.. options.Layers.Select(sizes => new DecoderBlock(options, sizes))];
        register_module("layers", ModuleList(_blocks));
        _norm = new(options.Width, options.NormEpsilon);
        register_module("norm", _norm);
        if (options.TiedHead)
            return;
        _head = Linear(options.Width, options.Vocabulary, hasBias: false, dtype: options.WeightType);
        init.normal_(_head.weight, 0, options.InitialDeviation);
        register_module("lm_head", _head);
    }

    /// <summary>What the decoder is made of.</summary>
    public DecoderOptions Options { get; }

    /// <summary>Logits of all positions, differentiable.</summary>
    /// <param name="input">int64 [B, L]: tokens.</param>
    /// <returns>float32 [B, L, V].</returns>
    /// <exception cref="ArgumentException">Not int64 [B, L] on the CPU, or a token is outside the vocabulary.</exception>
    public override Tensor forward(Tensor input) => forward(input, null);

    /// <summary>Logits of all positions, differentiable.</summary>
    /// <param name="ids">int64 [B, L]: tokens.</param>
    /// <param name="positions">int64 [B, L], ascending; 0, 1, … without.</param>
    /// <param name="keyMask">bool [B, L]: which rows others may attend to; false for padding, on whichever side. All without.</param>
    /// <returns>float32 [B, L, V]. Where a hook dropped rows, those that are left.</returns>
    /// <exception cref="ArgumentException">A shape, dtype or device does not fit, or a token is outside the vocabulary.</exception>
    public Tensor forward(Tensor ids, Tensor? positions, Tensor? keyMask = null)
    {
        using var scope = torch.NewDisposeScope();
        return ForwardEmbeddings(Embed(ids), positions, keyMask).MoveToOuterDisposeScope();
    }

    /// <summary>Logits of all positions from embeddings, such as those of an image among those of words; differentiable.</summary>
    /// <param name="embeddings">float32 [B, L, D].</param>
    /// <param name="positions">int64 [B, L], ascending; 0, 1, … without.</param>
    /// <param name="keyMask">bool [B, L]: which rows others may attend to; false for padding, on whichever side. All without.</param>
    /// <returns>float32 [B, L, V]. Where a hook dropped rows, those that are left.</returns>
    /// <exception cref="ArgumentException">A shape, dtype or device does not fit.</exception>
    public Tensor ForwardEmbeddings(Tensor embeddings, Tensor? positions = null, Tensor? keyMask = null)
    {
        using var scope = torch.NewDisposeScope();
        var rows = Rows(embeddings, positions) with { KeyMask = keyMask };
        var last = Run(rows, DecoderPhase.Forward, null);
        return Logits(last.Hidden).MoveToOuterDisposeScope();
    }

    /// <summary>Runs the layers over tokens for what hooks see of them; the head is left out.</summary>
    /// <param name="ids">int64 [B, L]: tokens.</param>
    /// <returns>float32 [B, L, D]: the hidden states behind the last layer, before the last norm. Differentiable.</returns>
    /// <exception cref="ArgumentException">Not int64 [B, L] on the CPU, or a token is outside the vocabulary.</exception>
    internal Tensor ForwardLayers(Tensor ids)
    {
        using var scope = torch.NewDisposeScope();
        RequireMatrix(ids);
        return Run(Rows(Embed(ids), null), DecoderPhase.Forward, null).Hidden.MoveToOuterDisposeScope();
    }

    /// <summary>The embeddings of tokens.</summary>
    /// <param name="ids">int64 of any shape.</param>
    /// <returns>float32 [..., D].</returns>
    /// <exception cref="ArgumentException">Not int64 on the CPU, empty, or a token is outside the vocabulary.</exception>
    public Tensor Embed(Tensor ids)
    {
        Tokens.RequireLive(ids, nameof(ids));
        if (ids.dtype != torch.ScalarType.Int64 || ids.device_type != DeviceType.CPU || ids.numel() == 0)
        {
            throw new ArgumentException(
                $"ids: {Batches.Describe(ids)} on {ids.device} is not int64, in host memory, with tokens", nameof(ids));
        }

        using (torch.NewDisposeScope())
        {
            var (least, most) = (ids.min().item<long>(), ids.max().item<long>());
            if (least < 0 || most >= Options.Vocabulary)
            {
                throw new ArgumentOutOfRangeException(
                    nameof(ids), least < 0 ? least : most, $"ids: a token is not within 0 and {Options.Vocabulary - 1}.");
            }
        }

        using var scope = torch.NewDisposeScope();
        return _embedding.forward(ids).to(torch.ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <summary>Adds a hook to the passes that follow, after those that there are.</summary>
    /// <param name="hook">What follows the passes; not twice the same.</param>
    /// <returns>Takes the hook away again when it is disposed.</returns>
    /// <exception cref="ArgumentException">The hook is there already.</exception>
    public IDisposable AddHook(DecoderHook hook)
    {
        ArgumentNullException.ThrowIfNull(hook);
        if (_hooks.Contains(hook))
            throw new ArgumentException("hook: it is there already", nameof(hook));
        _hooks.Add(hook);
        return new HookScope(_hooks, hook);
    }

    /// <summary>Rotated queries and keys that a layer would make of rows.</summary>
    internal (Tensor Queries, Tensor Keys) Project(int layer, DecoderRows rows)
    {
        using var scope = torch.NewDisposeScope();
        var (queries, keys) = _blocks[layer].Project(rows, new(Options.Rotary, Options.HeadDim, rows.Positions));
        return (queries.MoveToOuterDisposeScope(), keys.MoveToOuterDisposeScope());
    }

    /// <summary>The norm and the head over hidden states: float32 [..., V].</summary>
    private Tensor Logits(Tensor hidden)
    {
        var normed = _norm.forward(hidden);
        return Projections.Of(_head is null ? _embedding.weight! : _head.weight, normed);
    }

    /// <summary>Rows from the first position on, or at given ones.</summary>
    private static DecoderRows Rows(Tensor embeddings, Tensor? positions)
    {
        Tokens.RequireLive(embeddings, nameof(embeddings));
        if (embeddings.shape.Length != 3)
            throw new ArgumentException($"embeddings: {Batches.Describe(embeddings)} is not Float32[B, L, D]", nameof(embeddings));
        var (batch, length) = (embeddings.shape[0], embeddings.shape[1]);
        return new(embeddings, positions ?? torch.arange(length, torch.int64).expand(batch, length));
    }

    /// <summary>All layers. Tensors that are made join the caller's dispose scope.</summary>
    private DecoderRows Run(DecoderRows rows, DecoderPhase phase, KvCache? cache)
    {
        DecoderHook[] hooks = [.. _hooks], readers = [.. _hooks.Where(hook => hook.ReadsAttention(phase))];
        var input = rows.Hidden;
        rows.Check(Options.Width, nameof(rows), cache is not null);
        RotaryTables? rotary = null;
        HostRows? host = null;
        for (var layer = 0; layer < _blocks.Length; layer++)
        {
            rotary ??= new(Options.Rotary, Options.HeadDim, rows.Positions);
            host ??= HostRowsOf(rows, cache);
            var hidden = _blocks[layer].Forward(layer, phase, rows, rotary, host, cache, readers);
            if (!ReferenceEquals(rows.Hidden, input))
                rows.Hidden.Dispose(); // the graph keeps what it needs
            rows = rows with { Hidden = hidden };
            foreach (var hook in hooks)
            {
                var next = hook.AfterLayer(layer, phase, rows);
                if (ReferenceEquals(next, rows))
                    continue;
                RequireSuccessor(next, rows, hook, cache);
                (rows, rotary, host) = (next, null, null);
            }
        }

        foreach (var hook in hooks)
            hook.AfterPass(phase, cache);
        return rows;
    }

    private void RequireSuccessor(DecoderRows next, DecoderRows rows, DecoderHook hook, KvCache? cache)
    {
        var name = hook.GetType().Name;
        if (next is null)
            throw new ArgumentException($"{name}: it returned no rows");
        next.Check(Options.Width, name, cache is not null);
        if (next.Hidden.shape[0] != rows.Hidden.shape[0] || next.Hidden.shape[1] > rows.Hidden.shape[1])
        {
            throw new ArgumentException(
                $"{name}: it made {Batches.Describe(next.Hidden)} of {Batches.Describe(rows.Hidden)}; it may drop rows, and add none");
        }
    }

    private static HostRows HostRowsOf(DecoderRows rows, KvCache? cache) => cache is null
        ? new([], [])
        : new(rows.HostPositions(), [.. Enumerable.Range(0, (int)rows.Hidden.shape[0]).Select(rows.Length)]);

    /// <summary>Takes a hook away.</summary>
    private sealed class HookScope(List<DecoderHook> hooks, DecoderHook hook) : IDisposable
    {
        public void Dispose() => hooks.Remove(hook);
    }
}
