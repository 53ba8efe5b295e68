using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>For an optimiser that moves the averages in its own pass.</content>
public sealed partial class EmaModel
{
    /// <summary>The averages that follow the model's own tensors; they come first in <see cref="Averaged.Averages"/>.</summary>
    internal int DirectAverageCount => _schedules.Length;

    /// <summary>Why an optimiser's pass cannot carry these averages; null where it can.</summary>
    internal string? WhyNotFused =>
        _options.Storage != EmaStorage.Float32 ? "are stored in bfloat16"
        : _options.Device is not null || _options.AlwaysStage ? "may be on another device than the parameters"
        : null;

    /// <summary>
    /// <see cref="Update"/>, of which somebody else does the main part: the step of the parameters, and of the averages of the model's own
    /// tensors.
    /// </summary>
    /// <param name="step">
    /// Takes the decays of this step, or null where averages are not due. Returns false where it did nothing, and then nothing is done here
    /// either; where it throws, it has done nothing.
    /// </param>
    internal void UpdateWith(Func<double[]?, bool> step)
    {
        RequireUsable("AdamW.step");
        var now = Step + 1;
        var decays = now % Every == 0 ? Decays(now) : null;
        if (IsStale())
            Rebind();
        if (!step(decays))
            return;
        if (decays is not null)
            FollowAverages(now, decays);
        End(now);
    }

    /// <summary>What <see cref="Save(string)"/> writes, by name, for whoever keeps it together with a state of its own.</summary>
    /// <param name="operation">What it is for; messages name it.</param>
    internal IReadOnlyList<KeyValuePair<string, Tensor>> StateTensors(string operation)
    {
        RequireUsable(operation);
        return NamedState();
    }

    internal void RestoreStep(long step) => Step = step;
}
