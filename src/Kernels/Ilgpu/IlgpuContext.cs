using System.Diagnostics.CodeAnalysis;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;
using CudaException = AuxCore.Interop.CudaException;
using IlgpuCudaException = ILGPU.Runtime.Cuda.CudaException;

namespace AuxCore.Kernels;

/// <summary>How ILGPU is set up here, and its errors as ours.</summary>
[RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
internal static class IlgpuContext
{
    /// <summary>Makes a context in which all our kernels compile, and ILGPU.Algorithms.</summary>
    /// <param name="addDevices">Registers the devices that it is for.</param>
    public static Context Create(Action<Context.Builder> addDevices) => Context.Create(builder =>
    {
        builder.EnableAlgorithms().AddKernelMath().Optimize(OptimizationLevel.O2);
        addDevices(builder);
    });

    /// <summary>An error of ILGPU as the exception that an op throws; null for any other error.</summary>
    /// <param name="operation">The op.</param>
    /// <param name="error">What was thrown.</param>
    public static Exception? Translate(string operation, Exception error) => error switch
    {
        IlgpuCudaException cuda => new CudaException(
            operation, Enum.TryParse<CudaError>(cuda.Error, out var code) ? (int)code : 0, $"ILGPU: {cuda.Message} ({cuda.Error})"),
        AcceleratorException or InternalCompilerException =>
            new AuxException(operation, $"{operation}: ILGPU failed: {error.Message}", error),
        _ => null,
    };
}
