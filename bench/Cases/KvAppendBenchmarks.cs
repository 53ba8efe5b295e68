using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="KvAppend"/>.</summary>
internal static class KvAppendBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new KvAppendCase("append-n1")];
}

/// <summary>
/// One token of one layer: norm of query and key heads, rotation, and a bfloat16 cache. The baselines find cosines and sines of the
/// position in a table. Errors are parts of the greatest element of the query, and bytes that differ.
/// </summary>
internal sealed class KvAppendCase(string name)
    : KvCase(name, "one token into a bfloat16 cache of 8,192 positions: 32 query heads, 8 of keys and values, 64 wide, normed and rotated")
{
    private const int QueryHeads = 32, KvHeads = 8, HeadDim = 64, Capacity = 8192, Slot = 4096;
    private const double Epsilon = 1e-6, Tolerance = 1e-6;

    private readonly RotaryOptions _rotary = new();
    private Tensor _query = null!, _keys = null!, _values = null!, _queryNorm = null!, _keyNorm = null!, _rotated = null!, _slots = null!;
    private Tensor _keyCache = null!, _valueCache = null!, _cosines = null!, _sines = null!, _heads = null!, _norms = null!;
    private Tensor _theirKeys = null!, _theirValues = null!, _half = null!;
    private Scalar _one = null!;

    public override string DType => "f32 to bf16";

    public override long Bytes => (2L * QueryHeads + 2 * KvHeads) * HeadDim * sizeof(float) + 2L * KvHeads * HeadDim * sizeof(ushort);

    public override CaseArm Ours => new("KvAppend.Run", Append(_rotated, _keyCache, _valueCache, Backend));

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        Arm("heads together, in place", () =>
        {
            // Query and keys in one tensor, as a fused projection leaves them: one norm and one rotation for both.
            Tensor scale = _heads.square().mean([2], keepdim: true).add_(Epsilon).rsqrt_();
            Tensor x = _heads.mul(scale).mul_(_norms);
            Tensor turned = x.mul(_cosines.narrow(0, Slot, 1));
            turned.addcmul_(x.roll(HeadDim / 2, 2), _half, _one);
            _theirKeys.select(2, Slot).copy_(turned.narrow(1, QueryHeads, KvHeads));
            _theirValues.select(2, Slot).copy_(_values);
        }),
        Arm("query and keys one after the other", () =>
        {
            _ = Rotated(_query, _queryNorm);
            _theirKeys.select(2, Slot).copy_(Rotated(_keys, _keyNorm));
            _theirValues.select(2, Slot).copy_(_values);
        }),
    ];

    public override CaseArm Published => Arm("as Hugging Face's models, index_copy_", () =>
    {
        _ = Rotated(_query, _queryNorm);
        Tensor keys = Rotated(_keys, _keyNorm).transpose(1, 2).to_type(torch.bfloat16);
        _theirKeys.index_copy_(2, _slots, keys.reshape(1, KvHeads, 1, HeadDim));
        _theirValues.index_copy_(2, _slots, _values.to_type(torch.bfloat16).reshape(1, KvHeads, 1, HeadDim));
    });

    public override double Verify()
    {
        using Tensor rotated = torch.zeros_like(_rotated), keys = torch.zeros_like(_keyCache), values = torch.zeros_like(_valueCache);
        Append(rotated, keys, values, AuxBackend.Reference)();
        Ours.Run();
        using Tensor difference = (_rotated - rotated).abs_(), magnitude = rotated.abs();
        using Tensor most = difference.max(), greatest = magnitude.max(), theirs = Rotated(_query, _queryNorm);
        using Tensor apart = (theirs - rotated).abs_(), furthest = apart.max();
        double error = Math.Max(most.item<float>(), furthest.item<float>() / 4) / greatest.item<float>();
        return error <= Tolerance
            ? error
            : throw new VerificationException($"{error:0.#e0} of the greatest from the reference, {Tolerance} allowed", error);
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(KvAppend.IsSupported(backend, out string reason), nameof(KvAppend), backend, reason);

    protected override void Allocate()
    {
        _query = Keep(torch.randn(1, QueryHeads, HeadDim));
        _keys = Keep(torch.randn(1, KvHeads, HeadDim));
        _values = Keep(torch.randn(1, KvHeads, HeadDim));
        _queryNorm = Keep(torch.rand(HeadDim));
        _keyNorm = Keep(torch.rand(HeadDim));
        _rotated = Keep(torch.zeros(1, QueryHeads, HeadDim));
        _slots = Keep(torch.tensor(new long[] { Slot }));
        _keyCache = Keep(torch.zeros(1, KvHeads, Capacity, HeadDim, torch.bfloat16));
        _valueCache = Keep(torch.zeros_like(_keyCache));
        _theirKeys = Keep(torch.zeros_like(_keyCache));
        _theirValues = Keep(torch.zeros_like(_keyCache));
        _heads = Keep(torch.cat([_query, _keys], 1));
        using Tensor queryNorms = _queryNorm.expand(QueryHeads, HeadDim), keyNorms = _keyNorm.expand(KvHeads, HeadDim);
        _norms = Keep(torch.cat([queryNorms, keyNorms], 0));
        using Tensor positions = torch.arange(Capacity, torch.float64).unsqueeze(1);
        using Tensor exponents = torch.arange(0, HeadDim, 2, torch.float64).div(-HeadDim), bases = torch.full(1, 10_000.0, torch.float64);
        using Tensor angles = positions * bases.pow(exponents);
        _cosines = Keep(torch.cat([angles.cos(), angles.cos()], 1).to_type(torch.float32));
        _sines = Keep(torch.cat([angles.sin().neg(), angles.sin()], 1).to_type(torch.float32)); // the first half's is negated
        _half = Keep(_sines.narrow(0, Slot, 1).clone());
        _one = Keep(1.ToScalar());
    }

    private Action Append(Tensor rotated, Tensor keys, Tensor values, AuxBackend backend)
    {
        Tensor slots = Keep(torch.tensor(new[] { Slot }));
        var tokens = new KvAppendTensors
        {
            Query = View(_query),
            RotatedQuery = View(rotated),
            Keys = View(_keys),
            Values = View(_values),
            Slots = View(slots),
            QueryNorm = View(_queryNorm),
            KeyNorm = View(_keyNorm),
        };
        var cache = new KvCacheViews
        {
            Keys = View(keys), KeyFormat = KvFormat.BF16, Values = View(values), ValueFormat = KvFormat.BF16,
        };
        return () => KvAppend.Run(tokens, cache, _rotary, Epsilon, backend);
    }

    // x · cos + rotate_half(x) · sin, of the normed heads.
    private Tensor Rotated(Tensor heads, Tensor weights)
    {
        Tensor x = heads * torch.rsqrt(heads.pow(2).mean([2], keepdim: true) + Epsilon) * weights;
        Tensor halves = torch.cat([x.narrow(2, HeadDim / 2, HeadDim / 2), x.narrow(2, 0, HeadDim / 2)], 2);
        return x * _cosines.narrow(0, Slot, 1) + halves * _sines.narrow(0, Slot, 1);
    }
}
