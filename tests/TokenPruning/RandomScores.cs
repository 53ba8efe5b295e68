using AuxCore.Interop;

namespace AuxCore.Tests.TokenPruning;

/// <summary>Scores with everything that an order has to settle: ties, both zeros, infinities, NaN, subnormals.</summary>
internal static class RandomScores
{
    public static float[] Of(int count, int seed)
    {
        var random = new Random(seed);
        var scores = new float[count];
        var kind = seed % 4; // all kinds; few ties; mostly ties; attention-like
        for (var i = 0; i < count; i++)
        {
            var value = (float)(random.NextDouble() * 2 - 1);
            scores[i] = kind switch
            {
                0 when random.Next(3) == 0 => random.Next(8) switch
                {
                    0 => float.NaN,
                    1 => -float.NaN,
                    2 => float.PositiveInfinity,
                    3 => float.NegativeInfinity,
                    4 => 0f,
                    5 => -0f,
                    6 => float.Epsilon * random.Next(-2, 3),
                    _ => float.MaxValue,
                },
                2 => random.Next(-1, 2) * 0.5f,
                3 => MathF.Exp(6 * value) / count,
                _ => value,
            };
        }

        return scores;
    }

    /// <summary>As a type stores them, and what it then holds.</summary>
    public static (T[] Stored, float[] Widened) As<T>(float[] scores)
    {
        if (typeof(T) == typeof(BFloat16))
        {
            BFloat16[] narrow = [.. scores.Select(score => (BFloat16)score)];
            return ((T[])(object)narrow, [.. narrow.Select(score => (float)score)]);
        }

        if (typeof(T) == typeof(Half))
        {
            Half[] narrow = [.. scores.Select(score => (Half)score)];
            return ((T[])(object)narrow, [.. narrow.Select(score => (float)score)]);
        }

        return ((T[])(object)scores, scores);
    }

    public static float[] Widen<T>(T[] stored) => stored switch
    {
        BFloat16[] narrow => [.. narrow.Select(value => (float)value)],
        Half[] narrow => [.. narrow.Select(value => (float)value)],
        _ => (float[])(object)stored,
    };
}
