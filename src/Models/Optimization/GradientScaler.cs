using System.Globalization;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A loss scale for mixed precision (Micikevicius et al. 2018): the loss is multiplied before the backward pass, so that small gradients do
/// not vanish in a 16-bit type, and the optimiser divides them again. Where a gradient overflows, the step is skipped and the scale falls;
/// after many good steps it grows.
/// <code>
/// optimizer.Scaler = new GradientScaler();
/// scaler.Scale(loss).backward(); optimizer.step();
/// </code>
/// </summary>
/// <remarks>One scaler belongs to one optimiser, whose <see cref="AdamW.step"/> adjusts it. Not thread-safe.</remarks>
public sealed class GradientScaler
{
    /// <summary>The least scale: from there on, backing off does not help.</summary>
    public const double Least = 1.0 / (1L << 32);

    private readonly double _growth;
    private readonly double _backoff;
    private readonly int _interval;

    /// <summary>Makes a scaler; the defaults are those of PyTorch.</summary>
    /// <param name="initialScale">The first scale, at least <see cref="Least"/>. Powers of two lose no bit.</param>
    /// <param name="growth">What the scale is multiplied by after so many good steps, at least 1.</param>
    /// <param name="backoff">What it is multiplied by after an overflow, within (0, 1).</param>
    /// <param name="interval">How many good steps in a row let it grow, at least 1.</param>
    /// <exception cref="ArgumentOutOfRangeException">A parameter is NaN or out of its range.</exception>
    public GradientScaler(double initialScale = 65536, double growth = 2, double backoff = 0.5, int interval = 2000)
    {
        if (!(initialScale >= Least && double.IsFinite(initialScale)))
            throw new ArgumentOutOfRangeException(nameof(initialScale), initialScale, $"A scale is finite, at least {Least}.");
        if (!(growth >= 1 && double.IsFinite(growth)))
            throw new ArgumentOutOfRangeException(nameof(growth), growth, "A growth factor is finite, at least 1.");
        if (!(backoff > 0 && backoff < 1))
            throw new ArgumentOutOfRangeException(nameof(backoff), backoff, "A backoff factor lies within (0, 1).");
        ArgumentOutOfRangeException.ThrowIfLessThan(interval, 1);
        (CurrentScale, _growth, _backoff, _interval) = (initialScale, growth, backoff, interval);
    }

    /// <summary>What losses are multiplied by now.</summary>
    public double CurrentScale { get; private set; }

    /// <summary>Good steps since the scale last changed.</summary>
    public int GoodSteps { get; private set; }

    /// <summary>Steps that overflowed and were skipped.</summary>
    public long SkippedSteps { get; private set; }

    /// <summary>The loss, multiplied: what the backward pass begins from.</summary>
    /// <param name="loss">Of any shape; of float32, unless the scale fits a narrower type.</param>
    public Tensor Scale(Tensor loss)
    {
        ArgumentNullException.ThrowIfNull(loss);
        using var scale = CurrentScale.ToScalar();
        return loss.mul(scale);
    }

    internal void Update(bool overflowed)
    {
        if (overflowed)
        {
            SkippedSteps++;
            (CurrentScale, GoodSteps) = (Math.Max(CurrentScale * _backoff, Least), 0);
        }
        else if (++GoodSteps == _interval)
        {
            var grown = CurrentScale * _growth;
            (CurrentScale, GoodSteps) = (double.IsFinite(grown) ? grown : CurrentScale, 0);
        }
    }

    /// <summary>The state, as a state file keeps it.</summary>
    internal string State =>
        string.Create(CultureInfo.InvariantCulture, $"{CurrentScale:R} {GoodSteps} {SkippedSteps}");

    /// <summary>Reads <see cref="State"/>; what to do with it then, or null where it is none.</summary>
    internal Action? Restoring(string state)
    {
        var parts = state.Split(' ');
        if (parts.Length != 3
            || !double.TryParse(parts[0], NumberStyles.Float, CultureInfo.InvariantCulture, out var scale)
            || !int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out var good)
            || !long.TryParse(parts[2], NumberStyles.None, CultureInfo.InvariantCulture, out var skipped)
            || !(scale >= Least && double.IsFinite(scale)))
            return null;
        return () => (CurrentScale, GoodSteps, SkippedSteps) = (scale, good, skipped);
    }
}
