using System.Globalization;

namespace AuxCore.Models;

/// <summary>The head that a budget is asked for.</summary>
/// <param name="Layer">Which layer.</param>
/// <param name="Layers">How many there are.</param>
/// <param name="Head">Which head of keys and values.</param>
/// <param name="Heads">How many the layer has.</param>
/// <param name="Held">How many tokens it holds.</param>
/// <param name="Seen">How many tokens the sequence has had.</param>
public readonly record struct KvHeadPlace(int Layer, int Layers, int Head, int Heads, int Held, int Seen);

/// <summary>How many tokens a head keeps.</summary>
public abstract class KvBudget
{
    /// <summary>How many tokens a head keeps; more than it holds means all.</summary>
    public abstract int Keep(KvHeadPlace place);

    /// <summary>A share of the tokens that a sequence has had: ⌊ratio · tokens + ½⌋, at least 1.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is NaN or outside (0, 1].</exception>
    public static KvBudget Ratio(double ratio)
    {
        if (!(ratio is > 0 and <= 1))
            throw new ArgumentOutOfRangeException(nameof(ratio), ratio, "It lies within (0, 1].");
        return new Rule(
            string.Create(CultureInfo.InvariantCulture, $"Ratio({ratio})"),
            place => Math.Max(1, (int)Math.Floor(ratio * place.Seen + 0.5)));
    }

    /// <summary>The same number of tokens for each head.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is below 1.</exception>
    public static KvBudget Tokens(int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(tokens, 1);
        return new Rule($"Tokens({tokens})", _ => tokens);
    }

    /// <summary>
    /// PyramidKV (Cai et al. 2024, arXiv 2406.02069): so many tokens on average, more in the first layers, less in the last, linearly.
    /// </summary>
    /// <param name="tokens">The mean over layers, C.</param>
    /// <param name="window">
    /// w: tokens of the scorer's window, which each layer keeps beside. The last layer keeps w + (C − w) / β, the first
    /// w + 2 (C − w) − (C − w) / β; where that is more than there are, all, and the last accordingly more.
    /// </param>
    /// <param name="steepness">β; 20 in the paper.</param>
    /// <exception cref="ArgumentOutOfRangeException">
    /// <paramref name="tokens"/> is not above <paramref name="window"/>, or that is negative, or the steepness below 1.
    /// </exception>
    public static KvBudget Pyramid(int tokens, int window = 0, int steepness = 20)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(window);
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(tokens, window);
        ArgumentOutOfRangeException.ThrowIfLessThan(steepness, 1);
        return new Rule($"Pyramid({tokens}, {window}, {steepness})", place =>
        {
            if (place.Seen <= tokens)
                return tokens;
            var (least, most) = ((tokens - window) / steepness, (tokens - window) * 2 - (tokens - window) / steepness);
            if (most > place.Seen - window)
                (least, most) = ((tokens - window) * 2 - (place.Seen - window), place.Seen - window);
            var step = place.Layers == 1 ? 0 : (double)(most - least) / (place.Layers - 1);
            return place.Layers == 1 ? tokens : window + Math.Max(1, (int)Math.Floor(most - step * place.Layer));
        });
    }

    /// <summary>A number of tokens for each head, the same in all layers.</summary>
    /// <param name="tokens">[Hkv], each at least 1.</param>
    /// <exception cref="ArgumentException">There are none.</exception>
    /// <exception cref="ArgumentOutOfRangeException">One is below 1.</exception>
    public static KvBudget PerHead(params IReadOnlyList<int> tokens)
    {
        ArgumentNullException.ThrowIfNull(tokens);
        int[] copy = [.. tokens];
        if (copy.Length == 0)
            throw new ArgumentException("tokens: there are none", nameof(tokens));
        foreach (var count in copy)
            ArgumentOutOfRangeException.ThrowIfLessThan(count, 1, nameof(tokens));
        return new Rule($"PerHead({string.Join(", ", copy)})", place => place.Heads == copy.Length
            ? copy[place.Head]
            : throw new ArgumentException($"budget: {copy.Length} numbers for the {place.Heads} heads of layer {place.Layer}"));
    }

    private sealed class Rule(string name, Func<KvHeadPlace, int> keep) : KvBudget
    {
        public override int Keep(KvHeadPlace place) => keep(place);

        public override string ToString() => name;
    }
}
