using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class KvQuantise
{
    private readonly unsafe struct KiviGroups : ICodec
    {
        private const int Half = KiviGroup.Elements / 2;

        public static int BlockBytes => KiviGroup.Bytes;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Quantise<TVector>(float* x, byte* y, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            if (count == 0)
                return;
            var zero = TVector.Broadcast(0);
            var greatest = TVector.Load(x);
            var greatestNegated = zero - greatest;
            for (var i = TVector.Count; i < KiviGroup.Elements; i += TVector.Count)
            {
                greatest = TVector.Greater(TVector.Load(x + i), greatest);
                greatestNegated = TVector.Greater(zero - TVector.Load(x + i), greatestNegated);
            }

            var lanes = stackalloc float[2 * FloatVector16.Count];
            greatest.Store(lanes);
            greatestNegated.Store(lanes + FloatVector16.Count);
            var (most, least) = (lanes[0], -lanes[FloatVector16.Count]);
            for (var i = 1; i < TVector.Count; i++)
            {
                most = MathF.Max(most, lanes[i]);
                least = MathF.Min(least, -lanes[FloatVector16.Count + i]);
            }

            // A NaN may have been passed over by the comparisons: magnitudes by their bits show it.
            if (LargestBits<TVector>(x) >= HalfBits.SingleInfinity || !(least >= -Largest && most - least <= Largest))
            {
                QuantiseKivi(x, y); // rare: what is not finite, and what binary16 cannot hold
                return;
            }

            var m = DirectedHalf.AtMost(least);
            var s = DirectedHalf.AtLeast((most - (float)m) / KiviGroup.Largest);
            ((System.Half*)y)[0] = s;
            ((System.Half*)y)[1] = m;
            var inverse = TVector.Broadcast(s == default ? 0 : 1 / (float)s);
            var (shift, half) = (TVector.Broadcast((float)m), TVector.Broadcast(0.5f));
            for (var i = 0; i < Half; i += TVector.Count)
            {
                var lower = (TVector.Load(x + i) - shift) * inverse + half;
                var upper = (TVector.Load(x + Half + i) - shift) * inverse + half;
                TVector.StoreHalves(lower, upper, y + 4 + i);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Restore<TVector>(byte* y, float* x, int count, float scale) where TVector : struct, IFloatVector<TVector>
        {
            if (count == 0)
                return;
            var (s, m) = (TVector.Broadcast(Scale(y)), TVector.Broadcast(Scale(y + sizeof(ushort))));
            var eight = TVector.Broadcast(8); // halves come less 8
            for (var i = 0; i < Half; i += TVector.Count)
            {
                TVector.MultiplyAdd(TVector.LoadHalves(y + 4 + i, 0) + eight, s, m).Store(x + i);
                TVector.MultiplyAdd(TVector.LoadHalves(y + 4 + i, 4) + eight, s, m).Store(x + Half + i);
            }
        }

        private const float Largest = 65504;
    }
}
