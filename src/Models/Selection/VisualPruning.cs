using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Prunes the visual tokens of a prompt between the layers of a <see cref="CausalDecoder"/>, by a policy: while it learns, where gradients
/// go through what was kept, and while it fills a cache, which then holds in each layer only the rows that reached it.
/// <code>
/// using var pruning = VisualPruning.Of(decoder, new FastV(2, Budget.Ratio(0.5)));
/// pruning.Begin(SequenceLayout.Uniform(batch, length, visual: 1..577), embeddings);
/// var logits = decoder.PrefillEmbeddings(embeddings, cache);
/// </code>
/// </summary>
/// <remarks>
/// Text rows are never dropped. Each call of <see cref="Begin"/> is for one pass, forward or prefill; other passes are not pruned. After a
/// policy that renumbers, tokens that follow are numbered likewise in the layers behind each cut, until the next prompt begins; <see
/// cref="KvCache.Rewind(int)"/>, which goes by positions, then means other tokens in those layers.
/// </remarks>
public sealed class VisualPruning : DecoderHook, IDisposable
{
    private readonly CausalDecoder _decoder;
    private readonly DecoderPruning _policy;
    private readonly Dictionary<int, long[]> _shifts = []; // by cut: what positions are lower by, for each sequence
    private readonly Dictionary<int, SequenceLayout> _after = []; // by cut: what went on
    private IDisposable? _hook;
    private SequenceLayout? _prompt, _layout;
    private Tensor? _inputs, _queries, _keys;
    private bool _pending;

    private VisualPruning(CausalDecoder decoder, DecoderPruning policy) => (_decoder, _policy) = (decoder, policy);

    /// <summary>Lets a policy prune a decoder's prompts until the result is disposed.</summary>
    /// <param name="decoder">The decoder.</param>
    /// <param name="policy">What decides.</param>
    /// <exception cref="ArgumentException">The policy cuts behind the last layer, or after it.</exception>
    public static VisualPruning Of(CausalDecoder decoder, DecoderPruning policy)
    {
        ArgumentNullException.ThrowIfNull(decoder);
        ArgumentNullException.ThrowIfNull(policy);
        var layers = decoder.Options.Layers.Count;
        if (policy.Cuts.Count > 0 && policy.Cuts[^1] >= layers)
        {
            throw new ArgumentException(
                $"policy: {policy.GetType().Name} prunes after {policy.Cuts[^1]} layers, but the decoder has {layers}", nameof(policy));
        }

        var pruning = new VisualPruning(decoder, policy);
        pruning._hook = decoder.AddHook(pruning);
        return pruning;
    }

    /// <summary>The sequences as they left the last pass that was pruned, or as <see cref="Begin"/> got them.</summary>
    /// <exception cref="InvalidOperationException">Nothing was begun.</exception>
    public SequenceLayout Layout =>
        _layout ?? throw new InvalidOperationException("There is no layout before Begin says what the prompt is.");

    /// <summary>The sequences as a layer got them in the last pass that was pruned: what its cache was filled with.</summary>
    /// <param name="layer">Which layer.</param>
    /// <exception cref="InvalidOperationException">Nothing was begun.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer.</exception>
    public SequenceLayout LayoutOf(int layer)
    {
        if (layer < 0 || layer >= _decoder.Options.Layers.Count)
            throw new ArgumentOutOfRangeException(nameof(layer), layer, $"It is not within 0 and {_decoder.Options.Layers.Count - 1}.");
        _ = Layout;
        var layout = _prompt!;
        for (var cut = 0; cut < _policy.Cuts.Count && _policy.Cuts[cut] <= layer; cut++)
            layout = _after.GetValueOrDefault(cut, layout);
        return layout;
    }

    /// <summary>How many scores were NaN in the last pass; such tokens rank last.</summary>
    public int NaNScores { get; private set; }

    /// <summary>Says what the next pass reads, which is then pruned.</summary>
    /// <param name="layout">The sequences of the prompt.</param>
    /// <param name="embeddings">float32 [B, L, D]: what the decoder will be given.</param>
    /// <exception cref="ArgumentException">The embeddings do not hold these sequences.</exception>
    public void Begin(SequenceLayout layout, Tensor embeddings)
    {
        ObjectDisposedException.ThrowIf(_hook is null, this);
        ArgumentNullException.ThrowIfNull(layout);
        layout.Require(embeddings, nameof(embeddings));
        Clear();
        _shifts.Clear();
        _after.Clear();
        _inputs = embeddings.detach().DetachFromDisposeScope();
        (_prompt, _layout, _pending, NaNScores) = (layout, layout, true, 0);
    }

    /// <inheritdoc/>
    public override bool ReadsAttention(DecoderPhase phase) => _pending && phase != DecoderPhase.Decode;

    /// <inheritdoc/>
    public override void AfterAttention(LayerAttention attention)
    {
        ArgumentNullException.ThrowIfNull(attention);
        if (!_pending || attention.Phase == DecoderPhase.Decode || CutAfter(attention.Layer) < 0)
            return;
        _queries?.Dispose();
        _keys?.Dispose();
        _queries = attention.Queries.detach().DetachFromDisposeScope();
        _keys = attention.Keys.detach().DetachFromDisposeScope();
    }

    /// <inheritdoc/>
    public override DecoderRows AfterLayer(int layer, DecoderPhase phase, DecoderRows rows)
    {
        ArgumentNullException.ThrowIfNull(rows);
        var cut = CutAfter(layer);
        if (cut < 0)
            return rows;
        if (_pending && phase != DecoderPhase.Decode)
            return Prune(layer, cut, rows);
        return phase == DecoderPhase.Forward ? rows : Shift(cut, rows);
    }

