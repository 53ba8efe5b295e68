using Device = TorchSharp.torch.Device;

namespace AuxCore.Models;

/// <summary>In which type an <see cref="EmaModel"/> stores its averages.</summary>
public enum EmaStorage
{
    /// <summary>float32, whatever the parameters' type: the default, and what nearly every use wants.</summary>
    Float32,

    /// <summary>
    /// bfloat16, rounded at random up or down so that the mean is kept: half the memory, at the cost of noise of the size of bfloat16's
    /// last place, 1/256 of a value. The random numbers follow from <see cref="EmaOptions.Seed"/>, step and element, whatever the machine.
    /// </summary>
    BFloat16,

    /// <summary>
    /// bfloat16, rounded to the nearest. Above a decay of 0.99 such an average stands still, so schedules that go there are refused unless
    /// <see cref="EmaOptions.ForceNearest"/> is set.
    /// </summary>
    BFloat16Nearest,
}

/// <summary>What an <see cref="EmaModel"/> does beside averaging every parameter at every step in float32.</summary>
/// <example><code>new EmaModel(model, EmaSchedule.HalfLife(500), new EmaOptions { Every = 10, StartAfter = 1000 })</code></example>
public sealed class EmaOptions
{
    /// <summary>What to do with the persistent buffers that the two members below say nothing of.</summary>
    public BufferPolicy Buffers { get; init; } = BufferPolicy.Copy;

    /// <summary>
    /// The policy of some buffers by their full names, such as <c>norm.running_var</c>; a name that the model lacks is an error.
    /// </summary>
    public IReadOnlyDictionary<string, BufferPolicy>? BuffersByName { get; init; }

    /// <summary>The policy by name for buffers that <see cref="BuffersByName"/> lacks; null for the default.</summary>
    public Func<string, BufferPolicy?>? BufferRule { get; init; }

    /// <summary>
    /// Which parameters to average, by name; all of them without it. Those left out (frozen ones, say) are not touched by
    /// <see cref="EmaModel.Swap"/> either.
    /// </summary>
    public Func<string, bool>? Parameters { get; init; }

    /// <summary>Only every so many optimiser steps the averages move: at the steps that this divides. At least 1.</summary>
    public int Every { get; init; } = 1;

    /// <summary>
    /// Up to and including this optimiser step, updates copy the parameters; averaging and the schedules' time begin after it. At least 0.
    /// </summary>
    public long StartAfter { get; init; }

    /// <summary>The type of the averages.</summary>
    public EmaStorage Storage { get; init; }

    /// <summary>Whether <see cref="EmaStorage.BFloat16Nearest"/> may go with decays above 0.99, for comparisons.</summary>
    public bool ForceNearest { get; init; }

    /// <summary>Where the random numbers of <see cref="EmaStorage.BFloat16"/> begin.</summary>
    public ulong Seed { get; init; }

    /// <summary>
    /// 1: averages of the parameters. 2: beside them averages of these averages, with the same decays, behind them in number; and so on.
    /// Each level is updated with what the one before it has become.
    /// </summary>
    public int Levels { get; init; } = 1;

    /// <summary>
    /// Where the averages lie: null for where the parameters are, else the CPU. Averages of a model in device memory then take host memory
    /// only, and each update copies the parameters to the host first.
    /// </summary>
    public Device? Device { get; init; }

    /// <summary>Copies the parameters before each update although they are where the averages are: so tests reach that path.</summary>
    internal bool AlwaysStage { get; init; }
}
