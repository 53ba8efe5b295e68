namespace AuxCore.Tests;

/// <summary>Random tokens of one layer, with some of them twice, and what each rule's paper says of them, as loops in double.</summary>
internal sealed class NaiveScores
{
    public NaiveScores(int seed)
    {
        var random = new Random(seed);
        (Heads, Group, Depth) = (1 + random.Next(3), 1 + random.Next(3), random.Next(2) == 0 ? 4 : 8);
        Length = 1 + random.Next(60);
        Rows = Math.Min(Length, 1 + random.Next(12));
        Keys = Random(Heads * Length);
        Values = Random(Heads * Length);
        Queries = Random(Heads * Group * Rows);
        QueryMean = Random(Heads * Group);
        Sums = [.. Enumerable.Range(0, Heads * Length).Select(_ => random.Next(20) / 4f)];
        var factor = Random(Heads * Group * Depth); // Σ = F Fᵀ / d
        QueryCovariance = new float[Heads * Group * Depth * Depth];
        for (var i = 0; i < QueryCovariance.Length; i++)
        {
            var (q, r, c) = (i / (Depth * Depth), i / Depth % Depth, i % Depth);
            QueryCovariance[i] = (float)(Dot(Row(factor, q * Depth + r), Row(factor, q * Depth + c)) / Depth);
        }

        // Ties: some tokens are copies of others.
        for (var copies = random.Next(4); copies > 0 && Length > 1; copies--)
        {
            var (head, from, to) = (random.Next(Heads), random.Next(Length), random.Next(Length));
            foreach (var rows in (float[][])[Keys, Values])
                rows.AsSpan((head * Length + from) * Depth, Depth).CopyTo(rows.AsSpan((head * Length + to) * Depth, Depth));
            Sums[head * Length + to] = Sums[head * Length + from];
        }

        Positions = new int[Length];
        for (var i = 0; i < Length; i++)
            Positions[i] = (i == 0 ? 0 : Positions[i - 1]) + 1 + random.Next(2);
        Next = Positions[^1] + 1;

        float[] Random(int rows) => [.. Enumerable.Range(0, rows * Depth).Select(_ => (float)(random.NextDouble() * 4 - 2))];
    }

    public int Heads { get; }

    public int Group { get; }

    public int Depth { get; }

    public int Length { get; }

    public int Rows { get; }

    public int Next { get; }

    public float[] Keys { get; }

    public float[] Values { get; }

    public float[] Queries { get; }

    public float[] QueryMean { get; }

    public float[] QueryCovariance { get; }

    public float[] Sums { get; }

    public int[] Positions { get; }

    public double[] Key(int head, int i) => Row(Keys, head * Length + i);

    public double[] Value(int head, int i) => Row(Values, head * Length + i);

    public double KNorm(int head, int i) => -Norm(Key(head, i));

    public double KeyDiff(int head, int i)
    {
        var mean = Enumerable.Range(0, Depth)
            .Select(c => Enumerable.Range(0, Length).Average(j => Key(head, j)[c] / Norm(Key(head, j)))).ToArray();
        return -Dot(mean, Key(head, i)) / (Norm(mean) * Norm(Key(head, i)));
    }

    public static double StreamingLlm(int i, int sinks) => i < sinks ? double.PositiveInfinity : i;

    public double CurDkv(int head, int i, int window, int sinks)
    {
        if (i < sinks)
            return double.PositiveInfinity;
        int[] near = [.. Enumerable.Range(0, Length).Where(j => j / window == i / window)];
        return Square(Key(head, i)) / near.Sum(j => Square(Key(head, j))) * Square(Value(head, i)) / near.Sum(j => Square(Value(head, j)));

        static double Square(double[] row) => Dot(row, row);
    }

    /// <summary>[Hq, rows, d]: only some of the latest queries.</summary>
    public float[] LastQueries(int rows) =>
        [.. Queries.Chunk(Rows * Depth).SelectMany(head => head.Skip((Rows - rows) * Depth))];

    /// <summary>The softmax of one of the latest queries, which ends at its own token.</summary>
    public double[] Attention(int queryHead, int row)
    {
        var seen = Length - Rows + row + 1;
        var query = Row(Queries, queryHead * Rows + row);
        return [.. Softmax([.. Enumerable.Range(0, seen).Select(j => Dot(query, Key(queryHead / Group, j)) / Math.Sqrt(Depth))]),
            .. new double[Length - seen]];
    }

    public double Tova(int i) => i == Length - 1
        ? double.PositiveInfinity
        : Enumerable.Range(0, Heads * Group).Average(q => Attention(q, Rows - 1)[i]);

