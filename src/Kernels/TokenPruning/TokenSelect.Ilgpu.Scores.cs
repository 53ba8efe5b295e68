using System.Runtime.CompilerServices;
using ILGPU;
using Bits = ILGPU.Interop;

namespace AuxCore.Kernels;

// What the steps of TokenSelect's device code for ILGPU have in common: sums over a block, and scores as keys that order as they do.
internal static partial class TokenSelectKernel
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int Sum(RankSpace space, int own)
    {
        if (Group.IdxX == 0)
            space.Counts[0] = 0;
        Group.Barrier();
        Atomic.Add(ref space.Counts[0], own);
        Group.Barrier();
        var sum = space.Counts[0];
        Group.Barrier();
        return sum;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Sum(RankSpace space, ulong own)
    {
        if (Group.IdxX == 0)
            space.Masses[0] = 0;
        Group.Barrier();
        Atomic.Add(ref space.Masses[0], own);
        Group.Barrier();
        var sum = space.Masses[0];
        Group.Barrier();
        return sum;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Greatest(RankSpace space, uint own)
    {
        if (Group.IdxX == 0)
            space.Masses[0] = 0;
        Group.Barrier();
        Atomic.Max(ref space.Masses[0], (ulong)own);
        Group.Barrier();
        var greatest = (uint)space.Masses[0];
        Group.Barrier();
        return greatest;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Score(TokenSelectKernelViews views, int token)
    {
        if (views.Kind == FloatKind.Float32)
            return views.Scores[token];
        uint bits = views.NarrowScores[token];
        return views.Kind == FloatKind.BFloat16 ? KernelMath.FromBFloat16(bits) : KernelMath.FromFloat16(bits);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool IsAlways(TokenSelectKernelViews views, int token) => views.Always.Length > 0 && views.Always[token] != 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Raised(TokenSelectKernelViews views, int token) =>
        IsAlways(views, token) ? ScoreKey.Always : KeyOf(Score(views, token));

    // ScoreKey.Of and Score.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint KeyOf(float score)
    {
        var bits = score == 0 ? 0 : Bits.FloatAsInt(score);
        var key = (bits & ScoreKey.Sign) != 0 ? ~bits : bits | ScoreKey.Sign;
        return float.IsNaN(score) ? 0 : key;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float ScoreOf(uint key) => Bits.IntAsFloat((key & ScoreKey.Sign) != 0 ? key & ~ScoreKey.Sign : ~key);
}
