using System.Diagnostics.CodeAnalysis;
using ILGPU.Backends.EntryPoints;
using ILGPU.Backends.PTX;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;

namespace AuxCore.Kernels;

/// <summary>What ILGPU makes of a kernel, without a device: for tests that read it, and for tools that assemble it.</summary>
[RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
internal static class IlgpuPtx
{
    /// <summary>Compiles a kernel as a device of that architecture would get it.</summary>
    /// <param name="kernel">A static method.</param>
    /// <param name="maxThreads">What <see cref="IlgpuDevice.Kernel"/> is told of the same kernel.</param>
    /// <param name="architecture">Such as <see cref="CudaArchitecture.SM_80"/>.</param>
    /// <param name="instructionSet">The version of PTX.</param>
    public static string Compile(Delegate kernel, int maxThreads, CudaArchitecture architecture, CudaInstructionSet instructionSet)
    {
        using var context = IlgpuContext.Create(_ => { });
        using var backend = new PTXBackend(context, new CudaCapabilityContext(architecture), architecture, instructionSet, null);
        var compiled = backend.Compile(
            EntryPointDescription.FromExplicitlyGroupedKernel(kernel.Method), new KernelSpecialization(maxThreads, null));
        return ((PTXCompiledKernel)compiled).PTXAssembly;
    }
}
