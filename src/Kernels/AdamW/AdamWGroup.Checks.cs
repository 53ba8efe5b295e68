using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <content>What a group checks when it is made, and when gradients or settings come.</content>
public sealed unsafe partial class AdamWGroup
{
    private (AuxBackend Backend, AdamWPlace Place) Prepare(
        ReadOnlySpan<AdamWSettings> settings, ReadOnlySpan<int> settingsOf, double gradientScale, ReadOnlySpan<double> decays,
        AuxBackend backend, CudaStream? stream)
    {
        CheckArguments(settings, gradientScale, decays);
        backend = AdamWUpdate.Support.Resolve(backend, Device);
        var place = Place(stream);
        Assign(settings.Length, settingsOf);
        return (backend, place);
    }

    private void CheckArguments(ReadOnlySpan<AdamWSettings> settings, double gradientScale, ReadOnlySpan<double> decays)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (settings.IsEmpty)
            throw new ArgumentException("settings: at least one", nameof(settings));
        for (var i = 0; i < settings.Length; i++)
            settings[i].Check($"settings[{i}]");
        AdamWUpdate.CheckScale(gradientScale);
        if (decays.Length != AverageCount)
            throw new ArgumentException($"decays: {decays.Length} for {AverageCount} averages", nameof(decays));
        for (var i = 0; i < decays.Length; i++)
            EmaUpdate.CheckDecay(decays[i], $"decays[{i}]");
    }

    private void Assign(int settings, ReadOnlySpan<int> settingsOf)
    {
        if (!settingsOf.IsEmpty && settingsOf.Length != Count)
            throw new ArgumentException($"settingsOf: {settingsOf.Length} for {Count} parameters", nameof(settingsOf));
        for (var i = 0; i < settingsOf.Length; i++)
        {
            if ((uint)settingsOf[i] >= (uint)settings)
                throw new ArgumentOutOfRangeException($"settingsOf[{i}]", settingsOf[i], $"There are {settings} settings.");
        }

        for (var i = 0; i < Count; i++)
        {
            var now = settingsOf.IsEmpty ? 0 : settingsOf[i];
            if (_rows[i].Settings == now)
                continue;
            _rows[i].Settings = now;
            Forget();
        }
    }

    private void Add(int i, in AdamWTensors tensors, List<MemoryRange> ranges)
    {
        var (parameter, name) = (tensors.Parameter, $"parameters[{i}]");
        Require(parameter.DType is DType.Float32 or DType.BFloat16 or DType.Float16, name, parameter,
            "is not float32, bfloat16 or float16");
        Require(parameter.DType == DType.Float32 == tensors.Master is null, name, parameter,
            tensors.Master is null ? "needs a float32 master" : "is its own master; pass none");
        Require(tensors.Averages is null || tensors.Averages.Count == AverageCount, name, parameter,
            $"has {tensors.Averages?.Count} averages, another parameter has {AverageCount}");
        Require(AverageCount <= AdamWUpdate.MostAverages, name, parameter,
            $"has {AverageCount} averages; a pass carries {AdamWUpdate.MostAverages} at most");
        Check(parameter, name, parameter);

        _parameters[i] = parameter;
        _offsets[i + 1] = checked(_offsets[i] + parameter.ElementCount);
        ref var row = ref _rows[i];
        row.ParameterType = parameter.DType;
        row.Parameter = Hold(parameter, name);
        row.FirstMoment = HoldFloat32(tensors.FirstMoment, $"firstMoments[{i}]");
        row.SecondMoment = HoldFloat32(tensors.SecondMoment, $"secondMoments[{i}]");
        row.Master = tensors.Master is { } master ? HoldFloat32(master, $"masters[{i}]") : 0;
        for (var k = 0; k < AverageCount && tensors.Averages is not null; k++)
            _averages[i * AverageCount + k] = HoldFloat32(tensors.Averages[k], $"averages[{k}][{i}]");

        nint HoldFloat32(in TensorView view, string what)
        {
            Require(view.DType == DType.Float32, what, view, "is not float32");
            Check(view, what, parameter);
            return Hold(view, what);
        }

        nint Hold(in TensorView view, string what)
        {
            ranges.Add(new(view.Address, (nint)view.ByteCount, what, IsWritten: true));
            _owners.Add(view.Owner);
            return view.Address;
        }
    }

    private List<MemoryRange> WrittenRanges()
    {
        var ranges = new List<MemoryRange>();
        for (var i = 0; i < Count; i++)
        {
            var bytes = (nint)_parameters[i].ElementCount * sizeof(float);
            ranges.Add(new(_rows[i].Parameter, (nint)_parameters[i].ByteCount, $"parameters[{i}]", IsWritten: true));
            ranges.Add(new(_rows[i].FirstMoment, bytes, $"firstMoments[{i}]", IsWritten: true));
            ranges.Add(new(_rows[i].SecondMoment, bytes, $"secondMoments[{i}]", IsWritten: true));
            if (_rows[i].Master != 0)
                ranges.Add(new(_rows[i].Master, bytes, $"masters[{i}]", IsWritten: true));
            for (var k = 0; k < AverageCount && _averages[i * AverageCount] != 0; k++)
                ranges.Add(new(_averages[i * AverageCount + k], bytes, $"averages[{k}][{i}]", IsWritten: true));
        }

        return ranges;
    }

    private void Check(in TensorView view, string name, in TensorView parameter)
    {
        Require(view.Shape.SequenceEqual(parameter.Shape), name, view,
            $"is not of its parameter's shape {TensorView.Format(parameter.Shape)}");
        Require(view.IsContiguous, name, view, "is not contiguous");
        Require(view.Device == Device, name, view, $"is not on {Device}, where parameters[0] is");
    }

    private static void Require(bool holds, string name, in TensorView view, string problem)
    {
        if (!holds)
            throw new ArgumentException($"{name}: {view} {problem}", name);
    }
}
