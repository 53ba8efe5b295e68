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

    /// <inheritdoc cref="Multiply(double, double)"/>
    [ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
    [IntrinsicImplementation]
    public static float Multiply(float a, float b) => a * b;

    /// <summary>A bfloat16 from its bits; exact.</summary>
    [ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float FromBFloat16(uint bits) => Bits.IntAsFloat(bits << 16);

    /// <summary>A float16 from its bits; exact.</summary>
    [ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float FromFloat16(uint bits) => (float)Bits.IntAsFloat((ushort)bits);

    /// <summary>The bits of the nearest bfloat16, ties to even, as <see cref="AuxCore.Interop.BFloat16"/> has it.</summary>
    [ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint ToBFloat16(float value)
    {
        var bits = Bits.FloatAsInt(value);
        return float.IsNaN(value) ? (bits >> 16) | 0x0040 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    }

    /// <summary>
    /// The bits of the nearest float16, ties to even. In integers, so that it is the same on every accelerator.
    /// </summary>
    [ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint ToFloat16(float value)
    {
        var bits = Bits.FloatAsInt(value);
        var (sign, magnitude) = ((bits >> 16) & 0x8000, bits & 0x7FFF_FFFF);
        if (magnitude > 0x7F80_0000) // NaN
            return sign | 0x7E00 | ((magnitude >> 13) & 0x01FF);
        if (magnitude >= 0x477F_F000) // 65520 and more round to infinity
            return sign | 0x7C00;
        var exponent = (int)(magnitude >> 23);
        // Bits that are lost: 13 of a normal number; of a subnormal one more for each power of two below 2^-14. 24 and more leave nothing.
        var lost = exponent >= 113 ? 13 : Math.Min(126 - exponent, 25);
        var mantissa = exponent >= 113 ? magnitude - 0x3800_0000 : (magnitude & 0x007F_FFFF) | 0x0080_0000;
        var half = 1u << (lost - 1);
        var kept = mantissa >> lost;
        var rest = mantissa & ((1u << lost) - 1);
        return sign | (kept + (rest > half || (rest == half && (kept & 1) != 0) ? 1u : 0u));
    }

    /// <summary>Tells a context how the functions above are compiled.</summary>
    public static Context.Builder AddKernelMath(this Context.Builder builder)
    {
        const BindingFlags Static = BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic;
        Register<float>(nameof(MultiplyAdd), 3, nameof(EmitMultiplyAdd));
        Register<double>(nameof(Multiply), 2, nameof(EmitMultiplyDouble));
        Register<float>(nameof(Multiply), 2, nameof(EmitMultiplySingle));
        return builder;

        void Register<T>(string function, int operands, string emit) => builder.GetIntrinsicManager().RegisterMethod(
            typeof(KernelMath).GetMethod(function, Static, [.. Enumerable.Repeat(typeof(T), operands)])!,
            new PTXIntrinsic(typeof(KernelMath), emit, IntrinsicImplementationMode.GenerateCode));
    }

    private static void EmitMultiplyDouble(PTXBackend backend, PTXCodeGenerator code, Value value) => Emit(code, value, "mul.rn.f64");

    private static void EmitMultiplySingle(PTXBackend backend, PTXCodeGenerator code, Value value) => Emit(code, value, "mul.rn.f32");

    private static void EmitMultiplyAdd(PTXBackend backend, PTXCodeGenerator code, Value value) => Emit(code, value, "fma.rn.f32");

    private static void Emit(PTXCodeGenerator code, Value value, string instruction)
    {
        var call = (MethodCall)value;
        var operands = Enumerable.Range(0, call.Nodes.Length).Select(i => code.LoadPrimitive(call.Nodes[i])).ToArray();
        var result = code.AllocateHardware(value);
        using var command = code.BeginCommand(instruction);
        command.AppendArgument(result);
        foreach (var operand in operands)
            command.AppendArgument(operand);
    }
}
