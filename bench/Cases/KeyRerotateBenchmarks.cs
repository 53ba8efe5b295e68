using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="KeyRerotate"/>.</summary>
internal static class KeyRerotateBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new KeyRerotateCase()];
}

/// <summary>
/// The keys that 1,820 kept tokens have in 28 layers, turned to positions without gaps; cosines and sines are formed anew each time. Errors
/// relative to the largest element.
/// </summary>
internal sealed class KeyRerotateCase() : TokenCase(
    "rerotate-28x1820", "keys of 1,820 kept tokens, 28 layers, 4 heads of 128, turned to positions without gaps")
{
    private const int Layers = 28, Heads = 4, Kept = 1820, Depth = 128;
    private const double Tolerance = 2e-6;

    private readonly RotaryOptions _options = new() { Base = 1e6 };
    private Tensor[] _keys = null!;
    private Tensor _differences = null!, _frequencies = null!;

    public override long Bytes => 2L * Layers * Heads * Kept * Depth * sizeof(float);

    public override bool InPlace => true;

    public override CaseArm Ours
    {
        get
        {
            TensorView[] views = [.. _keys.Select(View)];
            TensorView differences = View(_differences);
            return new("KeyRerotate.Run", () => KeyRerotate.Run(views, differences, _options, Backend));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("halves in place, per tensor", () =>
        {
            (Tensor cosine, Tensor sine) = Turns();
            foreach (Tensor keys in _keys) TurnInPlace(keys, cosine, sine);
        }),
    ];

    public override CaseArm Published => ArmWithoutGrad("keys * cos + rotate_half(keys) * sin, per tensor", () =>
    {
        (Tensor cosine, Tensor sine) = Turns();
        cosine = torch.cat([cosine, cosine], -1);
        sine = torch.cat([sine, sine], -1);
        foreach (Tensor keys in _keys)
        {
            Tensor first = keys.narrow(-1, 0, Depth / 2), second = keys.narrow(-1, Depth / 2, Depth / 2);
            _ = keys * cosine + torch.cat([-second, first], -1) * sine;
        }
    });

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor reference = _keys[0].clone(), theirs = _keys[0].clone();
        KeyRerotate.Run([View(reference)], View(_differences), _options, AuxBackend.Reference);
        (Tensor cosine, Tensor sine) = Turns();
        TurnInPlace(theirs, cosine, sine);
        Ours.Run();
        // libtorch forms its angles in float32, where thousands of radians have few places left for the fraction.
        _ = Within(1e-3, "of the largest element, the baseline", RelativeToLargest(theirs, reference));
        return Within(Tolerance, "of the largest element", RelativeToLargest(_keys[0], reference));
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(KeyRerotate.IsSupported(backend, out string reason), nameof(KeyRerotate), backend, reason);

    protected override void Allocate(int seed)
    {
        _keys = [.. Enumerable.Range(0, Layers).Select(_ => Keep(torch.randn(1, Heads, Kept, Depth)))];
        using Tensor old = torch.randperm(16_384, dtype: torch.int32).narrow(0, 0, Kept).sort(0).Values;
        _differences = Keep(torch.arange(0, Kept, dtype: torch.int32).sub(old).unsqueeze(0));
        _frequencies = Keep(torch.tensor(
            Enumerable.Range(0, Depth / 2).Select(pair => (float)Math.Pow(1e6, -2.0 * pair / Depth)).ToArray()));
    }

    private (Tensor Cosine, Tensor Sine) Turns()
    {
        Tensor angles = _differences.to_type(torch.float32).view(Kept, 1) * _frequencies;
        return (angles.cos(), angles.sin());
    }

    private static void TurnInPlace(Tensor keys, Tensor cosine, Tensor sine)
    {
        Tensor first = keys.narrow(-1, 0, Depth / 2), second = keys.narrow(-1, Depth / 2, Depth / 2);
        Tensor old = first.clone();
        first.mul_(cosine).addcmul_(second, sine, -1);
        second.mul_(cosine).addcmul_(old, sine, 1);
    }
}
