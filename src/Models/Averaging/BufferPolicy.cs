namespace AuxCore.Models;

/// <summary>What an <see cref="EmaModel"/> does with a module's persistent buffers, such as batch norm's running statistics.</summary>
public enum BufferPolicy
{
    /// <summary>Nothing: evaluation inside <see cref="EmaModel.Swap"/> uses the buffers as training left them.</summary>
    Skip,

    /// <summary>
    /// Each update copies them; evaluation uses the values of the last update. PyTorch's <c>swa_utils</c> does so by default.
    /// </summary>
    Copy,

    /// <summary>
    /// Floating-point buffers are averaged like parameters, the others (counters) are copied. timm's <c>ModelEma</c> does so.
    /// </summary>
    Mix,
}
