using System.Diagnostics.CodeAnalysis;
using System.Reflection;
using System.Runtime.CompilerServices;
using ILGPU;
using ILGPU.Backends.PTX;
using ILGPU.IR;
using ILGPU.IR.Intrinsics;
using ILGPU.IR.Values;
using Bits = ILGPU.Interop;

namespace AuxCore.Kernels;

/// <summary>Arithmetic of ILGPU kernels that gives the bits of the other backends.</summary>
internal static class KernelMath
{
    /// <summary>
    /// a · b + c, rounded once. ILGPU knows no fused multiply-add: it compiles <see cref="MathF.FusedMultiplyAdd"/> to a call of a function
    /// that nobody defines, and <c>a * b + c</c> leaves it to the driver's compiler whether it rounds once or twice.
    /// </summary>
    [ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
    [IntrinsicImplementation]
    public static float MultiplyAdd(float a, float b, float c) => MathF.FusedMultiplyAdd(a, b, c);

    /// <summary>a · b, rounded, also where a sum follows: <c>mul</c> alone lets the driver's compiler fuse the two.</summary>
    [ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
    [IntrinsicImplementation]
    public static double Multiply(double a, double b) => a * b;

    /// <summary>A bfloat16 from its bits; exact.</summary>
    [ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float FromBFloat16(uint bits) => Bits.IntAsFloat(bits << 16);

    /// <summary>A float16 from its bits; exact.</summary>
    [ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float FromFloat16(uint bits) => (float)Bits.IntAsFloat((ushort)bits);

    /// <summary>Tells a context how the functions above are compiled.</summary>
    public static Context.Builder AddKernelMath(this Context.Builder builder)
    {
        const BindingFlags Static = BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic;
        Register(nameof(MultiplyAdd), nameof(EmitMultiplyAdd));
        Register(nameof(Multiply), nameof(EmitMultiply));
        return builder;

        void Register(string function, string emit) => builder.GetIntrinsicManager().RegisterMethod(
            typeof(KernelMath).GetMethod(function, Static)!,
            new PTXIntrinsic(typeof(KernelMath), emit, IntrinsicImplementationMode.GenerateCode));
    }

    private static void EmitMultiply(PTXBackend backend, PTXCodeGenerator code, Value value)
    {
        var call = (MethodCall)value;
        var (a, b) = (code.LoadPrimitive(call.Nodes[0]), code.LoadPrimitive(call.Nodes[1]));
        var result = code.AllocateHardware(value);
        using var command = code.BeginCommand("mul.rn.f64");
        command.AppendArgument(result);
        command.AppendArgument(a);
        command.AppendArgument(b);
    }

    private static void EmitMultiplyAdd(PTXBackend backend, PTXCodeGenerator code, Value value)
    {
        var call = (MethodCall)value;
        var (a, b, c) = (code.LoadPrimitive(call.Nodes[0]), code.LoadPrimitive(call.Nodes[1]), code.LoadPrimitive(call.Nodes[2]));
        var result = code.AllocateHardware(value);
        using var command = code.BeginCommand("fma.rn.f32");
        command.AppendArgument(result);
        command.AppendArgument(a);
        command.AppendArgument(b);
        command.AppendArgument(c);
    }
}
