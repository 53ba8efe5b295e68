using System.Runtime.InteropServices;

namespace AuxCore.Interop;

/// <summary>
/// A handle of the C ABI: a number, 0 for none. A call that has it as an argument keeps it from being released while the call runs.
/// </summary>
internal abstract class NativeHandle() : SafeHandle(0, ownsHandle: true)
{
    public override bool IsInvalid => handle == 0;

    protected sealed override bool ReleaseHandle() => Release(handle) == 0;

    /// <summary>Gives the handle back; the status of the ABI.</summary>
    protected abstract int Release(nint handle);
}

/// <summary>An <c>auxcore_context</c>.</summary>
internal sealed class CudaContextHandle() : NativeHandle
{
    protected override int Release(nint handle) => Native.Close(handle);
}
