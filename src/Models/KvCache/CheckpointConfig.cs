using System.Text.Json;
using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// What the <c>config.json</c> of a Hugging Face checkpoint says of a decoder. What it says and this decoder does not do is refused: a
/// model that computes something else is worse than none.
/// </summary>
internal sealed class CheckpointConfig(string path, JsonElement root)
{
    private const string Operation = "CausalDecoder.Load";

    /// <summary>The options of a decoder.</summary>
    public DecoderOptions Options()
    {
        var type = Text(root, "model_type");
        if (type is not ("llama" or "qwen2" or "qwen3"))
            throw Bad("model_type", $"'{type}' is none of llama, qwen2, qwen3");
        if (Text(root, "hidden_act", "silu") is var activation and not "silu")
            throw Bad("hidden_act", $"'{activation}' is not silu");
        foreach (var unknown in (string[])["quantization_config", "layer_types"])
        {
            if (Find(root, unknown) is { } found && !(unknown == "layer_types" && IsFullAttention(found)))
                throw Bad(unknown, "it is there, and this decoder does not do it");
        }

        if (Flag("use_sliding_window"))
            throw Bad("use_sliding_window", "attention over a window is not supported");
        if (Number(root, "partial_rotary_factor", 1) is var partial and not 1)
            throw Bad("partial_rotary_factor", $"{partial}; only whole heads are rotated here");
        int width = Size("hidden_size"), queryHeads = Size("num_attention_heads"),
            kvHeads = Size("num_key_value_heads", queryHeads), layers = Size("num_hidden_layers");
        if (Find(root, "head_dim") is null && width % queryHeads != 0)
            throw Bad("num_attention_heads", $"{queryHeads} do not divide the hidden size, {width}, and there is no head_dim");
        if (queryHeads % kvHeads != 0)
            throw Bad("num_key_value_heads", $"{kvHeads} do not divide {queryHeads} query heads");
        var headDim = Size("head_dim", width / queryHeads);
        if (headDim % 2 != 0)
            throw Bad("head_dim", $"{headDim} is odd, and halves of heads are rotated");
        var bias = Flag("attention_bias");
        return new()
        {
            Vocabulary = Size("vocab_size"),
            Width = width,
            HeadDim = headDim,
            Layers = [.. Enumerable.Repeat(new DecoderLayerSizes(queryHeads, kvHeads, Size("intermediate_size")), layers)],
            Rotary = Rotary(headDim),
            NormEpsilon = Positive(root, "rms_norm_eps", 1e-6),
            QkvBias = type == "qwen2" || bias,
            OutputBias = type != "qwen2" && bias,
            FeedForwardBias = Flag("mlp_bias"),
            QueryKeyNorm = type == "qwen3",
            TiedHead = Flag("tie_word_embeddings"),
        };
    }

    /// <summary>The rotary embedding: <c>rope_theta</c> and <c>rope_scaling</c>, or <c>rope_parameters</c>, which holds both.</summary>
    private RotaryOptions Rotary(int headDim)
    {
        var both = Find(root, "rope_parameters");
        var (name, scaling) = both is null ? ("rope_scaling", Find(root, "rope_scaling")) : ("rope_parameters", both);
        var holder = both is { } parameters && Find(parameters, "rope_theta") is not null ? parameters : root;
        var theta = Positive(holder, "rope_theta", 10_000);
        if (theta <= 1)
            throw Bad("rope_theta", $"{theta} is not above 1");
        if (scaling is not { } given)
            return new() { Base = theta };
        if (given.ValueKind != JsonValueKind.Object)
            throw Bad(name, "it is no object");
        var type = Text(given, "rope_type", Text(given, "type", "default"));
        return type switch
        {
            "default" => new() { Base = theta },
            "llama3" => new() { Base = theta, Frequencies = Llama3(given, headDim, theta) },
            _ => throw Bad($"{name}.rope_type", $"'{type}' is none of default, llama3"),
        };
    }

    /// <summary>
    /// Llama 3.1's scaling: frequencies of long waves are divided by a factor, those of short ones stay, and between them both are mixed
    /// (Grattafiori et al. 2024, arXiv 2407.21783; transformers' <c>modeling_rope_utils.py</c>).
    /// </summary>
    private double[] Llama3(JsonElement scaling, int headDim, double theta)
    {
        double factor = Positive(scaling, "factor"), low = Positive(scaling, "low_freq_factor"),
            high = Positive(scaling, "high_freq_factor"), context = Positive(scaling, "original_max_position_embeddings");
        if (high <= low)
            throw Bad("high_freq_factor", $"{high} is not above low_freq_factor, {low}");
        var frequencies = new double[headDim / 2];
        for (var pair = 0; pair < frequencies.Length; pair++)
        {
            var frequency = Math.Pow(theta, -2.0 * pair / headDim);
            var turns = context * frequency / (2 * Math.PI); // in the original context
            var share = Math.Clamp((turns - low) / (high - low), 0, 1);
            frequencies[pair] = share * frequency + (1 - share) * frequency / factor;
        }

        return frequencies;
    }

    private static bool IsFullAttention(JsonElement types) =>
        types.ValueKind == JsonValueKind.Array
        && types.EnumerateArray().All(type => type.ValueKind == JsonValueKind.String && type.ValueEquals("full_attention"));

    private static JsonElement? Find(JsonElement parent, string key) =>
        parent.TryGetProperty(key, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;

    private int Size(string key, int? otherwise = null)
    {
        if (Find(root, key) is not { } value)
            return otherwise ?? throw Bad(key, "is missing");
        return value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var size) && size >= 1
            ? size
            : throw Bad(key, $"{Shown(value)} is no size");
    }

    private double Number(JsonElement parent, string key, double? otherwise = null)
    {
        if (Find(parent, key) is not { } value)
            return otherwise ?? throw Bad(key, "is missing");
        return value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out var number) && double.IsFinite(number)
            ? number
            : throw Bad(key, $"{Shown(value)} is no number");
    }

    private double Positive(JsonElement parent, string key, double? otherwise = null)
    {
        var number = Number(parent, key, otherwise);
        return number > 0 ? number : throw Bad(key, $"{number} is not above 0");
    }

    private string Text(JsonElement parent, string key, string? otherwise = null)
    {
        if (Find(parent, key) is not { } value)
            return otherwise ?? throw Bad(key, "is missing");
        return value.ValueKind == JsonValueKind.String ? value.GetString()! : throw Bad(key, $"{Shown(value)} is no text");
    }

    private bool Flag(string key) => Find(root, key) switch
    {
        null or { ValueKind: JsonValueKind.False } => false,
        { ValueKind: JsonValueKind.True } => true,
        { } value => throw Bad(key, $"{Shown(value)} is neither true nor false"),
    };

    private static string Shown(JsonElement value) => StateFileException.Shown(value.GetRawText());

    private StateFileException Bad(string key, string problem) => new(Operation, path, key, problem);
}
