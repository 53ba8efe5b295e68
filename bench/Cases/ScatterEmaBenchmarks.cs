using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="ScatterEma"/>.</summary>
internal static class ScatterEmaBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } = [() => new ScatterEmaCase(entries: 1_281_167, batch: 4096)];
}

/// <summary>The losses of a batch enter the histories of its samples; no sample occurs twice. Errors in ulps.</summary>
internal sealed class ScatterEmaCase(long entries, long batch) : KernelCase
{
    private const double Decay = 0.9, ToleranceUlps = 1;

    private readonly List<IDisposable> _kept = [];
    private AuxBackend _backend;
    private Tensor _history = null!, _index = null!, _value = null!, _weight = null!;
    private Scalar _decay = null!, _complement = null!;

    public override string Path => "ema";

    public override string Name => $"scatter-{batch}";

    public override string Description => $"losses of {batch:N0} samples into histories of {entries:N0}, as many as ImageNet has images";

    public override string DType => "f32";

    public override long Bytes => batch * (sizeof(long) + 3 * sizeof(float));

    public override bool InPlace => true;

    public override CaseArm Ours => new("ScatterEma.Update", () => ScatterEma.Update(_history, _index, _value, Decay, backend: _backend));

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        new("index_select, lerp_, index_copy_", () =>
        {
            using Tensor entries = _history.index_select(0, _index);
            entries.lerp_(_value, _weight);
            _history.index_copy_(0, _index, entries);
        }),
        new("gather, lerp_, scatter_", () =>
        {
            using Tensor entries = _history.gather(0, _index);
            entries.lerp_(_value, _weight);
            _history.scatter_(0, _index, entries);
        }),
        new("index_select, mul_().add_(), index_copy_", () =>
        {
            using Tensor entries = _history.index_select(0, _index);
            entries.mul_(_decay).add_(_value, _complement);
            _history.index_copy_(0, _index, entries);
        }),
    ];

    public override void Prepare(CaseSettings settings)
    {
        _backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        if (!ScatterEma.IsSupported(_backend, out string reason))
            throw new BackendUnavailableException(nameof(ScatterEma), _backend, reason);
        torch.manual_seed(settings.Seed);
        _history = Kept(torch.randn(entries));
        using (Tensor order = torch.randperm(entries)) _index = Kept(order.narrow(0, 0, batch).clone());
        _value = Kept(torch.randn(batch));
        _weight = Kept(torch.tensor((float)(1 - Decay)));
        _decay = Kept(Decay.ToScalar());
        _complement = Kept((1 - Decay).ToScalar());
    }

    public override double Verify()
    {
        using Tensor expected = _history.clone();
        ScatterEma.Update(expected, _index, _value, Decay, backend: AuxBackend.Reference);
        ScatterEma.Update(_history, _index, _value, Decay, backend: _backend);
        using Tensor ours = _history.index_select(0, _index), theirs = expected.index_select(0, _index);
        double worst = EmaError.MaxUlps(ours, theirs, _value);
        using Tensor untouched = torch.ones(entries, torch.@bool).index_fill_(0, _index, false);
        using Tensor changed = _history.ne(expected).logical_and_(untouched);
        if (changed.any().item<bool>()) throw new VerificationException("an entry that the index does not name has changed");
        return worst <= ToleranceUlps
            ? worst
            : throw new VerificationException($"{worst:0.###} ulps from the reference, {ToleranceUlps} allowed", worst);
    }

    public override void Dispose()
    {
        foreach (IDisposable item in _kept) item.Dispose();
        _kept.Clear();
    }

    private T Kept<T>(T item) where T : IDisposable
    {
        _kept.Add(item);
        return item;
    }
}
