using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace AuxCore.Kernels;

/// <summary>
/// Cosines and sines of the first positions, [positions, pairs] each: angles, cosines and sines in double, rounded to float32.
/// </summary>
internal sealed unsafe class RotaryTable
{
    /// <summary>Positions from here on are not tabulated: 16 MB for heads of 64 are enough.</summary>
    public const int MostPositions = 1 << 16;

    private readonly float[] _numbers; // pinned for life

    public RotaryTable(RotaryOptions options, int rotated, int positions)
    {
        var frequencies = options.FrequenciesOf(rotated);
        var count = positions * frequencies.Length;
        (Rotated, Positions) = (rotated, positions);
        _numbers = GC.AllocateUninitializedArray<float>(2 * count, pinned: true);
        Cosines = (float*)Unsafe.AsPointer(ref MemoryMarshal.GetArrayDataReference(_numbers));
        Sines = Cosines + count;
        for (var position = 0; position < positions; position++)
            Fill(frequencies, position, Cosines + position * frequencies.Length, Sines + position * frequencies.Length);
    }

    public int Rotated { get; }

    public int Positions { get; }

    public float* Cosines { get; }

    public float* Sines { get; }

    /// <summary>Cosines and sines of one position.</summary>
    public static void Fill(ReadOnlySpan<double> frequencies, int position, float* cosines, float* sines)
    {
        for (var pair = 0; pair < frequencies.Length; pair++)
        {
            var (sine, cosine) = Math.SinCos(position * frequencies[pair]);
            (cosines[pair], sines[pair]) = ((float)cosine, (float)sine);
        }
    }
}
