using AuxCore.Interop;

namespace AuxCore.Models;

/// <summary>What <see cref="AdamW"/> does where a gradient has a NaN or an infinity.</summary>
public enum NonFiniteGradients
{
    /// <summary>
    /// Nothing: the step is taken and parameters become NaN, as TorchSharp's optimisers do it. Gradients are not searched.
    /// </summary>
    Propagate,

    /// <summary>The step is taken all the same, and counted in <see cref="AdamW.NonFiniteSteps"/>.</summary>
    Count,

    /// <summary>
    /// The step is left out: parameters, moments and averages stay as they are, and <see cref="AdamW.SkippedSteps"/> grows.
    /// </summary>
    Skip,

    /// <summary>
    /// <see cref="AdamW.step"/> throws a <see cref="NonFiniteGradientException"/>; parameters, moments and averages stay as they are.
    /// </summary>
    Throw,
}

/// <summary>A gradient has a NaN or an infinity, and the optimiser was asked to throw then.</summary>
public sealed class NonFiniteGradientException : AuxException
{
    /// <summary>Creates the exception.</summary>
    /// <param name="operation">What was being done, such as <c>AdamW</c>.</param>
    /// <param name="parameter">The first parameter whose gradient is affected.</param>
    /// <param name="elements">How many elements of all gradients together.</param>
    public NonFiniteGradientException(string operation, string parameter, long elements)
        : base(
            operation,
            $"{elements} elements of the gradients are NaN or infinite, the first of them of '{parameter}'; nothing was changed")
    {
        Parameter = parameter;
        Elements = elements;
    }

    /// <summary>The first parameter whose gradient is affected.</summary>
    public string Parameter { get; }

    /// <summary>How many elements of all gradients together.</summary>
    public long Elements { get; }
}
