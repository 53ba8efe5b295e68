using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.Simd;

/// <summary>
/// The operations that a kernel's loop is written in: every width does what one lane does, and one lane does what .NET does.
/// </summary>
public unsafe class FloatVectorTests
{
    // Around every value of both 16-bit types, and halfway between neighbours: each rounding decision there is.
    private static readonly float[] Values = Enumerable.Range(0, 65536).SelectMany(bits =>
    {
        var half = (float)BitConverter.UInt16BitsToHalf((ushort)bits);
        float brain = BFloat16.FromBits((ushort)bits);
        return new[] { half, brain, Next(half, 0x1000), Next(half, 0x0FFF), Next(half, 0x1001), Next(brain, 0x8000), Next(brain, 0x7FFF),
            Next(brain, 0x8001) };
    }).ToArray();

    private static float Next(float value, int bits) => BitConverter.Int32BitsToSingle(BitConverter.SingleToInt32Bits(value) + bits);

    [Fact]
    public void Narrowing_rounds_to_nearest_ties_to_even_in_every_width()
    {
        Check<FloatVector1>();
        Check<FloatVector4>();
        Check<FloatVector8>();
        Check<FloatVector16>();

        static void Check<TVector>() where TVector : struct, IFloatVector<TVector>
        {
            var (brains, halves, roundedBrains, roundedHalves) =
                (new BFloat16[Values.Length], new Half[Values.Length], new float[Values.Length], new float[Values.Length]);
            fixed (float* values = Values, toBrain = roundedBrains, toHalf = roundedHalves)
            fixed (BFloat16* brain = brains)
            fixed (Half* half = halves)
            {
                for (var i = 0; i < Values.Length; i += TVector.Count)
                {
                    var vector = TVector.Load(values + i);
                    vector.StoreAs(brain + i);
                    vector.StoreAs(half + i);
                    TVector.RoundTo<BFloat16>(vector).Store(toBrain + i);
                    TVector.RoundTo<Half>(vector).Store(toHalf + i);
                }
            }

            for (var i = 0; i < Values.Length; i++)
            {
                var (expectedBrain, expectedHalf) = ((BFloat16)Values[i], (Half)Values[i]);
                if (float.IsNaN(Values[i]))
                {
                    Assert.True(float.IsNaN(brains[i]) && Half.IsNaN(halves[i]) && float.IsNaN(roundedBrains[i])
                        && float.IsNaN(roundedHalves[i]));
                    Assert.Equal(HalfBits.Narrow(Values[i]), BitConverter.HalfToUInt16Bits(halves[i]));
                    continue;
                }

                Assert.Equal(expectedBrain.Bits, brains[i].Bits);
                Assert.Equal(BitConverter.HalfToUInt16Bits(expectedHalf), BitConverter.HalfToUInt16Bits(halves[i]));
                Assert.Equal(Bits((float)expectedBrain), Bits(roundedBrains[i]));
                Assert.Equal(Bits((float)expectedHalf), Bits(roundedHalves[i]));
            }
        }
    }

    [Fact]
    public void Arithmetic_is_that_of_IEEE_754_in_every_width()
    {
        Check<FloatVector1>();
        Check<FloatVector4>();
        Check<FloatVector8>();
        Check<FloatVector16>();

        static void Check<TVector>() where TVector : struct, IFloatVector<TVector>
        {
            var random = new Random(3);
            var left = Enumerable.Range(0, 1600).Select(_ => Values[random.Next(Values.Length)]).ToArray();
            var right = Enumerable.Range(0, 1600).Select(_ => Values[random.Next(Values.Length)]).ToArray();
            var results = new float[5][];
            for (var operation = 0; operation < 5; operation++)
                results[operation] = new float[1600];
            fixed (float* a = left, b = right)
            {
                for (var i = 0; i < 1600; i += TVector.Count)
                {
                    var (x, y) = (TVector.Load(a + i), TVector.Load(b + i));
                    TVector[] each = [x + y, x - y, x * y, x / y, TVector.Sqrt(x)];
                    for (var operation = 0; operation < 5; operation++)
                    {
                        fixed (float* to = results[operation])
                            each[operation].Store(to + i);
                    }
                }
            }

            for (var i = 0; i < 1600; i++)
            {
                var (x, y) = (left[i], right[i]);
                float[] expected = [x + y, x - y, x * y, x / y, MathF.Sqrt(x)];
                for (var operation = 0; operation < 5; operation++)
                    Assert.Equal(expected[operation], results[operation][i]); // NaN equals NaN here
            }
        }
    }

    [Fact]
    public void Squares_are_added_in_the_same_order_in_every_width()
    {
        Check<FloatVector1>();
        Check<FloatVector4>();
        Check<FloatVector8>();
        Check<FloatVector16>();

        static void Check<TVector>() where TVector : struct, IFloatVector<TVector>
        {
            var values = Values.Where(float.IsFinite).Take(6400).ToArray();
            var narrow = values.Select(value => (BFloat16)value).ToArray();
            var expected = Enumerable.Range(0, 32).Select(i => (double)i).ToArray();
            var (sums, narrowSums) = (expected.ToArray(), expected.ToArray());
            for (var i = 0; i < values.Length; i++)
                expected[i % 32] += (double)values[i] * values[i];

            fixed (float* source = values)
            fixed (BFloat16* narrowSource = narrow)
            fixed (double* to = sums, narrowTo = narrowSums)
            {
                TVector.AddSquares(source, values.Length, to);
                TVector.AddSquares(narrowSource, 32, narrowTo);
            }

            Assert.Equal(expected, sums);
            Assert.Equal(Enumerable.Range(0, 32).Select(i => i + (double)narrow[i] * narrow[i]), narrowSums);
        }
    }

    private static int Bits(float value) => BitConverter.SingleToInt32Bits(value);
}
