using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="TokenPool"/>.</summary>
internal static class TokenPoolBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new TokenPoolCase(128, 3584, 4)];
}

/// <summary>Windows of TVC over tokens in float32, [B, tokens, channels]. Errors relative to the largest mean.</summary>
internal sealed class TokenPoolCase(int side, int channels, int window)
    : TokenCase($"pool-{side}x{side}x{channels}", $"windows of {window} x {window} over {side} x {side} tokens of {channels} channels")
{
    private const double Tolerance = 1e-6;

    private readonly int _cells = (side + window - 1) / window;
    private readonly PoolGrid _grid = PoolGrid.Window(side, side, window, window);
    private Tensor _tokens = null!;

    public override long Bytes => ((long)side * side + _cells * _cells) * channels * sizeof(float);

    public override CaseArm Ours => new("TokenPool.Run", () => Pool(Backend).Dispose());

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        // [1, C, H, W] whose memory is channels last, which libtorch pools as it lies.
        ArmWithoutGrad("avg_pool2d, channels last", () => _ = torch.nn.functional.avg_pool2d(Image(), window, window)),
        ArmWithoutGrad("view, mean", () => _ = _tokens.view(1, _cells, window, _cells, window, channels).mean([2, 4])),
        ArmWithoutGrad("adaptive_avg_pool2d, channels last", () => _ = torch.nn.functional.adaptive_avg_pool2d(Image(), _cells)),
    ];

    public override CaseArm Published => ArmWithoutGrad("permute, contiguous, avg_pool2d, permute back", () =>
        _ = torch.nn.functional.avg_pool2d(Image().contiguous(), window, window).permute(0, 2, 3, 1).contiguous());

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor ours = Pool(Backend), reference = Pool(AuxBackend.Reference);
        Tensor theirs = torch.nn.functional.avg_pool2d(Image(), window, window).permute(0, 2, 3, 1).reshape(1, -1, channels);
        return Within(Tolerance, "of the largest mean", RelativeToLargest(ours, reference), RelativeToLargest(ours, theirs));
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(TokenPool.IsSupported(backend, out string reason), nameof(TokenPool), backend, reason);

    protected override void Allocate(int seed) => _tokens = Keep(torch.randn(1, side * side, channels));

    private Tensor Image() => _tokens.view(1, side, side, channels).permute(0, 3, 1, 2);

    private Tensor Pool(AuxBackend backend)
    {
        Tensor pooled = torch.empty(1, _grid.Cells, channels);
        TokenPool.Run(View(_tokens), _grid, View(pooled), backend);
        return pooled;
    }
}
