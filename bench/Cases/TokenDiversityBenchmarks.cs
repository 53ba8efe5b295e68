using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="TokenDiversity"/>.</summary>
internal static class TokenDiversityBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new TokenDiversityCase(576, 4096, 64)];
}

/// <summary>The error is the number of tokens that differ from the reference; none may.</summary>
internal sealed class TokenDiversityCase(int tokens, int width, int kept)
    : TokenCase($"maxmin-{tokens}-k{kept}", $"the {kept} of {tokens} tokens of {width} channels that are most unlike each other")
{
    private Tensor _tokens = null!, _segments = null!, _indices = null!, _offsets = null!;

    public override long Bytes => (long)tokens * width * sizeof(float) + kept * sizeof(int);

    public override CaseArm Ours
    {
        get
        {
            var (rows, segments, selection) = (View(_tokens), View(_segments), Outputs(_indices));
            return new("TokenDiversity.Run", () => TokenDiversity.Run(rows, segments, kept, selection, Backend));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates => [ArmWithoutGrad("mm, running maximum", () => _ = RunningMaximum())];

    // DivPrune slices the growing set's columns out of the matrix at each step.
    public override CaseArm Published => ArmWithoutGrad("DivPrune's operations: index_select, min, argmax a step", () =>
    {
        Tensor unit = _tokens / _tokens.norm(1, keepdim: true);
        Tensor distance = 1 - torch.matmul(unit, unit.t());
        Tensor chosen = torch.zeros(kept, torch.int64);
        for (int step = 0; step < kept; step++)
        {
            Tensor least = step == 0
                ? distance.topk(2, dim: 0, largest: false).values.select(0, 1)
                : distance.index_select(0, chosen.narrow(0, 0, step)).min(0).values;
            chosen.narrow(0, step, 1).copy_(least.argmax());
        }
    });

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor expected = torch.zeros_like(_indices);
        Ours.Run();
        TokenDiversity.Run(View(_tokens), View(_segments), kept, Outputs(expected), AuxBackend.Reference);
        Tensor theirs = RunningMaximum();
        return Within(
            0, "tokens differ", _indices.ne(expected).sum().item<long>(), theirs.sort(0).Values.ne(_indices).sum().item<long>());
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(TokenDiversity.IsSupported(backend, out string reason), nameof(TokenDiversity), backend, reason);

    protected override void Allocate(int seed)
    {
        _tokens = Keep(torch.randn(tokens, width));
        _segments = Keep(torch.tensor(new[] { 0, tokens }));
        _indices = Keep(torch.zeros(kept, torch.int32));
        _offsets = Keep(torch.zeros(2, torch.int32));
    }

    private SelectionViews Outputs(Tensor indices) => new() { Indices = View(indices), Offsets = View(_offsets) };

    // One product; then the similarity to the nearest chosen token is kept up, a row of the product a step.
    private Tensor RunningMaximum()
    {
        Tensor unit = _tokens / _tokens.norm(1, keepdim: true);
        Tensor similar = torch.mm(unit, unit.t());
        similar.diagonal().fill_(float.NegativeInfinity);
        Tensor nearest = similar.amax([1]);
        Tensor[] chosen = new Tensor[kept];
        for (int step = 0; step < kept; step++)
        {
            chosen[step] = nearest.argmin(0, true);
            Tensor row = similar.index_select(0, chosen[step]).squeeze(0);
            nearest = step == 0 ? row : torch.maximum(nearest, row);
            nearest.index_fill_(0, chosen[step], float.PositiveInfinity);
        }

        return torch.cat(chosen, 0);
    }
}
