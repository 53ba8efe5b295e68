using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="KvWindowScores"/>.</summary>
internal static class KvWindowScoresBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new KvWindowScoresCase("window-scores-n8192")];
}

/// <summary>SnapKV's scores of one head of keys, from finished logits. Errors are parts of the greatest score.</summary>
internal sealed class KvWindowScoresCase(string name)
    : KvCase(name, "mean softmax of 64 queries of 4 heads over 8,192 positions, from logits in float32")
{
    private const int Group = 4, Window = 64, Positions = 8192;
    private const double Tolerance = 1e-5;

    private Tensor _logits = null!, _scores = null!;

    public override string DType => "f32";

    public override long Bytes => ((long)Group * Window + 1) * Positions * sizeof(float);

    public override CaseArm Ours => new("KvWindowScores.Run", Score(_scores, Backend));

    public override IReadOnlyList<CaseArm> BestCandidates =>
        [Arm("softmax, mean", () => _ = _logits.softmax(-1).mean([1, 2]))];

    public override double Verify()
    {
        using Tensor expected = torch.zeros_like(_scores);
        Score(expected, AuxBackend.Reference)();
        Ours.Run();
        using Tensor difference = (_scores - expected).abs_();
        using Tensor most = difference.max(), greatest = expected.max();
        double error = most.item<float>() / greatest.item<float>();
        return error <= Tolerance
            ? error
            : throw new VerificationException($"{error:0.#e0} of the greatest from the reference, {Tolerance} allowed", error);
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(KvWindowScores.IsSupported(backend, out string reason), nameof(KvWindowScores), backend, reason);

    protected override void Allocate()
    {
        _logits = Keep(torch.randn(1, Group, Window, Positions));
        _scores = Keep(torch.zeros(1, Positions));
    }

    private Action Score(Tensor result, AuxBackend backend)
    {
        TensorView logits = View(_logits), scores = View(result);
        return () => KvWindowScores.Run(logits, scores, causal: false, backend: backend);
    }
}
