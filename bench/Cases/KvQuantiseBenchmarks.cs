using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="KvQuantise"/>.</summary>
internal static class KvQuantiseBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new KvQuantiseCase("quantise-q8_0-64m", elements: 1L << 26)];
}

/// <summary>
/// A cache in float32 becomes q8_0. The baselines leave scales and quants in tensors of their own, which spares them the interleaving; the
/// published one is the group-wise quantisation that PyTorch users write. Errors are bytes that differ.
/// </summary>
internal sealed class KvQuantiseCase(string name, long elements)
    : KvCase(name, "64 Mi elements from float32 to q8_0, as many as the keys of 32 layers, 8 heads of 128 and 2,048 tokens")
{
    private const int Group = 32;

    private readonly long _groups = elements / Group;
    private Tensor _source = null!, _destination = null!, _scaled = null!, _quants = null!, _scales = null!;

    public override string DType => "f32 to q8_0";

    public override long Bytes => elements * sizeof(float) + KvFormat.Q8_0.ByteCount(elements);

    public override CaseArm Ours
    {
        get
        {
            var (source, destination) = (View(_source), View(_destination));
            return new("KvQuantise.Run", () => KvQuantise.Run(source, KvFormat.Q8_0, destination, backend: Backend));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        Arm("aminmax a group, then in place", () =>
        {
            (Tensor least, Tensor greatest) = _source.aminmax(1, keepdim: true);
            Tensor d = torch.maximum(least.neg_(), greatest).div_(127);
            _scales.copy_(d);
            _scaled.copy_(_source).mul_(d.reciprocal_()).round_();
            _quants.copy_(_scaled);
        }),
        Arm("norm of infinity a group, then in place", () =>
        {
            Tensor d = torch.linalg.vector_norm(_source, double.PositiveInfinity, [1], keepdim: true).div_(127);
            _scales.copy_(d);
            _quants.copy_(_scaled.copy_(_source).mul_(d.reciprocal_()).round_());
        }),
    ];

    public override CaseArm Published => Arm("abs().amax(), div, round, to(int8)", () =>
    {
        Tensor d = _source.abs().amax([1], keepdim: true) / 127;
        _ = (_source / d).round().to_type(torch.int8);
        _ = d.to_type(torch.float16);
    });

    public override double Verify()
    {
        using Tensor expected = torch.empty_like(_destination);
        KvQuantise.Run(View(_source), KvFormat.Q8_0, View(expected), backend: AuxBackend.Reference);
        Ours.Run();
        using Tensor differs = _destination.ne(expected);
        using Tensor count = differs.sum();
        long bytes = count.item<long>();
        return bytes == 0 ? 0 : throw new VerificationException($"{bytes} bytes differ from the reference", bytes);
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(KvQuantise.IsSupported(backend, out string reason), nameof(KvQuantise), backend, reason);

    protected override void Allocate()
    {
        _source = Keep(torch.randn(_groups, Group));
        _destination = Keep(torch.zeros(_groups, KvFormat.Q8_0.ByteCount(Group), torch.uint8));
        _scaled = Keep(torch.zeros(_groups, Group));
        _quants = Keep(torch.zeros(_groups, Group, torch.int8));
        _scales = Keep(torch.zeros(_groups, 1, torch.float16));
    }
}
