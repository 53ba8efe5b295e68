using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="TokenScores"/>.</summary>
internal static class TokenScoresBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new TokenScoresCase(
            "scores-last-row-32x640", "FastV's score: mean attention of the last of 640 rows, 32 heads of 128", 32, 32, 1, 640),
        () => new TokenScoresCase(
            "scores-last-row-28x16384", "the same of 16,384 keys, 28 heads that share 4 heads of keys", 28, 4, 1, 16384),
        () => new TokenScoresCase(
            "scores-all-rows-16x577", "mean attention of all rows of a ViT-L/14 at 336 pixels, heads of 64", 16, 16, 577, 577),
    ];
}

/// <summary>Attention-column scores; the log-sum-exp is not given. Errors relative to the largest score.</summary>
internal sealed class TokenScoresCase(string name, string description, int heads, int keyHeads, int rows, int tokens)
    : TokenCase(name, description)
{
    private const double Tolerance = 8e-6;

    private readonly int _depth = rows > 1 ? 64 : 128;
    private Tensor _queries = null!, _all = null!, _keys = null!, _scores = null!;

    public override long Bytes => ((long)heads * rows * _depth + (long)keyHeads * tokens * _depth + tokens) * sizeof(float);

    public override CaseArm Ours
    {
        get
        {
            var tensors = Tensors(_scores);
            return new("TokenScores.Run", () => TokenScores.Run(tensors, backend: Backend));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("matmul, softmax, mean", () =>
        {
            Tensor logits = torch.matmul(Grouped(_queries), _keys.transpose(2, 3)); // the rows of a group share a product
            _ = logits.mul_(Scale).softmax(-1).sum([0, 1, 2]).div_(heads * rows);
        }),
        ArmWithoutGrad("baddbmm, softmax, mean", () =>
        {
            Tensor zero = torch.zeros(1), queries = Grouped(_queries).squeeze(0);
            Tensor logits = queries.baddbmm(_keys.squeeze(0).transpose(1, 2), zero, beta: 0, alpha: (float)Scale);
            _ = logits.softmax(-1).sum([0, 1]).div_(heads * rows);
        }),
    ];

    // FastV takes the last row of the mean over heads of the whole attention matrix. With all rows there is nothing left to leave out.
    public override CaseArm? Published => rows > 1 || tokens > 4096 ? null : ArmWithoutGrad("the whole matrix, as FastV's code", () =>
    {
        Tensor logits = torch.matmul(_all, _keys.transpose(2, 3)).mul_(Scale);
        _ = logits.softmax(-1).mean([1]).select(1, -1);
    });

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor expected = torch.zeros_like(_scores);
        Ours.Run();
        TokenScores.Run(Tensors(expected), backend: AuxBackend.Reference);
        Tensor keys = _keys.repeat_interleave(heads / keyHeads, 1);
        Tensor theirs = torch.matmul(_queries, keys.transpose(2, 3)).mul(Scale).softmax(-1).mean([1, 2]);
        return Within(
            Tolerance, "of the largest score", RelativeToLargest(_scores, expected), RelativeToLargest(_scores, theirs));
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(TokenScores.IsSupported(backend, out string reason), nameof(TokenScores), backend, reason);

    protected override void Allocate(int seed)
    {
        _queries = Keep(torch.randn(1, heads, rows, _depth));
        _all = Keep(Published is null ? torch.zeros(0) : torch.randn(1, heads, tokens, _depth));
        _keys = Keep(torch.randn(1, keyHeads, tokens, _depth));
        _scores = Keep(torch.zeros(1, tokens));
    }

    private double Scale => 1 / Math.Sqrt(_depth);

    private Tensor Grouped(Tensor queries) => queries.view(1, keyHeads, heads / keyHeads * rows, _depth);

    private ScoreTensors Tensors(Tensor scores) => new() { Queries = View(_queries), Keys = View(_keys), Scores = View(scores) };
}
