namespace AuxCore.Interop;

/// <summary>Where an operation runs.</summary>
public enum AuxBackend
{
    /// <summary>
    /// The best backend for the memory that was passed; the environment variable <c>AUXCORE_BACKEND</c> overrides this choice only.
    /// </summary>
    Auto,

    /// <summary>Vectorised C# on host memory.</summary>
    Cpu,

    /// <summary>The formula, plainly, in double precision where it matters: the oracle of the tests, on host memory.</summary>
    Reference,

    /// <summary>CUDA C++ kernels on device memory.</summary>
    Cuda,

    /// <summary>C# kernels that ILGPU compiles to PTX at run time, on device memory.</summary>
    Ilgpu,
}
