using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.TokenPruning;

/// <summary>A random layer, and what descriptions of policies are made of, plainly and in double.</summary>
internal static class PruningScene
{
    public const int Images = 3, Length = 17, Visual = Length - 1, Heads = 2, Depth = 4, Width = 6;

    public static PruningLayer Layer(int seed, Tensor? sizes = null, int[]? lengths = null, double scale = 1)
    {
        using var random = new torch.Generator((ulong)seed);
        Tensor Normal(params long[] shape) => torch.randn(shape, generator: random);
        return new()
        {
            Hidden = Normal(Images, Length, Width),
            Queries = Normal(Images, Heads, Length, Depth).mul_(scale),
            Keys = Normal(Images, Heads, Length, Depth),
            Protected = 1,
            Sizes = sizes,
            Lengths = lengths,
        };
    }

    public static PruningLayer With(
        PruningLayer layer, Tensor? hidden = null, Tensor? queries = null, Tensor? keys = null, int[]? lengths = null,
        Tensor? sizes = null, int first = 1) => new()
        {
            Hidden = hidden ?? layer.Hidden,
            Queries = queries ?? layer.Queries,
            Keys = keys ?? layer.Keys,
            Lengths = lengths,
            Sizes = sizes,
            Protected = first,
        };

    public static double[][] Rows(Tensor matrix)
    {
        var (rows, columns) = ((int)matrix.shape[0], (int)matrix.shape[1]);
        float[] flat = [.. matrix.contiguous().data<float>()];
        return [.. Enumerable.Range(0, rows).Select(i => flat.Skip(i * columns).Take(columns).Select(x => (double)x).ToArray())];
    }

    public static double[][] KeyMeans(PruningLayer layer, int b) => Rows(layer.Keys[b].mean([0]));

    // What the class token gives to each visual token, a mean over heads.
    public static double[] Attention(PruningLayer layer, int b)
    {
        var sums = new double[Visual];
        for (var head = 0; head < Heads; head++)
        {
            var (query, keys) = (Rows(layer.Queries[b, head])[0], Rows(layer.Keys[b, head]));
            double[] weights = [.. keys.Select(key => Math.Exp(key.Zip(query, (a, c) => a * c).Sum() / Math.Sqrt(Depth)))];
            for (var i = 0; i < Visual; i++)
                sums[i] += weights[i + 1] / weights.Sum() / Heads;
        }

        return sums;
    }

    public static int[] Highest(double[] scores, int count) =>
        [.. Enumerable.Range(0, scores.Length).OrderByDescending(i => scores[i]).Take(count).Order()];

    public static double Cosine(double[] a, double[] b) =>
        a.Zip(b, (x, y) => x * y).Sum() / Math.Sqrt(a.Sum(x => x * x) * b.Sum(x => x * x));

    public static void Merge(List<(double[] Key, double[] Row, double Size)> groups, int merged)
    {
        int[] odd = [.. Enumerable.Range(0, groups.Count).Where(i => i % 2 == 1)];
        var pairs = Enumerable.Range(0, groups.Count).Where(i => i % 2 == 0)
            .Select(i => (From: i, To: odd.MaxBy(j => Cosine(groups[i].Key, groups[j].Key))))
            .OrderByDescending(pair => Cosine(groups[pair.From].Key, groups[pair.To].Key)).Take(merged).ToArray();
        foreach (var (from, to) in pairs)
        {
            var (a, b) = (groups[from], groups[to]);
            double[] Mean(double[] x, double[] y) => [.. x.Zip(y, (p, q) => (p * a.Size + q * b.Size) / (a.Size + b.Size))];
            groups[to] = (Mean(a.Key, b.Key), Mean(a.Row, b.Row), a.Size + b.Size);
        }

        foreach (var gone in pairs.Select(pair => pair.From).OrderDescending())
            groups.RemoveAt(gone);
    }
}
