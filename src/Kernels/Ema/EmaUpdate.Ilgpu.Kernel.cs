using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using AuxCore.Interop;
using ILGPU;

namespace AuxCore.Kernels;

/// <summary>
/// EmaUpdate's device code for ILGPU, after <c>native/cuda/ema/ema_update.cu</c>: a warp takes a piece of one tensor, loads each sixteen
/// bytes of the source once, whatever the number of averages, and has all loads of a step under way before it stores.
/// </summary>
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal static class EmaKernel
{
    public const int Warp = 32;

    /// <summary>Threads of a block; on a device with smaller ones, a warp.</summary>
    public const int Threads = 256;

    public const int PieceElements = 4096;

    /// <summary>Where source and averages have no sixteen-byte boundary in common.</summary>
    public const ushort NoVectors = ushort.MaxValue;

    /// <summary>Updates every average of every piece.</summary>
    /// <param name="memory">Where the addresses point.</param>
    /// <param name="pieces">One a warp.</param>
    /// <param name="averages">For each piece the addresses of its averages, as many as there are steps.</param>
    /// <param name="steps">One an average.</param>
    public static void EmaUpdate(DeviceMemory memory, ArrayView<EmaPiece> pieces, ArrayView<long> averages, ArrayView<EmaStep> steps)
    {
        var warp = Grid.IdxX * (Group.DimX / Warp) + Group.IdxX / Warp;
        var lane = Group.IdxX % Warp;
        if (warp >= pieces.IntLength)
            return;
        var piece = pieces[warp];
        var own = averages.SubView((long)warp * steps.IntLength, steps.IntLength);
        switch (piece.SourceType)
        {
            case (ushort)DType.Float32:
                Update<Float32Source>(memory, piece, own, steps, lane);
                break;
            case (ushort)DType.Float16:
                Update<Source16<Float16Type>>(memory, piece, own, steps, lane);
                break;
            default:
                Update<Source16<BFloat16Type>>(memory, piece, own, steps, lane);
                break;
        }
    }

    /// <summary>Writes steps. They arrive as a parameter, so no copy has to be waited for.</summary>
    /// <param name="steps">Where they go.</param>
    /// <param name="from">The first that is written.</param>
    /// <param name="values">The values of it and those that follow; what exceeds the view is left out.</param>
    public static void SetSteps(ArrayView<EmaStep> steps, int from, EmaSteps values)
    {
        for (var i = Group.IdxX; i < EmaSteps.Count && from + i < steps.IntLength; i += Group.DimX)
            steps[from + i] = i == 0 ? values.Step0 : i == 1 ? values.Step1 : i == 2 ? values.Step2 : values.Step3;
    }

    private static void Update<TSource>(
        DeviceMemory memory, EmaPiece piece, ArrayView<long> averages, ArrayView<EmaStep> steps, int lane)
        where TSource : struct, ISource
    {
        if (piece.Head == NoVectors)
        {
            UpdateOneByOne<TSource>(memory, piece, averages, steps, lane, piece.Count);
            return;
        }

        var groups = (piece.Count - piece.Head) / TSource.Elements;
        var group = lane;
        for (; group + (TSource.Groups - 1) * Warp < groups; group += TSource.Groups * Warp)
            UpdateGroups<TSource>(memory, piece, averages, steps, group);
        for (; group < groups; group += Warp)
            UpdateGroup<TSource>(memory, piece, averages, steps, group);
        UpdateOneByOne<TSource>(memory, piece, averages, steps, lane, piece.Head);
        UpdateOneByOne<TSource>(memory, piece, averages, steps, piece.Head + groups * TSource.Elements + lane, piece.Count);
    }

    /// <summary>Sixteen elements a lane: four float4 of each average.</summary>
    private static void UpdateGroups<TSource>(
        DeviceMemory memory, EmaPiece piece, ArrayView<long> averages, ArrayView<EmaStep> steps, int group)
        where TSource : struct, ISource
    {
        var p = TSource.Load(memory, piece.Source + piece.Head * TSource.Size, group);
        for (var k = 0; k < steps.IntLength; k++)
        {
            var step = steps[k];
            if (step.Rule == EmaRule.Keep)
                continue;
            var average = memory.Quads(averages[k] + piece.Head * sizeof(float), PieceElements);
            var at = group * (TSource.Elements / 4);
            var e0 = average[at];
            var e1 = average[at + TSource.Quad1];
            var e2 = average[at + TSource.Quad2];
            var e3 = average[at + TSource.Quad3];
            average[at] = Update(step, e0, p.Quad0);
            average[at + TSource.Quad1] = Update(step, e1, p.Quad1);
            average[at + TSource.Quad2] = Update(step, e2, p.Quad2);
            average[at + TSource.Quad3] = Update(step, e3, p.Quad3);
        }
    }

    private static void UpdateGroup<TSource>(
        DeviceMemory memory, EmaPiece piece, ArrayView<long> averages, ArrayView<EmaStep> steps, int group)
        where TSource : struct, ISource
    {
        var p = TSource.LoadOne(memory, piece.Source + piece.Head * TSource.Size, group);
        for (var k = 0; k < steps.IntLength; k++)
        {
            var step = steps[k];
            if (step.Rule == EmaRule.Keep)
                continue;
            var average = memory.Quads(averages[k] + piece.Head * sizeof(float), PieceElements);
            var at = group * (TSource.Elements / 4);
            average[at] = Update(step, average[at], p.Quad0);
            if (TSource.Elements > 4)
                average[at + 1] = Update(step, average[at + 1], p.Quad1);
        }
    }

    private static void UpdateOneByOne<TSource>(
        DeviceMemory memory, EmaPiece piece, ArrayView<long> averages, ArrayView<EmaStep> steps, int from, int to)
        where TSource : struct, ISource
    {
        for (var i = from; i < to; i += Warp)
        {
            var p = TSource.LoadElement(memory, piece.Source, i);
            for (var k = 0; k < steps.IntLength; k++)
            {
                var step = steps[k];
                if (step.Rule == EmaRule.Keep)
                    continue;
                var average = memory.Floats(averages[k], i + 1);
                average[i] = Update(step, average[i], p);
            }
        }
    }

    // The operations of EmaUpdate.Cpu.cs in their order, so all backends give the same bits.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Update(EmaStep step, float e, float p)
    {
        var mixed = KernelMath.MultiplyAdd(step.Coefficient, p - e, step.Rule == EmaRule.FromSource ? p : e);
        var kept = p == e ? e : mixed;
        return step.Rule == EmaRule.Copy ? p : kept;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Float4 Update(EmaStep step, Float4 e, Float4 p) => new()
    {
        X = Update(step, e.X, p.X),
        Y = Update(step, e.Y, p.Y),
        Z = Update(step, e.Z, p.Z),
        W = Update(step, e.W, p.W),
    };

    /// <summary>How a type of source is read: in groups of sixteen bytes, each of which meets one or two float4 of an average.</summary>
    private interface ISource
    {
        /// <summary>Bytes of an element.</summary>
        static abstract int Size { get; }

        /// <summary>Elements of a group.</summary>
        static abstract int Elements { get; }

        /// <summary>Groups that <see cref="Load"/> reads, a warp apart.</summary>
        static abstract int Groups { get; }

        /// <summary>Where, beside the first, the other three float4 of an average lie that go with what <see cref="Load"/> reads.</summary>
        static abstract int Quad1 { get; }

        static abstract int Quad2 { get; }

        static abstract int Quad3 { get; }

        static abstract Quads Load(DeviceMemory memory, long source, int group);

        static abstract Quads LoadOne(DeviceMemory memory, long source, int group);

        static abstract float LoadElement(DeviceMemory memory, long source, int index);
    }

    private struct Quads
    {
        public Float4 Quad0, Quad1, Quad2, Quad3;
    }

    private readonly struct Float32Source : ISource
    {
        public static int Size => 4;

        public static int Elements => 4;

        public static int Groups => 4;

        public static int Quad1 => Warp;

        public static int Quad2 => 2 * Warp;

        public static int Quad3 => 3 * Warp;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Quads Load(DeviceMemory memory, long source, int group)
        {
            var quads = memory.Quads(source, PieceElements);
            return new()
            {
                Quad0 = quads[group],
                Quad1 = quads[group + Warp],
                Quad2 = quads[group + 2 * Warp],
                Quad3 = quads[group + 3 * Warp],
            };
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Quads LoadOne(DeviceMemory memory, long source, int group) =>
            new() { Quad0 = memory.Quads(source, PieceElements)[group] };

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static float LoadElement(DeviceMemory memory, long source, int index) => memory.Floats(source, index + 1)[index];
    }

    // bfloat16 and float16 differ in how they are widened only.
    private readonly struct Source16<TType> : ISource where TType : struct, IType16
    {
        public static int Size => 2;

        public static int Elements => 8;

        public static int Groups => 2;

        public static int Quad1 => 1;

        public static int Quad2 => 2 * Warp;

        public static int Quad3 => 2 * Warp + 1;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Quads Load(DeviceMemory memory, long source, int group)
        {
            var blocks = memory.Blocks(source, PieceElements);
            var (first, second) = (blocks[group], blocks[group + Warp]);
            return new()
            {
                Quad0 = Widen(first.X, first.Y),
                Quad1 = Widen(first.Z, first.W),
                Quad2 = Widen(second.X, second.Y),
                Quad3 = Widen(second.Z, second.W),
            };
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Quads LoadOne(DeviceMemory memory, long source, int group)
        {
            var block = memory.Blocks(source, PieceElements)[group];
            return new() { Quad0 = Widen(block.X, block.Y), Quad1 = Widen(block.Z, block.W) };
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static float LoadElement(DeviceMemory memory, long source, int index) =>
            TType.Widen(memory.Words(source, index + 1)[index]);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static Float4 Widen(uint low, uint high) => new()
        {
            X = TType.Widen(low & 0xFFFF),
            Y = TType.Widen(low >> 16),
            Z = TType.Widen(high & 0xFFFF),
            W = TType.Widen(high >> 16),
        };
    }

    private interface IType16
    {
        static abstract float Widen(uint bits);
    }

    private readonly struct Float16Type : IType16
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static float Widen(uint bits) => KernelMath.FromFloat16(bits);
    }

    private readonly struct BFloat16Type : IType16
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static float Widen(uint bits) => KernelMath.FromBFloat16(bits);
    }
}

/// <summary>A stretch of one tensor, the work of one warp.</summary>
/// <param name="Source">The address of its first element.</param>
/// <param name="Count">Elements.</param>
/// <param name="Head">Elements up to the first sixteen-byte boundary of source and averages alike, or <see cref="EmaKernel.NoVectors"/>.
/// </param>
/// <param name="SourceType">A <see cref="DType"/>.</param>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal readonly record struct EmaPiece(long Source, int Count, ushort Head, ushort SourceType);

/// <summary>Some steps by value.</summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct EmaSteps
{
    public const int Count = 4;

    public EmaStep Step0, Step1, Step2, Step3;
}
