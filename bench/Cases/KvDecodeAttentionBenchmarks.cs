using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="KvDecodeAttention"/>, by positions and format.</summary>
internal static class KvDecodeAttentionBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new KvDecodeAttentionCase("decode-attn-n8192-f32", 8192, KvFormat.F32),
        () => new KvDecodeAttentionCase("decode-attn-n8192-bf16", 8192, KvFormat.BF16),
        () => new KvDecodeAttentionCase("decode-attn-n8192-q8_0", 8192, KvFormat.Q8_0),
        () => new KvDecodeAttentionCase("decode-attn-n8192-q4_0", 8192, KvFormat.Q4_0),
        () => new KvDecodeAttentionCase("decode-attn-n1024-q8_0", 1024, KvFormat.Q8_0),
    ];
}

/// <summary>
/// One token of one sequence, with the heads of a model of 1 to 3 billion parameters. The baselines see the query as groups that share
/// keys and values, in bfloat16 where ours is quantised, and in float32; the published one repeats keys and values for each query head.
/// Errors are parts of the greatest element.
/// </summary>
internal sealed class KvDecodeAttentionCase(string name, int positions, KvFormat format)
    : KvCase(name, $"one token, 32 query heads over 8 of keys and values, 64 wide, {positions:N0} positions in {format}")
{
    private const int QueryHeads = 32, KvHeads = 8, HeadDim = 64;
    private const double Tolerance = 1e-5;

    private readonly int[] _lengths = [positions];
    private Tensor _query = null!, _keys = null!, _values = null!, _narrowKeys = null!, _narrowValues = null!;
    private Tensor _storedKeys = null!, _storedValues = null!, _output = null!, _narrowQuery = null!;

    public override string DType => format.ToString().ToLowerInvariant();

    public override long Bytes => 2 * format.ByteCount((long)KvHeads * positions * HeadDim) + 2L * QueryHeads * HeadDim * sizeof(float);

    public override CaseArm Ours => new("KvDecodeAttention.Run", Attention(_output, Backend));

    public override IReadOnlyList<CaseArm> BestCandidates
    {
        get
        {
            var wide = Arm("SDPA, grouped query, float32", () => Grouped(_query, _keys, _values));
            return format == KvFormat.F32
                ? [wide]
                : [Arm("SDPA, grouped query, bfloat16", () => Grouped(_narrowQuery, _narrowKeys, _narrowValues)), wide];
        }
    }

    public override CaseArm Published => Arm("repeat_interleave, SDPA, float32", () =>
    {
        Tensor keys = _keys.repeat_interleave(QueryHeads / KvHeads, 1), values = _values.repeat_interleave(QueryHeads / KvHeads, 1);
        functional.scaled_dot_product_attention(_query.unsqueeze(2), keys, values);
    });

    public override double Verify()
    {
        using Tensor expected = torch.zeros_like(_output);
        Attention(expected, AuxBackend.Reference)();
        Ours.Run();
        using Tensor difference = (_output - expected).abs_(), magnitude = expected.abs();
        using Tensor most = difference.max(), greatest = magnitude.max();
        double error = most.item<float>() / greatest.item<float>();
        return error <= Tolerance
            ? error
            : throw new VerificationException($"{error:0.#e0} of the greatest from the reference, {Tolerance} allowed", error);
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(KvDecodeAttention.IsSupported(backend, out string reason), nameof(KvDecodeAttention), backend, reason);

    protected override void Allocate()
    {
        _query = Keep(torch.randn(1, QueryHeads, HeadDim));
        _keys = Keep(torch.randn(1, KvHeads, positions, HeadDim));
        _values = Keep(torch.randn(1, KvHeads, positions, HeadDim));
        _narrowQuery = Keep(_query.to_type(torch.bfloat16));
        _narrowKeys = Keep(_keys.to_type(torch.bfloat16));
        _narrowValues = Keep(_values.to_type(torch.bfloat16));
        _output = Keep(torch.zeros(1, QueryHeads, HeadDim));
        _storedKeys = Stored(_keys);
        _storedValues = Stored(_values);
    }

    private Action Attention(Tensor output, AuxBackend backend)
    {
        var (query, keys, values, result) = (View(_query), View(_storedKeys), View(_storedValues), View(output));
        return () => KvDecodeAttention.Run(query, keys, format, values, format, _lengths, result, backend: backend);
    }

    private Tensor Stored(Tensor elements)
    {
        Tensor bytes = Keep(torch.zeros(1, KvHeads, positions, format.ByteCount(HeadDim), torch.uint8));
        KvQuantise.Run(View(elements), format, View(bytes));
        return bytes;
    }

    private static void Grouped(Tensor query, Tensor keys, Tensor values) =>
        functional.scaled_dot_product_attention(query.view(1, KvHeads, QueryHeads / KvHeads, HeadDim), keys, values);
}
