using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="TokenSelect"/>.</summary>
internal static class TokenSelectBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new TokenSelectCase("select-16384", "the 1,820 best of 16,384 tokens, in order, and each token's place", 1, 16384, 1820),
        () => new TokenSelectCase("select-32x576", "the 64 best of 576 tokens of each of 32 images", 32, 576, 64),
    ];
}

/// <summary>
/// Indices in order and the inverse map, from scores like those of attention: few are large. The error is the number of entries that differ
/// from the reference; none may.
/// </summary>
internal sealed class TokenSelectCase(string name, string description, int images, int tokens, int kept) : TokenCase(name, description)
{
    private Tensor _scores = null!, _segments = null!, _indices = null!, _offsets = null!, _slots = null!, _places = null!, _starts = null!;

    public override long Bytes => (long)images * (tokens * (sizeof(float) + sizeof(int)) + kept * sizeof(int));

    public override CaseArm Ours
    {
        get
        {
            var (scores, segments, budget) = (View(_scores.view(-1)), View(_segments), Budget.Count(kept));
            var selection = Outputs(_indices, _offsets, _slots);
            return new("TokenSelect.Run", () => TokenSelect.Run(scores, segments, budget, selection, backend: Backend));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("topk unsorted, sort, scatter_", () =>
        {
            Tensor best = _scores.topk(kept, dim: 1, largest: true, sorted: false).indexes.sort(1).Values;
            _ = torch.full(images, tokens, -1L, dtype: torch.int64).scatter_(1, best, _places);
        }),
        ArmWithoutGrad("topk sorted, sort, scatter_", () =>
        {
            Tensor best = _scores.topk(kept, dim: 1).indexes.sort(1).Values;
            _ = torch.full(images, tokens, -1L, dtype: torch.int64).scatter_(1, best, _places);
        }),
        ArmWithoutGrad("kthvalue, ge, nonzero, scatter_", () =>
        {
            Tensor least = _scores.kthvalue(tokens - kept + 1, 1, keepdim: true).values;
            Tensor best = _scores.ge(least).nonzero().select(1, 1).view(images, kept); // without ties
            _ = torch.full(images, tokens, -1L, dtype: torch.int64).scatter_(1, best, _places);
        }),
    ];

    // FastV: top_attention_rank_index = topk(…).indices, then sort().values; it makes no inverse map.
    public override CaseArm Published => ArmWithoutGrad("FastV's topk and sort, no inverse map", () =>
        _ = _scores.topk(kept, dim: 1).indexes.sort(1).Values.add(_starts));

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor indices = torch.zeros_like(_indices), offsets = torch.zeros_like(_offsets), slots = torch.zeros_like(_slots);
        Ours.Run();
        TokenSelect.Run(
            View(_scores.view(-1)), View(_segments), Budget.Count(kept), Outputs(indices, offsets, slots), backend: AuxBackend.Reference);
        long wrong = new[] { (_indices, indices), (_offsets, offsets), (_slots, slots) }.Sum(
            pair => pair.Item1.ne(pair.Item2).sum().item<long>());
        return Within(0, "entries differ", wrong);
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(TokenSelect.IsSupported(backend, out string reason), nameof(TokenSelect), backend, reason);

    protected override void Allocate(int seed)
    {
        _scores = Keep(torch.randn(images, tokens).mul(2).softmax(1));
        _segments = Keep(torch.arange(0, images + 1, dtype: torch.int32).mul(tokens));
        _starts = Keep(torch.arange(0, images, dtype: torch.int64).mul(tokens).unsqueeze(1));
        _places = Keep(torch.arange(0, (long)images * kept, dtype: torch.int64).view(images, kept));
        _indices = Keep(torch.zeros((long)images * kept, torch.int32));
        _offsets = Keep(torch.zeros(images + 1, torch.int32));
        _slots = Keep(torch.zeros((long)images * tokens, torch.int32));
    }

    private static SelectionViews Outputs(Tensor indices, Tensor offsets, Tensor slots) =>
        new() { Indices = View(indices), Offsets = View(offsets), Slots = View(slots) };
}
