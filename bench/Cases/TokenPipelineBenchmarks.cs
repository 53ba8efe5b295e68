using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>Score, select and compact, end to end.</summary>
internal static class TokenPipelineBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new TokenPipelineCase()];
}

/// <summary>
/// What FastV does behind layer 2 of LLaVA-1.5-7B: the attention of the last of 640 rows scores 576 visual tokens, half of which are kept;
/// hidden states and position ids follow. The error is the number of elements that differ; none may.
/// </summary>
internal sealed class TokenPipelineCase() : TokenCase(
    "pipeline-576x4096", "FastV: last-row scores of 32 heads, half of 576 visual tokens among 640, hidden states of 4,096 compacted")
{
    private const int Heads = 32, Depth = 128, Tokens = 640, Visual = 576, FirstVisual = 35, Width = 4096;
    private const int KeptVisual = Visual / 2, Kept = Tokens - Visual + KeptVisual;

    private Tensor _queries = null!, _last = null!, _keys = null!, _hidden = null!, _positions = null!;
    private Tensor _scores = null!, _segments = null!, _text = null!, _offsets = null!, _indices = null!, _before = null!, _after = null!;

    public override long Bytes => ((long)Heads * Tokens * Depth + 2L * Kept * Width) * sizeof(float);

    public override CaseArm Ours => new("TokenScores, TokenSelect, TokenCompact", () =>
    {
        (Tensor hidden, Tensor positions) = Prune(Backend);
        hidden.Dispose();
        positions.Dispose();
    });

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("last row only, topk, cat, sort, index_select", () => _ = Best()),
    ];

    public override CaseArm Published => ArmWithoutGrad("the whole matrix, topk, cat, sort, hidden[keep]", () =>
    {
        Tensor weights = torch.matmul(_queries, _keys.transpose(2, 3)).mul_(1 / Math.Sqrt(Depth)).softmax(-1);
        Tensor scores = weights.mean([1]).select(0, 0).select(0, -1).narrow(0, FirstVisual, Visual);
        Tensor keep = torch.cat([_before, scores.topk(KeptVisual).indexes + FirstVisual, _after]).sort().Values;
        _ = _hidden.index(torch.TensorIndex.Tensor(keep));
        _ = _positions.index(torch.TensorIndex.Tensor(keep));
    });

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        ((Tensor hidden, Tensor positions), (Tensor reference, _), (Tensor theirs, Tensor places)) =
            (Prune(Backend), Prune(AuxBackend.Reference), Best());
        return Within(
            0, "elements differ", hidden.ne(reference).sum().item<long>(), hidden.ne(theirs).sum().item<long>(),
            positions.ne(places).sum().item<long>());
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(TokenScores.IsSupported(backend, out string reason), nameof(TokenScores), backend, reason);

    protected override void Allocate(int seed)
    {
        _queries = Keep(torch.randn(1, Heads, Tokens, Depth));
        _last = Keep(_queries.narrow(2, Tokens - 1, 1).contiguous());
        _keys = Keep(torch.randn(1, Heads, Tokens, Depth));
        _hidden = Keep(torch.randn(Tokens, Width));
        _positions = Keep(torch.arange(Tokens, dtype: torch.int64));
        _scores = Keep(torch.zeros(1, Tokens));
        _segments = Keep(torch.tensor(new[] { 0, Tokens }));
        _text = Keep(torch.ones(Tokens, torch.@bool));
        using (Tensor visual = _text.narrow(0, FirstVisual, Visual)) visual.fill_(false);
        _offsets = Keep(torch.zeros(2, torch.int32));
        _indices = Keep(torch.zeros(Kept, torch.int32));
        _before = Keep(torch.arange(FirstVisual, dtype: torch.int64));
        _after = Keep(torch.arange(FirstVisual + Visual, Tokens, dtype: torch.int64));
    }

    private (Tensor Hidden, Tensor Positions) Prune(AuxBackend backend)
    {
        Tensor hidden = torch.empty(Kept, Width), positions = torch.empty(Kept, torch.int64);
        TensorView segments = View(_segments);
        var selection = new SelectionViews { Indices = View(_indices), Offsets = View(_offsets) };
        TokenScores.Run(new() { Queries = View(_last), Keys = View(_keys), Scores = View(_scores) }, backend: backend);
        using Tensor scores = _scores.view(-1);
        TokenSelect.Run(View(scores), segments, Budget.Count(Kept), selection, View(_text), backend);
        TokenCompact.Run(
            [TokenRows.Ragged(View(_hidden), View(hidden)), TokenRows.Ragged(View(_positions), View(positions))], segments, selection,
            backend);
        return (hidden, positions);
    }

    private (Tensor Hidden, Tensor Positions) Best()
    {
        Tensor weights = torch.matmul(_last, _keys.transpose(2, 3)).mul_(1 / Math.Sqrt(Depth)).softmax(-1);
        Tensor scores = weights.mean([0, 1, 2]).narrow(0, FirstVisual, Visual);
        Tensor visual = scores.topk(KeptVisual, sorted: false).indexes.add_(FirstVisual);
        Tensor keep = torch.cat([_before, visual.sort().Values, _after]);
        return (_hidden.index_select(0, keep), _positions.index_select(0, keep));
    }
}
