namespace AuxCore.Bench.Measurement;

/// <summary>Student's t distribution with whole degrees of freedom.</summary>
internal static class StudentT
{
    /// <summary>The t with P(|T| ≤ t) = 0.95, by bisection.</summary>
    public static double TwoSided95(int degreesOfFreedom)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(degreesOfFreedom, 1);
        double low = 0, high = 13; // t = 12.706 at one degree of freedom, the largest
        for (int step = 0; step < 60; step++)
        {
            double middle = (low + high) / 2;
            if (Within(middle, degreesOfFreedom) < 0.95) low = middle;
            else high = middle;
        }

        return (low + high) / 2;
    }

    /// <summary>P(|T| ≤ t): the finite sums of Abramowitz and Stegun, 26.7.3 (odd degrees) and 26.7.4 (even).</summary>
    public static double Within(double t, int degreesOfFreedom)
    {
        double angle = Math.Atan(t / Math.Sqrt(degreesOfFreedom));
        double sine = Math.Sin(angle), cosine = Math.Cos(angle);
        bool odd = degreesOfFreedom % 2 == 1;
        double term = odd ? cosine : 1, sum = 0;
        for (int k = odd ? 1 : 0; k <= degreesOfFreedom - 2; k += 2)
        {
            sum += term;
            term *= cosine * cosine * (k + 1) / (k + 2);
        }

        return odd ? 2 / Math.PI * (angle + sine * sum) : sine * sum;
    }
}
