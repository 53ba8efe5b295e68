namespace AuxCore.Interop;

/// <summary>Whose memory an address belongs to.</summary>
public enum AuxDeviceKind
{
    /// <summary>The process's own memory.</summary>
    Host,

    /// <summary>The memory of a CUDA device.</summary>
    Cuda,
}

/// <summary>A place where tensors live: the host, or one CUDA device.</summary>
/// <param name="Kind">Host or CUDA.</param>
/// <param name="Index">The CUDA ordinal; 0 for the host.</param>
public readonly record struct AuxDevice(AuxDeviceKind Kind, int Index = 0)
{
    /// <summary>The process's own memory.</summary>
    public static AuxDevice Host => default;

    /// <inheritdoc/>
    public override string ToString() => Kind == AuxDeviceKind.Host ? "cpu" : $"cuda:{Index}";
}
