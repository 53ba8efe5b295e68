using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests;

/// <summary>One way to run an op: a backend and, on the CPU, a vector width and a number of threads.</summary>
public sealed record Runner(AuxBackend Backend, int Width = 0, int Threads = 1)
{
    public void Run(Action<AuxBackend> action)
    {
        var before = AuxRuntime.CpuThreads;
        AuxRuntime.CpuThreads = Threads; // process-wide, but results do not depend on it
        try
        {
            if (Width == 0)
                action(Backend);
            else
                CpuSimd.With((SimdWidth)Width, () => action(Backend));
        }
        finally
        {
            AuxRuntime.CpuThreads = before;
        }
    }

    public override string ToString() => Backend + (Width == 0 ? "" : $"-{Width * 32}") + (Threads == 1 ? "" : $"-{Threads}-threads");
}

/// <summary>Every way to run an op that is held against the reference, on every machine: widths without hardware are emulated.</summary>
internal static class BackendMatrix
{
    public static readonly Runner Scalar = new(AuxBackend.Cpu, 1);

    public static readonly Runner[] All =
    [
        new(AuxBackend.Reference), Scalar, new(AuxBackend.Cpu, 4), new(AuxBackend.Cpu, 8), new(AuxBackend.Cpu, 16),
        new(AuxBackend.Cpu, 8, Threads: 3),
    ];
}
