using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// One op's support table: the backends that run it, and for each of the others the reason why it does not. <c>Resolve</c> is the only
/// place where <see cref="AuxBackend.Auto"/> becomes a backend.
/// </summary>
internal sealed class OpSupport
{
    private readonly Dictionary<AuxBackend, string?> _missing;
    private readonly OpCounter _counter;

    /// <summary>Declares the table of one op.</summary>
    /// <param name="op">The op's stem, the name of its class.</param>
    /// <param name="cells">Every backend but Auto: null where it runs, else the reason.</param>
    public OpSupport(string op, params (AuxBackend Backend, string? Missing)[] cells)
    {
        Op = op;
        _missing = cells.ToDictionary(cell => cell.Backend, cell => cell.Missing);
        _counter = new OpCounter(op);
    }

    public string Op { get; }

    /// <summary>Why the op does not run on a backend here; null where it does.</summary>
    public string? WhyNot(AuxBackend backend) =>
        _missing[backend] ?? (IsAvailable(backend, out var reason) ? null : reason);

    /// <summary>The public form of <see cref="WhyNot"/>; Auto always runs somewhere.</summary>
    public bool IsSupported(AuxBackend backend, out string reason)
    {
        if (!Enum.IsDefined(backend))
            throw new ArgumentOutOfRangeException(nameof(backend), backend, "Not a backend.");
        reason = backend == AuxBackend.Auto ? "" : WhyNot(backend) ?? "";
        return reason.Length == 0;
    }

    /// <summary>The backend that a call will run on.</summary>
    /// <param name="requested">What the caller asked for; a named backend runs or throws, it never falls back.</param>
    /// <param name="device">Where the call's tensors are.</param>
    /// <exception cref="BackendUnavailableException">The backend cannot run this op here, or not on memory of this device.</exception>
    public AuxBackend Resolve(AuxBackend requested, AuxDevice device)
    {
        if (!Enum.IsDefined(requested))
            throw new ArgumentOutOfRangeException(nameof(requested), requested, "Not a backend.");
        var chosen = requested;
        if (chosen == AuxBackend.Auto)
            chosen = AuxRuntime.AutoOverride();
        if (chosen == AuxBackend.Auto)
            chosen = For(device);

        if (WhyNot(chosen) is { } reason)
            throw new BackendUnavailableException(Op, chosen, reason);
        var onHost = chosen is AuxBackend.Cpu or AuxBackend.Reference || (chosen == AuxBackend.Ilgpu && IlgpuBackend.IsOnCpu);
        if (onHost != (device.Kind == AuxDeviceKind.Host))
            throw new BackendUnavailableException(Op, chosen, $"the tensors are on {device}");
        return chosen;
    }

    /// <summary>Checks that memory of a device can be worked on at all, before anything is built on it.</summary>
    /// <exception cref="BackendUnavailableException">No backend runs this op there.</exception>
    public void RequireDevice(AuxDevice device) => Resolve(For(device), device);

    /// <summary>Notes that a call ran.</summary>
    public void Count(AuxBackend backend) => _counter.Add(backend);

    private static bool IsAvailable(AuxBackend backend, out string reason) =>
        backend == AuxBackend.Ilgpu ? IlgpuBackend.IsUsable(out reason) : AuxRuntime.IsAvailable(backend, out reason);

    private static AuxBackend For(AuxDevice device) => device.Kind == AuxDeviceKind.Host ? AuxBackend.Cpu : AuxBackend.Cuda;
}
