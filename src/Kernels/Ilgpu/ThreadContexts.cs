using System.Diagnostics.CodeAnalysis;

namespace AuxCore.Kernels;

/// <summary>
/// The CUDA contexts that a thread had, set aside while ILGPU works there. ILGPU makes its context current by <c>cuCtxSetCurrent</c>, which
/// takes the place of the topmost of the thread's stack, and none by the same with NULL, which takes the topmost away; and it does both
/// behind its callers' backs, where it touches host memory. On a stack of its own it does no harm.
/// </summary>
[RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
internal static class ThreadContexts
{
    /// <summary>Takes the thread's contexts away; it has none afterwards.</summary>
    /// <returns>From the top down; null for none, as on most threads that no other library has used.</returns>
    public static nint[]? Take()
    {
        nint[]? taken = null;
        try
        {
            for (nint top; (top = IlgpuDriver.CurrentContext()) != 0;)
            {
                taken = [.. taken ?? [], top];
                IlgpuDriver.PopContext();
            }

            return taken;
        }
        catch
        {
            PutBack(taken);
            throw;
        }
    }

    /// <summary>
    /// Drops what ILGPU left, and puts back what was taken. A driver call that fails is tried again, because it may have reported what an
    /// earlier launch did; then the failure is thrown.
    /// </summary>
    public static void PutBack(nint[]? taken)
    {
        var failure = 0;
        for (var tries = 0; tries < 2;)
        {
            var result = IlgpuDriver.TryGetCurrentContext(out var current);
            if (result == 0 && current == 0)
                break;
            if (result == 0)
                result = IlgpuDriver.TryPopContext();
            if (result != 0)
                (failure, tries) = (result, tries + 1);
        }

        for (var i = (taken?.Length ?? 0) - 1; i >= 0; i--)
        {
            var result = IlgpuDriver.TryPushContext(taken![i]);
            if (result != 0)
                failure = result;
            if (result != 0 && IlgpuDriver.TryPushContext(taken[i]) is not 0 and var again)
                failure = again;
        }

        IlgpuDriver.Check(failure);
    }
}