    /// <inheritdoc/>
    public override void AfterPass(DecoderPhase phase, KvCache? cache)
    {
        if (phase != DecoderPhase.Decode)
            Clear();
    }

    /// <summary>Takes the policy away from the decoder.</summary>
    public void Dispose()
    {
        _hook?.Dispose();
        _hook = null;
        Clear();
    }

    private DecoderRows Prune(int layer, int cut, DecoderRows rows)
    {
        using var scope = torch.NewDisposeScope();
        var layout = Layout;
        layout.Require(rows.Hidden, nameof(rows));
        if (rows.KeyMask is not null)
            throw new ArgumentException("rows: pruning takes sequences that are padded at the end, without a key mask", nameof(rows));
        var selection = _policy.Choose(
            new DecoderState(() => _decoder.Project(layer + 1, rows))
            {
                Layers = layer + 1,
                Layout = layout,
                Hidden = rows.Hidden,
                Queries = _queries!,
                Keys = _keys!,
                Inputs = _inputs!,
                InputLayout = _prompt!,
            },
            cut);
        RequireFits(selection, layout);
        NaNScores += selection.NaNScores;
        if (selection.IsAll)
        {
            _shifts[cut] = new long[layout.Batch];
            return rows;
        }

        var (keep, groups) = Places(selection, layout);
        var kept = torch.tensor(keep, [layout.Batch, layout.Longest]);
        var segments = torch.tensor(layout.Segments.ToArray());
        using var plan = TokenPlan.Select(kept, Budget.Threshold(1), segments);
        var hidden = Reduce(rows.Hidden, selection, plan, groups, layout);
        var next = layout.Keep(keep);
        _shifts[cut] = Shifts(rows, layout, next);
        _after[cut] = _layout = next;
        return new DecoderRows(
            hidden.MoveToOuterDisposeScope(), plan.Positions(_policy.Positions, rows.Positions).MoveToOuterDisposeScope())
        {
            Lengths = [.. Enumerable.Range(0, next.Batch).Select(next.Length)],
        };
    }

    // One node of the graph either way: rows that are copied keep their bits.
    private static Tensor Reduce(Tensor hidden, VisualSelection selection, TokenPlan plan, int[] groups, SequenceLayout layout)
    {
        if (!selection.Merges)
            return plan.Apply(hidden);
        using var merging = TokenMerging.Of(torch.tensor(groups, [layout.Batch, layout.Longest]), checked((int)plan.Length));
        return merging.Apply(hidden);
    }

    // Of each place of the padded sequences: 1 where its row goes on, and the row of the result that it goes into or −1.
    private static (float[] Keep, int[] Groups) Places(VisualSelection selection, SequenceLayout layout)
    {
        var keep = new float[layout.Batch * layout.Longest];
        var groups = new int[keep.Length];
        Array.Fill(groups, -1);
        var rowOf = new int[selection.Owners.Length];
        for (var b = 0; b < layout.Batch; b++)
        {
            var flags = layout.Visual(b);
            var (first, row) = (b * layout.Longest, 0);
            for (int i = 0, token = layout.VisualSegments[b]; i < flags.Length; i++)
            {
                var slot = flags[i] ? selection.Slots[token] : -1;
                var goesOn = !flags[i] || (slot >= 0 && selection.Owners[slot] == token);
                token += flags[i] ? 1 : 0;
                if (!goesOn)
                    continue;
                if (slot >= 0)
                    rowOf[slot] = row;
                (keep[first + i], groups[first + i]) = (1, row++);
            }

            for (int i = 0, token = layout.VisualSegments[b]; i < flags.Length; i++)
            {
                if (flags[i] && selection.Slots[token++] is >= 0 and var slot)
                    groups[first + i] = rowOf[slot];
            }
        }

        return (keep, groups);
    }

    // How much lower the next position is than it would have been.
    private long[] Shifts(DecoderRows rows, SequenceLayout before, SequenceLayout after)
    {
        var shifts = new long[before.Batch];
        if (_policy.Positions == PositionMode.Keep)
            return shifts;
        var positions = rows.HostPositions();
        for (var b = 0; b < shifts.Length; b++)
            shifts[b] = positions[b * before.Longest + before.Length(b) - 1] + 1 - after.Length(b);
        return shifts;
    }

    private DecoderRows Shift(int cut, DecoderRows rows)
    {
        if (!_shifts.TryGetValue(cut, out var shifts) || Array.TrueForAll(shifts, shift => shift == 0))
            return rows;
        if (shifts.Length != rows.Hidden.shape[0])
        {
            throw new ArgumentException(
                $"rows: {rows.Hidden.shape[0]} sequences go on from a prompt of {shifts.Length}; begin it anew", nameof(rows));
        }

        using var scope = torch.NewDisposeScope();
        return rows with { Positions = (rows.Positions - torch.tensor(shifts).unsqueeze(1)).MoveToOuterDisposeScope() };
    }

    private void RequireFits(VisualSelection selection, SequenceLayout layout)
    {
        if (selection is null)
            throw new InvalidOperationException($"{_policy.GetType().Name} selected nothing.");
        if (selection.Slots.Length != layout.VisualTokens || selection.Offsets.Length != layout.Batch + 1)
        {
            throw new InvalidOperationException(
                $"{_policy.GetType().Name} selected of {selection.Slots.Length} visual tokens, but there are {layout.VisualTokens}.");
        }
    }

    private int CutAfter(int layer)
    {
        for (var cut = 0; cut < _policy.Cuts.Count; cut++)
        {
            if (_policy.Cuts[cut] == layer + 1)
                return cut;
        }

        return -1;
    }

    private void Clear()
    {
        _pending = false;
        _inputs?.Dispose();
        _queries?.Dispose();
        _keys?.Dispose();
        (_inputs, _queries, _keys) = (null, null, null);
    }
}
