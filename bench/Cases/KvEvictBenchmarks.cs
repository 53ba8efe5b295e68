using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="KvEvict"/>.</summary>
internal static class KvEvictBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new KvEvictCase("evict-snapkv-n8192")];
}

/// <summary>
/// SnapKV: attention of the last 64 queries, its mean over them and over the heads of a group, smoothed by 5; each head keeps the best 960
/// and the last 64 of its positions. Ours are a product, <see cref="KvWindowScores"/> head by head, and <see cref="KvEvict"/>, in place;
/// the baselines gather into new tensors. Errors are elements of the cache that differ from the reference's.
/// </summary>
internal sealed class KvEvictCase(string name)
    : KvCase(name, "SnapKV of one layer: 8,192 positions become 1,024, 32 query heads over 8 of keys and values, 64 wide, float32")
{
    private const int QueryHeads = 32, KvHeads = 8, Group = QueryHeads / KvHeads, HeadDim = 64, Positions = 8192;
    private const int Kept = 1024, Window = 64, Pool = 5;
    private const double Tolerance = 1e-5;

    private static readonly double Scale = 1 / Math.Sqrt(HeadDim);
    private static readonly KvEvictOptions Options = new() { Budget = Budget.Count(Kept), PoolWidth = Pool, Recent = Window };

    private Tensor _queries = null!, _keys = null!, _values = null!, _ourKeys = null!, _ourValues = null!, _scores = null!;
    private Tensor _lengths = null!, _mask = null!, _recent = null!, _full = null!, _logits = null!;

    public override string DType => "f32";

    public override long Bytes =>
        ((long)QueryHeads * Window + (long)KvHeads * Positions + 4L * KvHeads * Kept) * HeadDim * sizeof(float);

    public override CaseArm Ours
    {
        get
        {
            Action evict = Evict(_ourKeys, _ourValues, Backend);
            return Arm("addmm_, KvWindowScores.Run, KvEvict.Run", () =>
            {
                Score();
                evict();
            });
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        Arm("grouped matmul, softmax, topk, gather", () =>
        {
            Tensor queries = _queries.view(KvHeads, Group * Window, HeadDim);
            Tensor logits = torch.matmul(queries, _keys.squeeze(0).transpose(1, 2)).mul_(Scale);
            logits.view(KvHeads, Group, Window, Positions).narrow(3, Positions - Window, Window).add_(_mask);
            Gather(logits.softmax(-1).mean([1]));
        }),
        Arm("the same, head by head", () =>
        {
            using Tensor scores = torch.empty(KvHeads, Positions);
            for (int head = 0; head < KvHeads; head++)
            {
                using var scope = torch.NewDisposeScope();
                Tensor queries = _queries.narrow(1, head * Group, Group).view(Group * Window, HeadDim);
                Tensor logits = torch.matmul(queries, _keys[0, head].t()).mul_(Scale);
                logits.view(Group, Window, Positions).narrow(2, Positions - Window, Window).add_(_mask);
                scores[head].copy_(logits.softmax(-1).mean([0]));
            }

            Gather(scores);
        }),
        Arm("the same, products in place", () =>
        {
            using Tensor scores = torch.empty(KvHeads, Positions);
            for (int head = 0; head < KvHeads; head++)
            {
                using var scope = torch.NewDisposeScope();
                Multiply(head);
                _logits.view(Group, Window, Positions).narrow(2, Positions - Window, Window).add_(_mask);
                scores[head].copy_(_logits.softmax(-1).mean([0]));
            }

            Gather(scores);
        }),
    ];

    // kvpress repeats the keys for each query head, and takes the mean over a group after the pooling.
    public override CaseArm Published => Arm("as kvpress' SnapKV", () =>
    {
        Tensor keys = _keys.repeat_interleave(Group, 1);
        Tensor logits = torch.matmul(_queries, keys.transpose(2, 3)) / Math.Sqrt(HeadDim);
        logits.narrow(3, Positions - Window, Window).add_(_mask);
        Tensor scores = logits.softmax(-1).mean([2]).narrow(2, 0, Positions - Window);
        Tensor pooled = functional.avg_pool1d(scores, Pool, stride: 1, padding: Pool / 2);
        scores = pooled.view(1, KvHeads, Group, Positions - Window).mean([2]).squeeze(0);
        Take(scores);
    });

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor keys = _keys.clone(), values = _values.clone();
        Score();
        Tensor mine = _scores.clone();
        Score(AuxBackend.Reference);
        double error = (mine - _scores).abs_().max().item<float>() / _scores.max().item<float>();
        if (!(error <= Tolerance))
            throw new VerificationException($"{error:0.#e0} of the greatest score from the reference, {Tolerance} allowed", error);
        Evict(keys, values, AuxBackend.Reference)();
        _ourKeys.copy_(_keys);
        _ourValues.copy_(_values);
        Evict(_ourKeys, _ourValues, Backend)();
        long differ = _ourKeys.ne(keys).sum().item<long>() + _ourValues.ne(values).sum().item<long>();
        return differ == 0 ? error : throw new VerificationException($"{differ} elements differ from the reference", differ);
    }

    protected override void RequireSupport(AuxBackend backend)
    {
        Require(KvEvict.IsSupported(backend, out string reason), nameof(KvEvict), backend, reason);
        Require(KvWindowScores.IsSupported(backend, out reason), nameof(KvWindowScores), backend, reason);
    }

    protected override void Allocate()
    {
        _queries = Keep(torch.randn(1, QueryHeads, Window, HeadDim));
        _keys = Keep(torch.randn(1, KvHeads, Positions, HeadDim));
        _values = Keep(torch.randn(1, KvHeads, Positions, HeadDim));
        _ourKeys = Keep(_keys.clone());
        _ourValues = Keep(_values.clone());
        _scores = Keep(torch.zeros(KvHeads, Positions));
        _logits = Keep(torch.zeros(Group * Window, Positions));
        _lengths = Keep(torch.zeros(1, KvHeads, torch.int32));
        _full = Keep(torch.full(1, KvHeads, Positions, torch.int32));
        using Tensor infinite = torch.full(Window, Window, float.NegativeInfinity);
        _mask = Keep(infinite.triu(1));
        using Tensor last = torch.arange(Positions - Window, Positions, torch.int64);
        _recent = Keep(last.expand(KvHeads, Window).contiguous());
    }

    private void Multiply(int head)
    {
        Tensor queries = _queries.narrow(1, head * Group, Group).view(Group * Window, HeadDim);
        _logits.addmm_(queries, _keys[0, head].t(), 0, (float)Scale);
    }

    private unsafe void Score(AuxBackend? backend = null)
    {
        TensorView logits = View(_logits), scores = View(_scores);
        for (int head = 0; head < KvHeads; head++)
        {
            using var scope = torch.NewDisposeScope();
            Multiply(head);
            KvWindowScores.Run(
                TensorView.FromPointer((void*)logits.Address, logits.DType, [1, Group, Window, Positions]),
                TensorView.FromPointer((float*)scores.Address + head * Positions, scores.DType, [1, Positions]), causal: true,
                backend: backend ?? Backend);
        }
    }

    private Action Evict(Tensor keys, Tensor values, AuxBackend backend)
    {
        var cache = new KvCacheViews { Keys = View(keys), Values = View(values) };
        TensorView lengths = View(_lengths), scores = View(Keep(_scores.view(1, KvHeads, Positions)));
        return () =>
        {
            _lengths.copy_(_full);
            KvEvict.Run(scores, lengths, cache, Options, backend: backend);
        };
    }

    private void Gather(Tensor scores)
    {
        Tensor before = scores.narrow(1, 0, Positions - Window).unsqueeze(1);
        Take(functional.avg_pool1d(before, Pool, stride: 1, padding: Pool / 2).squeeze(1));
    }

    private void Take(Tensor scores)
    {
        (_, Tensor best) = scores.topk(Kept - Window, dim: 1, sorted: false);
        Tensor indices = torch.cat([best, _recent], 1).view(1, KvHeads, Kept, 1).expand(1, KvHeads, Kept, HeadDim);
        _ = _keys.gather(2, indices);
        _ = _values.gather(2, indices);
    }
}
