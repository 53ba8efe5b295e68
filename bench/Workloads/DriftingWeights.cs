using System.Numerics.Tensors;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Bench.Workloads;

/// <summary>How an average is kept.</summary>
internal enum AverageStorage
{
    /// <summary>float32, of float32 sources.</summary>
    Float32,

    /// <summary>float32, of sources that were rounded to bfloat16, as parameters in mixed precision are.</summary>
    Float32OfBFloat16,

    /// <summary>bfloat16, rounded to the nearest.</summary>
    BFloat16Nearest,

    /// <summary>bfloat16, rounded stochastically.</summary>
    BFloat16Stochastic,
}

/// <summary>What became of an average, against one of the same sources that was kept in double.</summary>
/// <param name="RelativeError">The root mean square of the difference, relative to that of the average in double.</param>
/// <param name="MovementKept">
/// How far the average went along the way that the one in double went from the beginning: 1 if all the way, 0 if it stood still.
/// </param>
internal readonly record struct DriftResult(double RelativeError, double MovementKept);

/// <summary>
/// Weights that drift as in a long training: each goes straight from a normal deviate to another normal deviate away from it, and jitters
/// by a hundredth around that way. It shows what storing an average in few bits costs; nothing is learned here.
/// </summary>
internal static class DriftingWeights
{
    private const int Weights = 4096, Jitters = 61;
    private const float Jitter = 0.01f;

    /// <summary>Averages the weights over some steps, in one kind of storage and in double.</summary>
    public static DriftResult Run(AverageStorage storage, double decay, int steps, int seed)
    {
        var random = new Random(seed);
        float[] start = Normal(random), drift = Normal(random), source = new float[Weights];
        float[][] jitters = [.. Enumerable.Range(0, Jitters).Select(_ => Normal(random))];
        var narrow = new BFloat16[Weights];
        var average = (float[])start.Clone();
        BFloat16[] stored = [.. start.Select(value => (BFloat16)value)];
        double[] exact = [.. start.Select(value => (double)value)], wide = new double[Weights];
        for (int step = 1; step <= steps; step++)
        {
            TensorPrimitives.MultiplyAdd(drift, (float)step / steps, start, source);
            TensorPrimitives.MultiplyAdd(jitters[random.Next(Jitters)], Jitter, source, source);
            switch (storage)
            {
                case AverageStorage.Float32:
                    EmaUpdate.Run(average, source, decay);
                    break;
                case AverageStorage.Float32OfBFloat16:
                    for (int i = 0; i < Weights; i++) narrow[i] = (BFloat16)source[i];
                    EmaUpdate.Run(average, narrow, decay);
                    break;
                case AverageStorage.BFloat16Nearest:
                    EmaUpdate.Run(stored, source, decay, EmaRounding.Nearest(force: true));
                    break;
                default:
                    EmaUpdate.Run(stored, source, decay, EmaRounding.Stochastic((ulong)seed, step));
                    break;
            }

            TensorPrimitives.ConvertTruncating<float, double>(source, wide);
            TensorPrimitives.Subtract(wide, exact, wide);
            TensorPrimitives.MultiplyAdd(wide, 1 - decay, exact, exact);
        }

        if (storage is AverageStorage.BFloat16Nearest or AverageStorage.BFloat16Stochastic)
            for (int i = 0; i < Weights; i++) average[i] = stored[i];
        return Compare(start, average, exact);
    }

    private static DriftResult Compare(float[] start, float[] average, double[] exact)
    {
        double error = 0, size = 0, along = 0, way = 0;
        for (int i = 0; i < Weights; i++)
        {
            double moved = exact[i] - start[i];
            error += (average[i] - exact[i]) * (average[i] - exact[i]);
            size += exact[i] * exact[i];
            along += (average[i] - start[i]) * moved;
            way += moved * moved;
        }

        return new(Math.Sqrt(error / size), along / way);
    }

    private static float[] Normal(Random random)
    {
        var values = new float[Weights];
        for (int i = 0; i < Weights; i++) // Box and Muller 1958
            values[i] = (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        return values;
    }
}
