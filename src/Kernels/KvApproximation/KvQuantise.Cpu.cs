using System.Numerics;
using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvQuantise
{
    // A thread gets at least this many elements: some 20 us of work, which waking it must be worth.
    private const long MinimumElementsPerThread = 64 * 1024;

    // Threads part the elements at multiples of this, which every group divides.
    private const int Block = 32;

    private static unsafe void RunCpu(in KvQuantiseWork work)
    {
        var loop = LoopFor(CpuSimd.Width, work.Format, work.IsRestore);
        var threads = ThreadTeam.Count(work.Count, MinimumElementsPerThread);
        if (threads == 1)
            loop(work.Elements, work.Bytes, work.Count, work.Scale);
        else
            RunThreads(work, loop, threads);
    }

    /// <summary>What quantises elements: their address, that of the bytes, how many, and the scale.</summary>
    internal static unsafe delegate*<float*, byte*, long, float, void> QuantiserOf(SimdWidth width, KvFormat format) =>
        LoopFor(width, format, isRestore: false);

    // Apart from RunCpu, so that one thread pays for no closure.
    private static unsafe void RunThreads(KvQuantiseWork work, delegate*<float*, byte*, long, float, void> loop, int threads)
    {
        var blocks = (work.Count + Block - 1) / Block;
        var blockBytes = work.Format.ByteCount(Block);
        ThreadTeam.Run(threads, part =>
        {
            var from = blocks * part / threads;
            var to = blocks * (part + 1) / threads;
            var count = Math.Min(to * Block, work.Count) - from * Block;
            loop(work.Elements + from * Block, work.Bytes + from * blockBytes, count, work.Scale);
        });
    }

    private static unsafe delegate*<float*, byte*, long, float, void> LoopFor(SimdWidth width, KvFormat format, bool isRestore) =>
        width switch
        {
            SimdWidth.Bits512 => LoopFor<FloatVector16>(format, isRestore),
            SimdWidth.Bits256 => LoopFor<FloatVector8>(format, isRestore),
            SimdWidth.Bits128 => LoopFor<FloatVector4>(format, isRestore),
            _ => LoopFor<FloatVector1>(format, isRestore),
        };

    private static unsafe delegate*<float*, byte*, long, float, void> LoopFor<TVector>(KvFormat format, bool isRestore)
        where TVector : struct, IFloatVector<TVector> =>
        format switch
        {
            KvFormat.F32 => LoopFor<TVector, Elements<float>>(isRestore),
            KvFormat.F16 => LoopFor<TVector, Elements<Half>>(isRestore),
            KvFormat.BF16 => LoopFor<TVector, Elements<BFloat16>>(isRestore),
            KvFormat.Fp8E4M3 => LoopFor<TVector, E4M3Elements>(isRestore),
            KvFormat.Q8_0 => LoopFor<TVector, Q8Groups>(isRestore),
            KvFormat.Q4_0 => LoopFor<TVector, Q4Groups>(isRestore),
            _ => LoopFor<TVector, KiviGroups>(isRestore),
        };

    private static unsafe delegate*<float*, byte*, long, float, void> LoopFor<TVector, TCodec>(bool isRestore)
        where TVector : struct, IFloatVector<TVector>
        where TCodec : struct, ICodec =>
        isRestore ? &Restore<TVector, TCodec> : &Quantise<TVector, TCodec>;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void Quantise<TVector, TCodec>(float* elements, byte* bytes, long count, float scale)
        where TVector : struct, IFloatVector<TVector>
        where TCodec : struct, ICodec
    {
        for (; count >= Block; count -= Block, elements += Block, bytes += TCodec.BlockBytes)
        {
            Prefetch.Ahead(elements, Block * sizeof(float));
            TCodec.Quantise<TVector>(elements, bytes, Block, scale);
        }

        TCodec.Quantise<FloatVector1>(elements, bytes, (int)count, scale);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Restore<TVector, TCodec>(float* elements, byte* bytes, long count, float scale)
        where TVector : struct, IFloatVector<TVector>
        where TCodec : struct, ICodec
    {
        for (; count >= Block; count -= Block, elements += Block, bytes += TCodec.BlockBytes)
            TCodec.Restore<TVector>(bytes, elements, Block, scale);
        TCodec.Restore<FloatVector1>(bytes, elements, (int)count, scale);
    }

    /// <summary>One format. A count is that of a block or, for elements that stand for themselves, below it.</summary>
    private unsafe interface ICodec
    {
        static abstract int BlockBytes { get; }

        static abstract void Quantise<TVector>(float* x, byte* y, int count, float scale) where TVector : struct, IFloatVector<TVector>;

        static abstract void Restore<TVector>(byte* y, float* x, int count, float scale) where TVector : struct, IFloatVector<TVector>;
    }

    private readonly unsafe struct Elements<T> : ICodec where T : unmanaged
    {
        public static int BlockBytes => Block * sizeof(T);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Quantise<TVector>(float* x, byte* y, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            for (var i = 0; i < count; i += TVector.Count)
                TVector.Load(x + i).StoreAs((T*)y + i);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Restore<TVector>(byte* y, float* x, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            for (var i = 0; i < count; i += TVector.Count)
                TVector.Load((T*)y + i).Store(x + i);
        }
    }

    private readonly unsafe struct E4M3Elements : ICodec
    {
        public static int BlockBytes => Block;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Quantise<TVector>(float* x, byte* y, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            var scales = TVector.Broadcast(scale);
            for (var i = 0; i < count; i += TVector.Count)
                (TVector.Load(x + i) / scales).StoreE4M3(y + i);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Restore<TVector>(byte* y, float* x, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            var scales = TVector.Broadcast(scale);
            for (var i = 0; i < count; i += TVector.Count)
                (TVector.LoadE4M3(y + i) * scales).Store(x + i);
        }
    }

    private readonly unsafe struct Q8Groups : ICodec
    {
        public static int BlockBytes => Q8Group.Bytes;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Quantise<TVector>(float* x, byte* y, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            if (count == 0)
                return;
            var d = BitConverter.UInt32BitsToSingle(LargestBits<TVector>(x)) / Q8Group.Largest;
            var narrow = HalfBits.Narrow(d);
            if (narrow >= HalfBits.Infinity)
            {
                QuantiseQ8(x, y); // rare: what is not finite, and what binary16 cannot scale
                return;
            }

            *(ushort*)y = narrow;
            var inverse = TVector.Broadcast(Inverse(d));
            for (var i = 0; i < Q8Group.Elements; i += TVector.Count)
                (TVector.Load(x + i) * inverse).StoreRounded((sbyte*)y + 2 + i);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Restore<TVector>(byte* y, float* x, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            if (count == 0)
                return;
            var d = TVector.Broadcast(Scale(y));
            for (var i = 0; i < Q8Group.Elements; i += TVector.Count)
                (TVector.LoadInt8((sbyte*)y + 2 + i) * d).Store(x + i);
        }
    }

    private readonly unsafe struct Q4Groups : ICodec
    {
        private const int Half = Q4Group.Elements / 2;

        public static int BlockBytes => Q4Group.Bytes;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Quantise<TVector>(float* x, byte* y, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            if (count == 0)
                return;
            var magnitude = BitConverter.UInt32BitsToSingle(LargestBits<TVector>(x));
            var d = First<TVector>(x, magnitude) / -Q4Group.Zero;
            var narrow = HalfBits.Narrow(d);
            if ((narrow & 0x7FFFu) >= HalfBits.Infinity)
            {
                QuantiseQ4(x, y); // rare: what is not finite, and what binary16 cannot scale
                return;
            }

            *(ushort*)y = narrow;
            var (inverse, shift) = (TVector.Broadcast(Inverse(d)), TVector.Broadcast(8.5f));
            for (var i = 0; i < Half; i += TVector.Count)
            {
                // Product and sum are rounded apart, as in the formula.
                var (lower, upper) = (TVector.Load(x + i) * inverse + shift, TVector.Load(x + Half + i) * inverse + shift);
                TVector.StoreHalves(lower, upper, y + 2 + i);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Restore<TVector>(byte* y, float* x, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            if (count == 0)
                return;
            var d = TVector.Broadcast(Scale(y));
            for (var i = 0; i < Half; i += TVector.Count)
            {
                (TVector.LoadHalves(y + 2 + i, 0) * d).Store(x + i);
                (TVector.LoadHalves(y + 2 + i, 4) * d).Store(x + Half + i);
            }
        }

        /// <summary>The first element of a magnitude; NaN where no element equals it.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static float First<TVector>(float* x, float magnitude) where TVector : struct, IFloatVector<TVector>
        {
            if (magnitude == 0)
                return 0; // also where the first is −0
            var sought = TVector.Broadcast(magnitude);
            for (var i = 0; i < Q4Group.Elements; i += TVector.Count)
            {
                var equal = TVector.EqualMagnitudes(TVector.Load(x + i), sought);
                if (equal != 0)
                    return x[i + BitOperations.TrailingZeroCount(equal)];
            }

            return float.NaN;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe uint LargestBits<TVector>(float* x) where TVector : struct, IFloatVector<TVector>
    {
        var largest = TVector.LargerMagnitude(TVector.Load(x), TVector.Broadcast(0));
        for (var i = TVector.Count; i < Block; i += TVector.Count)
            largest = TVector.LargerMagnitude(largest, TVector.Load(x + i));
        return TVector.LargestBits(largest);
    }

    /// <summary>1 / d, or 0 where that is none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Inverse(float d)
    {
        var inverse = 1 / d;
        return float.IsInfinity(inverse) ? 0 : inverse; // of 0 too
    }

    /// <summary>The scale that a group begins with.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static unsafe float Scale(byte* group)
    {
        uint bits = *(ushort*)group;
        var magnitude = (bits & 0x7FFFu) << 13;
        var scaled = BitConverter.SingleToUInt32Bits(BitConverter.UInt32BitsToSingle(magnitude) * HalfBits.ExponentShift);
        var special = magnitude >= HalfBits.Infinity << 13 ? HalfBits.SingleInfinity : 0;
        return BitConverter.UInt32BitsToSingle(scaled | special | ((bits & 0x8000u) << 16));
    }
}
