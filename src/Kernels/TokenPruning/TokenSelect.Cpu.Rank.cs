using System.Numerics;
using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class TokenSelect
{
    /// <summary>Order statistics of keys. All are exact whatever the sample says; it only decides how much work there is.</summary>
    private static unsafe class KeyRank<TBlock> where TBlock : struct, IKeyBlock
    {
        private const int LeastKeysToSample = 2048;
        private const int Samples = 256;
        private const int Digits = 256;

        /// <summary>The k-th largest of n keys, and how many are greater.</summary>
        /// <param name="keys">n keys, in whole blocks.</param>
        /// <param name="n">At least 1.</param>
        /// <param name="k">From 1 to n.</param>
        /// <param name="spare">Memory for n keys.</param>
        public static (uint Key, int Above) Largest(uint* keys, int n, int k, uint* spare)
        {
            if (n >= LeastKeysToSample && Bracket(keys, n, k, spare, out var collected, out var above))
            {
                var (key, greater) = Radix(spare, collected, k - above, spare);
                return (key, above + greater);
            }

            return Radix(keys, n, k, spare);
        }

        /// <summary>The least key of scores above the outliers' bound; <paramref name="nan"/> of the n scores are NaN.</summary>
        public static uint OutlierBound(uint* keys, int n, int nan, double factor, uint* spare)
        {
            var numbers = n - nan;
            if (numbers == 0)
                return ScoreKey.Always;
            var (first, third) = (Quartile(keys, n, numbers, 1, spare), Quartile(keys, n, numbers, 3, spare));
            var bound = third + factor * (third - first);
            if (double.IsNaN(bound))
                return ScoreKey.Always;
            var nearest = (float)bound;
            return nearest > bound ? ScoreKey.Of(nearest) : ScoreKey.Of(nearest) + 1; // keys of neighbours are neighbours
        }

        /// <summary>How many tokens from the top have the mass that the budget wants.</summary>
        public static int CountOfMass(in TokenSelectWork work, int first, int n, uint* keys, uint* masses)
        {
            var largest = 0f;
            for (var i = 0; i < n; i++)
            {
                var score = work.ScoreAt(first + i);
                largest = score > largest ? score : largest;
            }

            var mass = new TokenMass(largest);
            var (sum, ofAlways, always) = (0ul, 0ul, 0);
            for (var i = 0; i < n; i++)
            {
                masses[i] = mass.Of(work.ScoreAt(first + i));
                sum += masses[i];
                if (keys[i] != ScoreKey.Always)
                    continue;
                ofAlways += masses[i];
                always++;
            }

            var wanted = TokenMass.Wanted(work.Budget.Value, sum);
            if (wanted <= ofAlways)
                return always; // the tokens that are always kept are kept, however few would do
            return CountOfMass(keys, masses, n, wanted - ofAlways) + always;
        }

        private static double Quartile(uint* keys, int n, int numbers, int quarters, uint* spare)
        {
            var place = QuartilePlace.Of(numbers, quarters);
            var (below, _) = Largest(keys, n, numbers - place.Below, spare);
            var (above, _) = place.Above == place.Below ? (below, 0) : Largest(keys, n, numbers - place.Above, spare);
            return place.Between(ScoreKey.Score(below), ScoreKey.Score(above));
        }

        /// <summary>
        /// Collects the keys between two keys of a sample that very likely enclose the k-th largest. False where they do not.
        /// </summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private static bool Bracket(uint* keys, int n, int k, uint* spare, out int collected, out int above)
        {
            var sample = stackalloc uint[Samples];
            for (var i = 0; i < Samples; i++)
                sample[i] = keys[(int)((long)n * i / Samples)];
            new Span<uint>(sample, Samples).Sort();

            // Three and a half standard deviations of a sample's rank, to both sides.
            var share = (double)k / n;
            var margin = (int)(3.5 * Math.Sqrt(Samples * share * (1 - share))) + 2;
            var rank = (int)(Samples * (1 - share));
            var low = rank - margin < 0 ? 0 : sample[rank - margin];
            var high = rank + margin >= Samples ? uint.MaxValue : sample[rank + margin];

            (collected, above) = (0, 0);
            for (var at = 0; at < n; at += IKeyBlock.Count)
            {
                var greater = TBlock.Above(keys + at, high);
                var valid = KeyBlocks<TBlock>.Valid(n - at);
                var between = KeyBlocks<TBlock>.AtLeast(keys + at, low) & ~greater & valid;
                above += BitOperations.PopCount(greater & valid);
                for (; between != 0; between &= between - 1)
                    spare[collected++] = keys[at + BitOperations.TrailingZeroCount(between)];
            }

            return above < k && k <= above + collected;
        }

        /// <summary>The k-th largest, by one digit of eight bits after the other, among the keys whose upper digits are right.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private static (uint Key, int Above) Radix(uint* keys, int n, int k, uint* spare)
        {
            var counts = stackalloc int[Digits];
            var (key, above) = (0u, 0);
            for (var shift = 24; ; shift -= 8)
            {
                new Span<int>(counts, Digits).Clear();
                for (var i = 0; i < n; i++)
                    counts[(byte)(keys[i] >> shift)]++;
                var digit = Digits - 1;
                for (; above + counts[digit] < k; digit--)
                    above += counts[digit];
                key |= (uint)digit << shift;
                if (shift == 0)
                    return (key, above);

                var kept = 0;
                for (var i = 0; i < n; i++)
                {
                    var candidate = keys[i];
                    spare[kept] = candidate;
                    kept += (byte)(candidate >> shift) == digit ? 1 : 0;
                }

                keys = spare;
                n = kept;
            }
        }

        /// <summary>
        /// How many keys from the top have a mass, equal keys one by one; those that are always kept do not count. By digits, as above.
        /// </summary>
        private static int CountOfMass(uint* keys, uint* masses, int n, ulong wanted)
        {
            var sums = stackalloc ulong[Digits];
            var counts = stackalloc int[Digits];
            var (key, count, mask) = (0u, 0, 0u);
            for (var shift = 24; shift >= 0; shift -= 8)
            {
                new Span<ulong>(sums, Digits).Clear();
                new Span<int>(counts, Digits).Clear();
                for (var i = 0; i < n; i++)
                {
                    if ((keys[i] & mask) != key || keys[i] == ScoreKey.Always)
                        continue;
                    var at = (byte)(keys[i] >> shift);
                    sums[at] += masses[i];
                    counts[at]++;
                }

                var digit = Digits - 1;
                for (; sums[digit] < wanted; digit--)
                {
                    wanted -= sums[digit];
                    count += counts[digit];
                }

                key |= (uint)digit << shift;
                mask |= 0xFFu << shift;
                if (shift == 0)
                {
                    var one = sums[digit] / (ulong)counts[digit]; // equal scores have equal masses
                    return count + (int)((wanted + one - 1) / one);
                }
            }

            return count;
        }
    }
}
