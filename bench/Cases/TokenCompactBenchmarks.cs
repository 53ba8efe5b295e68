using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="TokenCompact"/>.</summary>
internal static class TokenCompactBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new CompactHiddenCase(), () => new CompactBackwardCase(), () => new CompactCacheCase(),
    ];
}

/// <summary>What the cases share: 1,820 of 16,384 tokens are kept. The error is the number of elements that differ; none may.</summary>
internal abstract class CompactCase(string name, string description) : TokenCase(name, description)
{
    protected const int Tokens = 16_384, Kept = 1820, Width = 3584;

    public override string DType => "bf16";

    protected Tensor Index { get; private set; } = null!;

    protected TensorView Segments { get; private set; }

    protected SelectionViews Selection { get; private set; }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(TokenCompact.IsSupported(backend, out string reason), nameof(TokenCompact), backend, reason);

    protected override void Allocate(int seed)
    {
        Tensor segments = Keep(torch.tensor(new[] { 0, Tokens })), offsets = Keep(torch.zeros(2, torch.int32));
        Tensor indices = Keep(torch.zeros(Kept, torch.int32)), slots = Keep(torch.zeros(Tokens, torch.int32));
        Segments = View(segments);
        Selection = new() { Indices = View(indices), Offsets = View(offsets), Slots = View(slots) };
        using Tensor scores = torch.rand(Tokens);
        TokenSelect.Run(View(scores), Segments, Budget.Count(Kept), Selection);
        Index = Keep(indices.to_type(torch.int64));
    }

    protected static double Differing(Tensor actual, Tensor expected)
    {
        using Tensor differ = actual.ne(expected), sum = differ.sum();
        return Within(0, "elements differ", sum.item<long>());
    }
}

/// <summary>Hidden states into memory that is allocated for them, in ours as in the baselines.</summary>
internal sealed class CompactHiddenCase() : CompactCase(
    "compact-hidden-16384x3584", "hidden states of the 1,820 kept of 16,384 tokens, as in Qwen2-VL-7B")
{
    private Tensor _hidden = null!;

    public override long Bytes => 2L * Kept * Width * sizeof(ushort);

    public override CaseArm Ours => new("TokenCompact.Run", () => Compact(Backend).Dispose());

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        new("index_select", () => _hidden.index_select(0, Index).Dispose()),
        new("gather with an expanded index", () =>
        {
            using Tensor index = Index.unsqueeze(1), expanded = index.expand(Kept, Width);
            _hidden.gather(0, expanded).Dispose();
        }),
    ];

    public override CaseArm Published =>
        new("hidden[keep], as FastV has it", () => _hidden.index(torch.TensorIndex.Tensor(Index)).Dispose());

    public override double Verify()
    {
        using Tensor ours = Compact(Backend), reference = Compact(AuxBackend.Reference), theirs = _hidden.index_select(0, Index);
        return Math.Max(Differing(ours, reference), Differing(ours, theirs));
    }

    protected override void Allocate(int seed)
    {
        base.Allocate(seed);
        _hidden = Keep(torch.randn(Tokens, Width).to_type(torch.bfloat16));
    }

    private Tensor Compact(AuxBackend backend)
    {
        Tensor compacted = torch.empty(Kept, Width, torch.bfloat16);
        TokenCompact.Run([TokenRows.Ragged(View(_hidden), View(compacted))], Segments, Selection, backend);
        return compacted;
    }
}

/// <summary>The gradient of the same, zeros included.</summary>
internal sealed class CompactBackwardCase() : CompactCase(
    "compact-backward-16384x3584", "the gradient of that, spread over all tokens, zeros included")
{
    private Tensor _output = null!, _gradient = null!;
    private Scalar _zero = null!, _one = null!;

    public override long Bytes => (Kept + (long)Tokens) * Width * sizeof(ushort);

    public override CaseArm Ours => new("TokenCompact.Backward", () => Spread(_gradient, Backend));

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        new("fill_(0), index_copy_", () => _gradient.fill_(_zero).index_copy_(0, Index, _output)),
        new("fill_(0), index_add_", () => _gradient.fill_(_zero).index_add_(0, Index, _output, _one)),
    ];

    public override double Verify()
    {
        using Tensor reference = torch.ones_like(_gradient), theirs = torch.zeros_like(_gradient);
        _gradient.fill_(_one);
        Spread(_gradient, Backend);
        Spread(reference, AuxBackend.Reference);
        theirs.index_copy_(0, Index, _output);
        return Math.Max(Differing(_gradient, reference), Differing(_gradient, theirs));
    }

    protected override void Allocate(int seed)
    {
        base.Allocate(seed);
        (_zero, _one) = (Keep(0.ToScalar()), Keep(1.ToScalar()));
        _output = Keep(torch.randn(Kept, Width).to_type(torch.bfloat16));
        _gradient = Keep(torch.zeros(Tokens, Width, torch.bfloat16));
    }

    private void Spread(Tensor gradient, AuxBackend backend) =>
        TokenCompact.Backward([TokenRows.Ragged(View(_output), View(gradient))], Segments, Selection, backend);
}

/// <summary>
/// Keys and values of 28 layers. Ours moves them in place; the baselines make new tensors, as caches made of tensors are pruned, and leave
/// the old ones alone.
/// </summary>
internal sealed class CompactCacheCase() : CompactCase(
    "compact-kv-28x16384", "keys and values of 28 layers, 4 heads of 128, 1,820 kept of 16,384 tokens")
{
    private const int Layers = 28, Heads = 4, Depth = 128;

    private Tensor _cache = null!;
    private Tensor[] _tensors = null!;
    private TokenRows[] _rows = null!;

    public override long Bytes => 2L * 2 * Layers * Heads * Kept * Depth * sizeof(ushort);

    public override CaseArm Ours => new("TokenCompact.Run, in place", () => TokenCompact.Run(_rows, Segments, Selection, Backend));

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        Arm("index_select per tensor", () =>
        {
            foreach (Tensor tensor in _tensors) _ = tensor.index_select(2, Index);
        }),
        new("index_select of one stacked cache", () => _cache.index_select(3, Index).Dispose()),
    ];

    public override CaseArm Published => Arm("gather with an expanded index, per tensor", () =>
    {
        Tensor index = Index.view(1, 1, Kept, 1).expand(1, Heads, Kept, Depth);
        foreach (Tensor tensor in _tensors) _ = tensor.gather(2, index);
    });

    public override double Verify()
    {
        using Tensor expected = _cache.index_select(3, Index);
        using Tensor first = _tensors[0].clone();
        TokenRows rows = TokenRows.Padded(View(first), View(first), 0, 2);
        TokenCompact.Run([rows], Segments, Selection, AuxBackend.Reference);
        TokenCompact.Run(_rows, Segments, Selection, Backend);
        using Tensor kept = _cache.narrow(3, 0, Kept);
        return Math.Max(Differing(kept, expected), Differing(_tensors[0], first));
    }

    protected override void Allocate(int seed)
    {
        base.Allocate(seed);
        _cache = Keep(torch.randint(-100, 100, [2 * Layers, 1, Heads, Tokens, Depth], torch.bfloat16));
        _tensors = [.. Enumerable.Range(0, 2 * Layers).Select(layer => Keep(_cache.select(0, layer)))];
        _rows = [.. _tensors.Select(tensor => TokenRows.Padded(View(tensor), View(tensor), 0, 2))];
    }
}
