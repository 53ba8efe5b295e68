namespace AuxCore.Bench.Cases;

/// <summary>What a kernel is compared with.</summary>
internal enum BaselineKind
{
    /// <summary>The fastest rewriting in libtorch operations that we know; headlines are ratios to it.</summary>
    Best,

    /// <summary>The expression of the paper's code, or the one that people write; the ratio shows what algebra alone gives.</summary>
    Published,

    /// <summary>Another candidate for <see cref="Best"/> that was slower in this run.</summary>
    Other,
}

/// <summary>One call of one implementation.</summary>
/// <param name="Name">What it does, in the words of its library, such as <c>lerp_ per tensor</c>; unique within its case.</param>
/// <param name="Run">The call, without allocation of inputs.</param>
internal sealed record CaseArm(string Name, Action Run);

/// <summary>How the cases of one run are prepared.</summary>
/// <param name="Backend">The AuxCore backend under test, in lower case: <c>cpu</c>.</param>
/// <param name="Threads">How many threads each implementation may use.</param>
/// <param name="Quick">Fewer rounds; a case may also shrink its data.</param>
/// <param name="Seed">Seeds the data and the order of the arms.</param>
internal sealed record CaseSettings(string Backend, int Threads, bool Quick, int Seed);

/// <summary>
/// One kernel on one set of data, with what it is compared with. Creating a case is cheap, so that all can be listed; <see cref="Prepare"/>
/// allocates. Every figure in a report comes through here, whichever verb ran it.
/// </summary>
internal abstract class KernelCase : IDisposable
{
    /// <summary>The hot path that the case belongs to: <c>ema</c>.</summary>
    public abstract string Path { get; }

    /// <summary>The case's own name, unique within its path: <c>vit-s-22m</c>.</summary>
    public abstract string Name { get; }

    /// <summary>One line on what the data are and where such data occur.</summary>
    public abstract string Description { get; }

    /// <summary>The element types: <c>f32</c>, or <c>bf16 to f32</c>.</summary>
    public abstract string DType { get; }

    /// <summary>The bytes that one call must move: each input once, each output once.</summary>
    public abstract long Bytes { get; }

    /// <summary>Whether the kernel reads what it overwrites; its bandwidth reference is then an in-place triad, else a copy.</summary>
    public abstract bool InPlace { get; }

    /// <summary>
    /// Allocates the data, once, before anything else is asked. Data that fit in a cache are meant to be met there on every call but the
    /// first; a case that stands for cold data rotates several copies of them.
    /// </summary>
    public abstract void Prepare(CaseSettings settings);

    /// <summary>AuxCore's kernel.</summary>
    public abstract CaseArm Ours { get; }

    /// <summary>
    /// The rewritings that compete to be the best baseline. The one of lowest median becomes it; the others are reported too.
    /// </summary>
    public abstract IReadOnlyList<CaseArm> BestCandidates { get; }

    /// <summary>The published expression, where it is not one of the candidates.</summary>
    public virtual CaseArm? Published => null;

    /// <summary>Runs ours against the reference on this case's data.</summary>
    /// <returns>The largest error, in the unit that the case documents.</returns>
    /// <exception cref="VerificationException">The error exceeds the case's tolerance.</exception>
    public abstract double Verify();

    /// <summary>Frees the data; also called if <see cref="Prepare"/> was not, or failed.</summary>
    public abstract void Dispose();
}

/// <summary>A kernel's result is not what its reference says.</summary>
/// <param name="message">What was compared, the error found and the error allowed.</param>
/// <param name="maxError">The error found, where there is one number.</param>
internal sealed class VerificationException(string message, double? maxError = null) : Exception(message)
{
    /// <summary>The error found, where there is one number.</summary>
    public double? MaxError { get; } = maxError;
}
