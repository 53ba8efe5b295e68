using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class AdamWUpdate
{
    /// <summary>One launch over all tensors (<c>native/cuda/adamw/adamw_update.cu</c>).</summary>
    private static void RunCuda(
        in AdamWWork work, ReadOnlySpan<AdamWSettings> settings, double gradientScale, ReadOnlySpan<double> decays, AdamWPlace place,
        bool clipped, ref AdamWCudaTable? table)
    {
        table ??= new AdamWCudaTable(place.Device.Index, work.AverageCount);
        table.Update(work, settings, gradientScale, decays, place.Stream, clipped);
    }
}

/// <summary>
/// What an <see cref="AdamWGroup"/> keeps on a device: where the tensors are, and the settings and decays, so that a captured graph replays
/// with those of the day.
/// </summary>
internal sealed unsafe class AdamWCudaTable : IDisposable
{
    private const int FixedColumns = 5; // parameter, master, gradient, moments

    private readonly AdamWTableHandle _handle;

    public AdamWCudaTable(int device, int averageCount) =>
        NativeStatus.Check(
            Native.AdamWCreate(CudaContext.Of(device, nameof(AdamWUpdate)).Handle, averageCount, out _handle), nameof(AdamWUpdate));

    /// <summary>Whether the device has the tensors of the moment; their holder says when it has them no longer.</summary>
    public bool HasTensors { get; set; }

    public void Update(
        in AdamWWork work, ReadOnlySpan<AdamWSettings> settings, double gradientScale, ReadOnlySpan<double> decays, nint stream,
        bool clipped)
    {
        Set(settings, gradientScale, decays, stream);
        var flags = clipped ? Native.AdamWClipped : 0;
        WithTensors(
            work, nameof(AdamWUpdate), (handle, tensors) => Native.AdamWUpdate(handle, stream, (Native.AdamWTensors*)tensors, flags));
    }

    /// <summary>For the updates that follow on the stream, and the replays of captured ones.</summary>
    public void Set(ReadOnlySpan<AdamWSettings> settings, double gradientScale, ReadOnlySpan<double> decays, nint stream)
    {
        var values = new Native.AdamWSettings[settings.Length];
        for (var i = 0; i < settings.Length; i++)
        {
            var formed = AdamWCoefficients.Of(settings[i], gradientScale);
            values[i] = new()
            {
                GradientScale = settings[i].Maximize ? -gradientScale : gradientScale,
                Penalty = formed.Penalty,
                Weight1 = formed.Weight1,
                Weight2 = formed.Weight2,
                Epsilon = formed.Epsilon,
                StepSize = formed.StepSize,
                Shrinkage = formed.Shrinkage,
            };
        }

        fixed (Native.AdamWSettings* firstSettings = values)
        fixed (double* firstDecay = decays)
            NativeStatus.Check(Native.AdamWSet(_handle, stream, firstSettings, settings.Length, firstDecay), nameof(AdamWUpdate));
    }

    /// <summary>Whether a norm was taken.</summary>
    public bool HasNorm { get; private set; }

    /// <summary>Asynchronous; what is found decides what a clipped update does.</summary>
    public void Norm(in AdamWWork work, double scale, double? greatest, bool skip, nint stream)
    {
        WithTensors(
            work, nameof(GradientNorm),
            (handle, tensors) => Native.AdamWNorm(
                handle, stream, (Native.AdamWTensors*)tensors, scale, greatest ?? 0, skip ? 1 : 0));
        HasNorm = true;
    }

    /// <summary>Waits for the stream.</summary>
    public GradientSummary ReadNorm(nint stream)
    {
        NativeStatus.Check(Native.AdamWReadNorm(_handle, stream, out var sum, out var nonFinite), nameof(GradientNorm));
        return new(sum, nonFinite);
    }

    public void Dispose() => _handle.Dispose();

    private void WithTensors(in AdamWWork work, string operation, Func<AdamWTableHandle, nint, int> call)
    {
        if (HasTensors)
        {
            NativeStatus.Check(call(_handle, 0), operation);
            return;
        }

        var columns = FixedColumns + work.AverageCount;
        var addresses = new nint[work.TensorCount * columns];
        var counts = new long[work.TensorCount];
        var (parameterTypes, gradientTypes) = (new DType[work.TensorCount], new DType[work.TensorCount]);
        var settingsOf = new int[work.TensorCount];
        for (var i = 0; i < work.TensorCount; i++)
        {
            ref readonly var row = ref work.Row(i);
            ReadOnlySpan<nint> known = [row.Parameter, row.Master, row.Gradient, row.FirstMoment, row.SecondMoment];
            known.CopyTo(addresses.AsSpan(i * columns));
            for (var k = 0; k < work.AverageCount; k++)
                addresses[i * columns + FixedColumns + k] = (nint)work.Average(i, k);
            (counts[i], parameterTypes[i], gradientTypes[i], settingsOf[i]) =
                (work.Count(i), row.ParameterType, row.GradientType, row.Settings);
        }

        fixed (nint* addressesAt = addresses)
        fixed (long* countsAt = counts)
        fixed (DType* parameterTypesAt = parameterTypes, gradientTypesAt = gradientTypes)
        fixed (int* settingsOfAt = settingsOf)
        {
            var tensors = new Native.AdamWTensors
            {
                StructSize = (uint)sizeof(Native.AdamWTensors),
                TensorCount = work.TensorCount,
                Addresses = addressesAt,
                ElementCounts = countsAt,
                ParameterTypes = parameterTypesAt,
                GradientTypes = gradientTypesAt,
                SettingsOf = settingsOfAt,
            };
            NativeStatus.Check(call(_handle, (nint)(&tensors)), operation);
        }

        HasTensors = true;
    }
}