    public double[] SnapKv(int head, int window, int kernel)
    {
        var before = Math.Max(0, Length - window);
        var maps = Enumerable.Range(head * Group, Group)
            .SelectMany(q => Enumerable.Range(0, Rows).Skip(Rows - window).Select(row => Attention(q, row))).ToArray();
        var mean = Enumerable.Range(0, Length).Select(i => maps.Average(map => map[i])).ToArray();
        return
        [
            .. Enumerable.Range(0, Length).Select(i => i >= before
                ? double.PositiveInfinity
                : Enumerable.Range(i - kernel / 2, kernel).Where(j => j >= 0 && j < before).Sum(j => mean[j]) / kernel),
        ];
    }

    public double H2O(int head, int i, int recent) => i >= Length - recent
        ? double.PositiveInfinity
        : (double)Sums[head * Length + i] / (Next - Positions[i]);

    public double[] ExpectedAttention(int head, int future, int sinks, double rotaryBase)
    {
        var scores = new double[Length];
        for (var q = head * Group; q < (head + 1) * Group; q++)
        {
            var mu = Turn(Row(QueryMean, q));
            var sigma = Enumerable.Range(0, Depth).Select(r => Row(QueryCovariance, q * Depth + r)).ToArray();
            var half = sigma.Select(Turn).ToArray();                                                              // Σ R̄ᵀ
            var full = Enumerable.Range(0, Depth).Select(c => Turn([.. half.Select(row => row[c])])).ToArray();   // its columns, turned
            var logits = Enumerable.Range(sinks, Math.Max(0, Length - sinks)).Select(i =>
            {
                var key = Key(head, i);
                var quadratic = Enumerable.Range(0, Depth).Sum(c => key[c] * Dot(full[c], key));
                return Dot(key, mu) / Math.Sqrt(Depth) + quadratic / (2 * Depth);
            }).ToArray();
            foreach (var (p, i) in Softmax(logits).Select((p, i) => (p, i)))
                scores[sinks + i] += p / Group;
        }

        return [.. scores.Select((s, i) => i < sinks ? double.PositiveInfinity : s * Norm(Value(head, i)))];

        double[] Turn(double[] row)
        {
            var result = new double[Depth];
            for (var t = Next; t < Next + future; t++)
            {
                for (var pair = 0; pair < Depth / 2; pair++)
                {
                    var angle = t * Math.Pow(rotaryBase, -2.0 * pair / Depth);
                    var (a, b) = (row[pair], row[pair + Depth / 2]);
                    result[pair] += (a * Math.Cos(angle) - b * Math.Sin(angle)) / future;
                    result[pair + Depth / 2] += (b * Math.Cos(angle) + a * Math.Sin(angle)) / future;
                }
            }

            return result;
        }
    }

    public double[] LagKv(int head, int lag, int sinks)
    {
        var lags = Math.Max(0, (Length - sinks) / lag);
        if (lags < 2)
            return [.. Enumerable.Range(0, Length).Select(i => i < sinks ? double.PositiveInfinity : i)];
        var scores = Enumerable.Repeat(double.PositiveInfinity, Length).ToArray();
        for (var part = 0; part < lags - 1; part++)
        {
            var from = sinks + part * lag;
            double[] keys = Part(Key), values = Part(Value);
            var sums = keys.Zip(values, (k, v) => (float)(k + v)).ToArray();
            for (var i = 0; i < lag; i++) // how many are worse; of equals, the later
                scores[from + i] = (double)Enumerable.Range(0, lag).Count(j => sums[j] < sums[i] || (sums[j] == sums[i] && j > i)) / lag;

            double[] Part(Func<int, int, double[]> rowOf)
            {
                var next = Enumerable.Range(from + lag, lag).Select(i => rowOf(head, i)).ToArray();
                return Softmax([.. Enumerable.Range(from, lag).Select(i =>
                {
                    var (low, high) = (Column(Enumerable.Min), Column(Enumerable.Max));
                    var scaled = rowOf(head, i).Select((x, c) => high[c] == low[c] ? 0 : (x - low[c]) / (high[c] - low[c])).ToArray();
                    var mean = scaled.Average();
                    return Math.Sqrt(scaled.Sum(x => Math.Pow(x - mean, 2)) / (Depth - 1));
                })]);

                double[] Column(Func<IEnumerable<double>, double> of) =>
                    [.. Enumerable.Range(0, Depth).Select(c => of(next.Select(row => row[c])))];
            }
        }

        return scores;
    }

    /// <summary>The best slots by score, of equal ones the lower, ascending.</summary>
    public static int[] Best(IReadOnlyList<double> scores, int count) =>
        [.. Enumerable.Range(0, scores.Count).OrderByDescending(i => scores[i]).ThenBy(i => i).Take(count).Order()];

    private double[] Row(float[] rows, int row) => [.. rows.Skip(row * Depth).Take(Depth).Select(x => (double)x)];

    private static double Dot(double[] a, double[] b) => a.Zip(b, (x, y) => x * y).Sum();

    private static double Norm(double[] row) => Math.Sqrt(Dot(row, row));

    private static double[] Softmax(double[] logits)
    {
        var weights = logits.Select(x => Math.Exp(x - logits.Max())).ToArray();
        return [.. weights.Select(w => w / weights.Sum())];
    }
}
