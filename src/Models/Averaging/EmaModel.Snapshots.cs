using System.Globalization;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>Snapshots of power-function averages, and what is made of them afterwards.</content>
public sealed partial class EmaModel
{
    /// <summary>
    /// Writes the averages that follow a <see cref="EmaSchedule.PowerFunction"/>, with step and width, to a safetensors file, atomically:
    /// the tensors <c>averages.K.NAME</c>, and copied buffers as <c>buffers.NAME</c>. Many such files, of two widths or more, combine to
    /// other widths at any step (<see cref="Synthesize"/>).
    /// </summary>
    /// <param name="path">The file to create or replace.</param>
    /// <param name="storage">The type of the averages in the file; the rounding of a 16-bit type grows in what is made of it.</param>
    /// <exception cref="InvalidOperationException">
    /// No schedule is a power function, nothing has been averaged yet, or called inside <see cref="Swap"/>.
    /// </exception>
    /// <exception cref="ArgumentException"><paramref name="storage"/> is not float32, bfloat16 or float16.</exception>
    /// <exception cref="IOException">The file cannot be written; an existing one is as it was.</exception>
    public void SaveSnapshot(string path, torch.ScalarType storage = torch.ScalarType.Float32)
    {
        RequireUsable("SaveSnapshot");
        if (storage is not (torch.ScalarType.Float32 or torch.ScalarType.BFloat16 or torch.ScalarType.Float16))
            throw new ArgumentException($"storage: {storage}; snapshots are stored in Float32, BFloat16 or Float16", nameof(storage));
        if (!_schedules.OfType<EmaSchedule.PowerFunctionSchedule>().Any())
            throw new InvalidOperationException("SaveSnapshot: no schedule is a power function, so there is nothing to synthesize from.");
        if (Updates == 0)
            throw new InvalidOperationException("SaveSnapshot before the first update that averages.");

        var metadata = new Dictionary<string, string>
        {
            [FormatKey] = EmaSnapshot.Format,
            [StepKey] = (FirstStep + (Updates - 1) * Every).ToString(CultureInfo.InvariantCulture), // the last update's
            [EmaSnapshot.OriginKey] = (FirstStep - Every).ToString(CultureInfo.InvariantCulture),
        };
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var tensors = new List<KeyValuePair<string, Tensor>>();
        for (var k = 0; k < _schedules.Length; k++)
        {
            if (_schedules[k] is not EmaSchedule.PowerFunctionSchedule schedule)
                continue;
            metadata[EmaSnapshot.SigmaKey + k] = schedule.Sigma.ToString("R", CultureInfo.InvariantCulture);
            tensors.AddRange(_averaged.Select(entry => KeyValuePair.Create($"averages.{k}.{entry.Name}", entry.Averages[k].to(storage))));
        }

        tensors.AddRange(_copied.Select(buffer => KeyValuePair.Create($"buffers.{buffer.Name}", buffer.Copy)));
        SafetensorsFile.Write(path, tensors, metadata);
    }

    /// <summary>
    /// Makes the average of a width that was never trained, at a step, from snapshots that <see cref="SaveSnapshot"/> wrote. What such a
    /// combination can do, <see cref="PostHocEma"/> tells.
    /// </summary>
    /// <param name="snapshots">The files, of one training.</param>
    /// <param name="sigma">The relative width that is wanted, as in <see cref="EmaSchedule.PowerFunction"/>.</param>
    /// <param name="atStep">The optimiser step at which it is wanted; the last snapshot's without it.</param>
    /// <remarks>
    /// Reads one file at a time and adds up in double, so it takes eight bytes for each parameter whatever the number of files.
    /// </remarks>
    /// <exception cref="ArgumentException">There are no snapshots, or two are the same.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The width is out of its range, or the step is past the last snapshot.</exception>
    /// <exception cref="StateFileException">
    /// A file is damaged, no snapshot, or not of the same training as the first: other names, shapes, or another beginning.
    /// </exception>
    /// <exception cref="IOException">A file does not exist or cannot be read.</exception>
    public static SynthesizedEma Synthesize(IEnumerable<string> snapshots, double sigma, long? atStep = null)
    {
        ArgumentNullException.ThrowIfNull(snapshots);
        return SynthesizedEma.Of([.. snapshots.Select(EmaSnapshot.Read)], sigma, atStep);
    }
}
