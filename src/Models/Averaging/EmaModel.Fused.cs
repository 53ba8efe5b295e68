using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>For an optimiser that moves the averages in its own pass.</content>
public sealed partial class EmaModel
{
    /// <summary>The averages that follow the parameters themselves; they come first in <see cref="Averaged.Averages"/>.</summary>
    internal int DirectAverageCount => _schedules.Length;

    /// <summary>
    /// <see cref="Update"/>, of which somebody else does the main part: the step of the parameters and the averages that follow them.
    /// </summary>
    /// <param name="step">
    /// Takes the decays of this step; returns false where it did nothing, and then nothing is done here either. Where it throws, it has
    /// done nothing.
    /// </param>
    internal void UpdateWith(Func<double[]?, bool> step)
    {
        RequireUsable("AdamW.step");
        if (_averaged.Any(entry => entry.Tensor.IsInvalid) || _copied.Any(buffer => buffer.Tensor.IsInvalid))
            Rebind();
        if (!step(Decays()))
            return;
        CopyBuffers();
        Step++;
    }

    /// <summary>What <see cref="Save"/> writes, by name, for whoever keeps it together with a state of its own.</summary>
    /// <param name="operation">What it is for; messages name it.</param>
    internal IReadOnlyList<KeyValuePair<string, Tensor>> StateTensors(string operation)
    {
        RequireUsable(operation);
        return NamedState();
    }

    internal void RestoreStep(long step) => Step = step;
}
