using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests;

/// <summary>
/// A Llama-style decoder as loops in double over one sequence, written from the papers and the names of Hugging Face's checkpoints. It
/// shares no code with the library.
/// </summary>
internal sealed class PlainDecoder(IReadOnlyDictionary<string, float[]> weights, DecoderOptions options)
{
    /// <summary>Radians a position for each pair; those of the base without.</summary>
    public double[]? Frequencies { get; init; }

    /// <summary>The weights of a model, by the names of checkpoints.</summary>
    public static Dictionary<string, float[]> WeightsOf(CausalDecoder model) => model.named_parameters()
        .ToDictionary(entry => CheckpointName(entry.name), entry => entry.parameter.detach().to(torch.float32).data<float>().ToArray());

    /// <summary>[L][V].</summary>
    public double[][] Logits(long[] ids, int[]? positions = null)
    {
        var hidden = ids.Select(id => Row(weights["model.embed_tokens.weight"], id, options.Width)).ToArray();
        positions ??= [.. Enumerable.Range(0, ids.Length)];
        for (var i = 0; i < options.Layers.Count; i++)
        {
            var name = $"model.layers.{i}.";
            var seen = Attention(hidden.Select(h => Norm(h, name + "input_layernorm.weight")).ToArray(), positions, i, name + "self_attn.");
            hidden = [.. hidden.Zip(seen, Sum)];
            hidden = [.. hidden.Select(h => Sum(h, FeedForward(Norm(h, name + "post_attention_layernorm.weight"), name + "mlp.")))];
        }

        return
        [
            .. hidden.Select(h => Linear(
                Norm(h, "model.norm.weight"), options.TiedHead ? "model.embed_tokens" : "lm_head", options.Vocabulary)),
        ];
    }

    private double[][] Attention(double[][] rows, int[] positions, int layer, string name)
    {
        var (queryHeads, kvHeads, _) = options.Layers[layer];
        var depth = options.HeadDim;
        double[][][] queries = Heads("q_proj", queryHeads, "q_norm"), keys = Heads("k_proj", kvHeads, "k_norm"),
            values = Heads("v_proj", kvHeads, null);
        var output = new double[rows.Length][];
        for (var t = 0; t < rows.Length; t++)
        {
            var joined = new double[queryHeads * depth];
            for (var head = 0; head < queryHeads; head++)
            {
                var kv = head / (queryHeads / kvHeads);
                var query = Rotate(queries[t][head], positions[t]);
                var scores = Enumerable.Range(0, t + 1)
                    .Select(s => Dot(query, Rotate(keys[s][kv], positions[s])) / Math.Sqrt(depth)).ToArray();
                var weightsOf = scores.Select(score => Math.Exp(score - scores.Max())).ToArray();
                for (var s = 0; s <= t; s++)
                {
                    for (var c = 0; c < depth; c++)
                        joined[head * depth + c] += weightsOf[s] / weightsOf.Sum() * values[s][kv][c];
                }
            }

            output[t] = Linear(joined, name + "o_proj", options.Width);
        }

        return output;

        double[][][] Heads(string projection, int heads, string? norm) =>
        [
            .. rows.Select(row => Linear(row, name + projection, heads * depth).Chunk(depth)
                .Select(head => norm is not null && options.QueryKeyNorm ? Norm(head, $"{name}{norm}.weight") : head).ToArray()),
        ];
    }

    private double[] Rotate(double[] head, int position)
    {
        var half = head.Length / 2;
        var result = new double[head.Length];
        for (var pair = 0; pair < half; pair++)
        {
            var angle = position * (Frequencies?[pair] ?? Math.Pow(options.Rotary.Base, -2.0 * pair / head.Length));
            result[pair] = head[pair] * Math.Cos(angle) - head[pair + half] * Math.Sin(angle);
            result[pair + half] = head[pair + half] * Math.Cos(angle) + head[pair] * Math.Sin(angle);
        }

        return result;
    }

    private double[] FeedForward(double[] row, string name)
    {
        var inner = weights[name + "gate_proj.weight"].Length / options.Width;
        var gate = Linear(row, name + "gate_proj", inner);
        var up = Linear(row, name + "up_proj", inner);
        return Linear([.. gate.Zip(up, (g, u) => g / (1 + Math.Exp(-g)) * u)], name + "down_proj", options.Width);
    }

    private double[] Norm(double[] row, string name) =>
        [.. row.Zip(weights[name], (x, w) => x / Math.Sqrt(row.Sum(y => y * y) / row.Length + options.NormEpsilon) * w)];

    private double[] Linear(double[] row, string name, int count)
    {
        var bias = weights.GetValueOrDefault(name + ".bias");
        row = [.. row.Select(Rounded)];
        return
        [
            .. Enumerable.Range(0, count)
                .Select(o => Rounded(Dot(row, Row(weights[name + ".weight"], o, row.Length))) + (bias?[o] ?? 0)),
        ];
    }

    /// <summary>Where weights are of bfloat16, products take and give it.</summary>
    private double Rounded(double value) =>
        options.WeightType == torch.ScalarType.BFloat16 ? (float)(AuxCore.Interop.BFloat16)(float)value : value;

    private static double[] Row(float[] matrix, long row, int columns) =>
        [.. matrix.Skip((int)row * columns).Take(columns).Select(x => (double)x)];

    private static double Dot(double[] a, double[] b) => a.Zip(b, (x, y) => x * y).Sum();

    private static double[] Sum(double[] a, double[] b) => [.. a.Zip(b, (x, y) => x + y)];

    private static string CheckpointName(string name)
    {
        if (name.StartsWith("lm_head", StringComparison.Ordinal))
            return name;
        var parts = name.Split('.');
        if (parts[0] != "layers")
            return "model." + name;
        var within = parts[2] switch
        {
            "input_norm" => "input_layernorm",
            "post_attention_norm" => "post_attention_layernorm",
            "gate_proj" or "up_proj" or "down_proj" => "mlp." + parts[2],
            _ => "self_attn." + parts[2],
        };
        return $"model.layers.{parts[1]}.{within}.{parts[3]}";
    }
}
