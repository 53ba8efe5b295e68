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
    /// <summary>Compiles a kernel as a device would get it from the oldest driver that serves the device.</summary>
    /// <param name="kernel">A static method.</param>
    /// <param name="maxThreads">What <see cref="IlgpuDevice.Kernel"/> is told of the same kernel.</param>
    /// <param name="major">Of the device's compute capability, at least 8.</param>
    /// <param name="minor">The same.</param>
    public static string Compile(Delegate kernel, int maxThreads, int major, int minor = 0)
    {
        var instructions = major switch
        {
            8 => CudaInstructionSet.ISA_70,
            9 => CudaInstructionSet.ISA_78,
            _ => CudaInstructionSet.ISA_88,
        };
        var architecture = new CudaArchitecture(major, minor);
        using var context = IlgpuContext.Create(_ => { });
        using var backend = new PTXBackend(context, new CudaCapabilityContext(architecture), architecture, instructions, null);
        var compiled = backend.Compile(
            EntryPointDescription.FromExplicitlyGroupedKernel(kernel.Method), new KernelSpecialization(maxThreads, null));
        return ((PTXCompiledKernel)compiled).PTXAssembly;
    }
}
