using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="TokenMerge"/>.</summary>
internal static class TokenMergeBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new TokenMergeCase(577, 1024, 64, 23)];
}

/// <summary>
/// ToMe's step in a block of a ViT-L/14 at 336 pixels: match by keys, merge hidden states weighted by sizes. Ours keeps the order of the
/// tokens, the baselines put those that were not candidates last, as ToMe does. Errors relative to the largest element.
/// </summary>
internal sealed class TokenMergeCase(int tokens, int width, int depth, int merged) : TokenCase(
    $"merge-{tokens}x{width}", $"the {merged} most similar of {tokens} tokens of {width} channels merged, by keys of {depth}")
{
    private const double Tolerance = 2e-6;

    private Tensor _tokens = null!, _metric = null!, _sizes = null!, _segments = null!, _slots = null!, _offsets = null!;
    private Tensor _merged = null!, _mergedSizes = null!;

    public override long Bytes => (2L * tokens - merged) * width * sizeof(float) + (long)tokens * depth * sizeof(float);

    public override CaseArm Ours
    {
        get
        {
            var (rows, metric, sizes, slots) = (View(_tokens), View(_metric), View(_sizes), View(_slots));
            var (segments, offsets, to, toSizes) = (View(_segments), View(_offsets), View(_merged), View(_mergedSizes));
            return new("TokenMerge.Bipartite, Run", () => Merge(Backend, rows, metric, sizes, segments, slots, offsets, to, toSizes));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("topk, index_add_, in place", () => _ = Best()),
    ];

    public override CaseArm Published => ArmWithoutGrad("ToMe's operations: argsort, gather, scatter_add, cat", () => _ = AsToMe());

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Ours.Run();
        Tensor slots = _slots.clone(), to = torch.zeros_like(_merged), toSizes = torch.zeros_like(_mergedSizes);
        Merge(
            AuxBackend.Reference, View(_tokens), View(_metric), View(_sizes), View(_segments), View(slots), View(_offsets), View(to),
            View(toSizes));
        long differ = slots.ne(_slots).sum().item<long>();
        _ = Within(0, "slots differ", differ);
        // The baseline's rows in another order: the same sums over all of them, and over their squares.
        (Tensor theirs, Tensor theirSizes) = Best();
        double sizes = (theirSizes.sort(0).Values - _mergedSizes.sort(0).Values).abs().max().item<float>();
        return Within(
            Tolerance, "of the largest element", RelativeToLargest(_merged, to), RelativeToLargest(_mergedSizes, toSizes), sizes,
            RelativeToLargest(_merged.sort(0).Values, theirs.sort(0).Values));
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(TokenMerge.IsSupported(backend, out string reason), nameof(TokenMerge), backend, reason);

    protected override void Allocate(int seed)
    {
        _tokens = Keep(torch.randn(tokens, width));
        _metric = Keep(torch.randn(tokens, depth));
        _sizes = Keep(torch.randint(1, 4, [tokens], torch.float32));
        _segments = Keep(torch.tensor(new[] { 0, tokens }));
        _slots = Keep(torch.zeros(tokens, torch.int32));
        _offsets = Keep(torch.zeros(2, torch.int32));
        _merged = Keep(torch.zeros(tokens - merged, width));
        _mergedSizes = Keep(torch.zeros(tokens - merged));
    }

    private void Merge(
        AuxBackend backend, TensorView rows, TensorView metric, TensorView sizes, TensorView segments, TensorView slots,
        TensorView offsets, TensorView to, TensorView toSizes)
    {
        TokenMerge.Bipartite(metric, segments, merged, slots, offsets, protect: 1, backend);
        TokenMerge.Run(rows, slots, to, sizes, toSizes, backend);
    }

    private static Tensor Every2(Tensor tensor, int from) => tensor.slice(0, from, tensor.shape[0], 2);

    private (Tensor Rows, Tensor Sizes) Best()
    {
        Tensor unit = _metric / _metric.norm(1, keepdim: true);
        Tensor similar = torch.matmul(Every2(unit, 0), Every2(unit, 1).t());
        similar.select(0, 0).fill_(float.NegativeInfinity); // the class token stays
        (Tensor values, Tensor partners) = similar.max(1);
        Tensor gone = values.topk(merged, sorted: false).indexes;
        Tensor goesTo = partners.index_select(0, gone);
        Tensor stays = torch.ones(values.shape[0], torch.@bool).index_fill_(0, gone, false).nonzero().squeeze(1);
        Tensor even = Every2(_tokens, 0), evenSizes = Every2(_sizes, 0);
        Tensor goneSizes = evenSizes.index_select(0, gone);
        Tensor oddSizes = Every2(_sizes, 1).clone();
        Tensor odd = Every2(_tokens, 1) * oddSizes.unsqueeze(1);
        odd.index_add_(0, goesTo, even.index_select(0, gone).mul_(goneSizes.unsqueeze(1)), 1);
        oddSizes.index_add_(0, goesTo, goneSizes, 1);
        odd.div_(oddSizes.unsqueeze(1));
        return (torch.cat([even.index_select(0, stays), odd], 0), torch.cat([evenSizes.index_select(0, stays), oddSizes], 0));
    }

    private (Tensor Rows, Tensor Sizes) AsToMe()
    {
        Tensor unit = _metric / _metric.norm(-1, keepdim: true);
        Tensor scores = torch.matmul(Every2(unit, 0), Every2(unit, 1).transpose(-1, -2));
        scores.select(0, 0).fill_(float.NegativeInfinity);
        (Tensor best, Tensor partner) = scores.max(-1);
        Tensor order = best.argsort(-1, true);
        Tensor gone = order.slice(0, 0, merged, 1).unsqueeze(1), stays = order.slice(0, merged, order.shape[0], 1).unsqueeze(1);
        Tensor goesTo = partner.unsqueeze(1).gather(0, gone);
        Tensor size = _sizes.unsqueeze(1);
        Tensor sums = Merged(_tokens * size), sizes = Merged(size);
        return (sums / sizes, sizes);

        Tensor Merged(Tensor x)
        {
            Tensor even = Every2(x, 0), odd = Every2(x, 1);
            long channels = x.shape[1];
            Tensor kept = even.gather(0, stays.expand(stays.shape[0], channels));
            Tensor moved = even.gather(0, gone.expand(merged, channels));
            return torch.cat([kept, odd.scatter_add(0, goesTo.expand(merged, channels), moved)], 0);
        }
    }
}
