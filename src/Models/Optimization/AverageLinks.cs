using AuxCore.Interop;
using AuxCore.Kernels;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Which averages of an <see cref="EmaModel"/> belong to which parameters of an optimiser, and how the others (buffers, parameters that the
/// optimiser does not have, or that took no step) are updated beside its pass.
/// </summary>
internal sealed class AverageLinks : IDisposable
{
    private EmaModel? _averages;
    private IReadOnlyList<EmaModel.Averaged>? _linked; // of which list the links below are
    private int[] _entryOf = [];                       // for each parameter; -1 for none
    private bool[] _covered = [];                      // for each entry: whether the rest below leaves it out
    private EmaGroup? _rest;
    private Tensor[] _restSources = [];

    public EmaModel? Averages
    {
        get => _averages;
        set
        {
            _averages = value;
            _linked = null;
            Forget();
        }
    }

    /// <summary>Whether the model's list of averages is the one that was linked.</summary>
    public bool AreCurrent => ReferenceEquals(_linked, _averages?.AveragedTensors);

    /// <summary>Finds for each parameter the averages whose source is the same memory.</summary>
    public void Link(IReadOnlyList<AdamWState> states)
    {
        Forget();
        _entryOf = new int[states.Count];
        Array.Fill(_entryOf, -1);
        _linked = _averages?.AveragedTensors;
        if (_linked is null)
            return;
        var byMemory = new Dictionary<(nint, long), int>();
        for (var entry = 0; entry < _linked.Count; entry++)
            byMemory.TryAdd(Memory(_linked[entry].Tensor), entry);
        for (var i = 0; i < states.Count; i++)
        {
            if (states[i].Parameter.numel() > 0)
                _entryOf[i] = byMemory.GetValueOrDefault(Memory(states[i].Parameter), -1);
        }
    }

    /// <summary>A parameter's averages; null where it has none.</summary>
    public IReadOnlyList<Tensor>? Of(int state) =>
        _entryOf[state] < 0 ? null : [.. _linked![_entryOf[state]].Averages.Take(_averages!.DirectAverageCount)];

    /// <summary>The decays for the optimiser's pass; those that change nothing where averages are not due.</summary>
    public static double[] Decays(double[]? due, int count) => count == 0 ? [] : due ?? [.. Enumerable.Repeat(1.0, count)];

    /// <summary>Checks what the optimiser's pass will not cover, so that nothing can fail once it has written.</summary>
    public void PrepareRest(IReadOnlyList<AdamWState> states)
    {
        var covered = new bool[_linked!.Count];
        for (var i = 0; i < states.Count; i++)
        {
            if (_entryOf[i] >= 0 && states[i].TakesPart)
                covered[_entryOf[i]] = true;
        }

        if (covered.AsSpan().SequenceEqual(_covered) && !RestHasMoved())
            return;
        Forget();
        EmaModel.Averaged[] rest = [.. _linked.Where((_, entry) => !covered[entry])];
        if (rest.Length > 0)
        {
            _restSources = [.. rest.Select(entry => entry.Tensor)];
            _rest = EmaGroup.FromViews(
                [.. rest.Select(entry => entry.Tensor.ToTensorView(entry.Name))],
                [.. Enumerable.Range(0, _averages!.DirectAverageCount)
                    .Select(k => rest.Select(entry => entry.Averages[k].ToTensorView()).ToArray())]);
        }

        _covered = covered;
    }

    /// <summary>Updates what <see cref="PrepareRest"/> found.</summary>
    public void UpdateRest(double[] decays, AuxBackend backend)
    {
        _rest?.Update(decays, backend);
        GC.KeepAlive(_linked);
    }

    public void Dispose() => Forget();

    private bool RestHasMoved()
    {
        for (var i = 0; i < _restSources.Length; i++)
        {
            if (_restSources[i].IsInvalid
                || TorchNative.THSTensor_data(_restSources[i].Handle) != _rest!.Addresses[i * (_rest.AverageCount + 1)])
                return true;
        }

        return false;
    }

    private void Forget()
    {
        _rest?.Dispose();
        (_rest, _restSources, _covered) = (null, [], []);
    }

    private static (nint Address, long Elements) Memory(Tensor tensor)
    {
        var view = tensor.ToTensorView();
        return (view.Address, view.ElementCount);
    }
}
