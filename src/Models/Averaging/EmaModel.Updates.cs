using AuxCore.Kernels;
using TorchSharp;

namespace AuxCore.Models;

/// <content>What happens at an optimiser step.</content>
public sealed partial class EmaModel
{
    /// <summary>
    /// Call it once after each optimiser step: moves every average towards the model's present parameters, or, by the options, copies them
    /// or waits; then feeds an average back where <see cref="FeedBack"/> asked for it.
    /// </summary>
    /// <exception cref="InvalidOperationException">Called inside <see cref="Swap"/>, while the model holds the averages itself.</exception>
    /// <exception cref="ArgumentException">
    /// The model's parameters changed in name, number, shape, or to a type that cannot be averaged.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A schedule went above a decay of 0.99, where averages in bfloat16 are rounded to the nearest.
    /// </exception>
    /// <exception cref="ObjectDisposedException">The averages were disposed.</exception>
    public void Update()
    {
        RequireUsable("Update");
        var step = Step + 1;
        if (step % Every == 0)
            Average(step);
        End(step);
    }

    /// <summary>
    /// From now on moves the model's parameters towards an average as well, every so many optimiser steps: parameter ← keep · parameter +
    /// (1 − keep) · average, after the average's own update. With keep = 0 training goes on from the average (Switch EMA, Li et al. 2024);
    /// in between lies the slow and fast pair of Lee et al. 2024 ("Slow and Steady Wins the Race").
    /// </summary>
    /// <param name="every">Optimiser steps between two such moves, at least 1.</param>
    /// <param name="keep">How much of itself a parameter keeps, within [0, 1].</param>
    /// <param name="average">Which average, from 0.</param>
    /// <remarks>
    /// Written through libtorch, so autograd notices. Buffers that are averaged move too; copied ones are the model's own already. What an
    /// optimiser knows of the parameters (momentum) stays as it is. Up to <see cref="EmaOptions.StartAfter"/> nothing is fed back.
    /// </remarks>
    /// <exception cref="ArgumentOutOfRangeException">An argument is out of its range.</exception>
    public void FeedBack(long every, double keep = 0, int average = 0)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentOutOfRangeException.ThrowIfLessThan(every, 1);
        if (!(keep is >= 0 and <= 1))
            throw new ArgumentOutOfRangeException(nameof(keep), keep, "What is kept lies within [0, 1].");
        RequireAverage(average);
        _feedBack = new(every, keep, average);
    }

    // The first step that averages; none within reach where StartAfter says so.
    private long FirstStep => StartAfter > long.MaxValue - Every ? long.MaxValue : (StartAfter / Every + 1) * Every;

    // Where model.to(…) disposed or replaced parameters that no longer fit, Rebind says so by the model's own names.
    private void Average(long step)
    {
        var decays = Decays(step);
        if (IsStale())
            Rebind();
        try
        {
            _mixer.Update(Rounding(step), decays);
        }
        catch (Exception error) when (error is ObjectDisposedException or ArgumentException and not ArgumentOutOfRangeException)
        {
            Rebind();
            _mixer.Update(Rounding(step), decays);
        }

        FollowAverages(step, decays);
    }

    private double[] Decays(long step)
    {
        var decays = new double[_schedules.Length]; // all 0, which copies
        for (var i = 0; i < decays.Length && step > StartAfter; i++)
            decays[i] = _schedules[i].DecayAt(step - FirstStep, Every);
        return decays;
    }

    // What is averaged or copied besides the averages of the model's own tensors.
    private void FollowAverages(long step, double[] decays)
    {
        for (var i = 0; i < _chain.Length; i++)
            _chain[i].Update(Rounding(step, _schedules.Length + i), decays[i % decays.Length]);
        if (_copied.Length > 0)
        {
            using var noGrad = torch.no_grad();
            foreach (var buffer in _copied)
                buffer.Copy.copy_(buffer.Tensor);
        }
    }

    private void End(long step)
    {
        if (_feedBack is { } fed && step % fed.Every == 0 && step > StartAfter)
            FeedBackNow(fed);
        Step = step;
    }

    // Every average has random numbers of its own: average k of the first mixer those of seed + k, and so on along the chain.
    private EmaRounding Rounding(long step, int average = 0) => _options.Storage switch
    {
        EmaStorage.BFloat16 => EmaRounding.Stochastic(_options.Seed + (ulong)average, step),
        EmaStorage.BFloat16Nearest => EmaRounding.Nearest(_options.ForceNearest),
        _ => default,
    };

    private void FeedBackNow(FedBack fed)
    {
        if (IsStale())
            Rebind();
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        var weight = torch.tensor((float)(1 - fed.Keep));
        foreach (var entry in _averaged)
        {
            var average = entry.Averages[fed.Average].to(torch.float32, entry.Tensor.device);
            if (fed.Keep == 0)
                entry.Tensor.copy_(average);
            else if (entry.Tensor.dtype == torch.float32)
                entry.Tensor.lerp_(average, weight);
            else
                entry.Tensor.copy_(torch.lerp(entry.Tensor.to(torch.float32), average, weight));
        }
    }

    private static EmaMixer[] ChainOf(EmaMixer first, int averages, int levels)
    {
        var chain = new EmaMixer[averages * (levels - 1)];
        try
        {
            for (var i = 0; i < chain.Length; i++)
            {
                chain[i] = i < averages ? first.Chain(i) : chain[i - averages].Chain();
                chain[i].Freeze(); // its sources are averages of our own, which never move
            }

            return chain;
        }
        catch
        {
            foreach (var mixer in chain)
                mixer?.Dispose();
            throw;
        }
    }

    private sealed record FedBack(long Every, double Keep, int Average);
}
