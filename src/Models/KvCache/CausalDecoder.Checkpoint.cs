using System.Text.Json;
using TorchSharp;

namespace AuxCore.Models;

public sealed partial class CausalDecoder
{
    private const int LargestJson = 64 << 20;

    /// <summary>
    /// Loads a Hugging Face checkpoint of the types llama, qwen2 or qwen3: <c>config.json</c>, with <c>model.safetensors</c> or the shards
    /// that <c>model.safetensors.index.json</c> names. Weights may be of float32, bfloat16 or float16.
    /// </summary>
    /// <remarks>
    /// Everything is checked by the files' headers before a weight is read: each tensor that the configuration asks for is there, in its
    /// shape, and no other is. Of rotary scalings, <c>default</c> and <c>llama3</c> are supported, and all others refused. Text becomes
    /// tokens elsewhere, such as in Microsoft.ML.Tokenizers.
    /// </remarks>
    /// <param name="folder">Where these files are.</param>
    /// <param name="weightType">What projections and embedding are kept in: see <see cref="DecoderOptions.WeightType"/>.</param>
    /// <exception cref="ArgumentException"><paramref name="weightType"/> is neither float32 nor bfloat16.</exception>
    /// <exception cref="StateFileException">
    /// A file is missing, damaged or not what it should be, or the configuration is of something that this decoder does not do; the message
    /// names file and item.
    /// </exception>
    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="IOException">A file cannot be read.</exception>
    public static CausalDecoder Load(string folder, torch.ScalarType weightType = torch.ScalarType.Float32)
    {
        Projections.RequireWeightType(weightType, nameof(weightType));
        ArgumentException.ThrowIfNullOrEmpty(folder);
        if (!Directory.Exists(folder))
            throw new DirectoryNotFoundException($"CausalDecoder.Load: there is no folder {folder}");
        var configPath = Path.Combine(folder, "config.json");
        DecoderOptions options;
        using (var config = ReadJson(configPath))
            options = new CheckpointConfig(configPath, config.RootElement).Options() with { WeightType = weightType };

        using var weights = new CheckpointWeights(folder);
        weights.Require(Expected(options), options.TiedHead);
        var model = new CausalDecoder(options);
        try
        {
            using var noGrad = torch.no_grad();
            foreach (var (name, parameter) in model.named_parameters())
            {
                using var tensor = weights.Read(CheckpointName(name));
                parameter.copy_(tensor);
            }

            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>A JSON object from a file, or an exception that names it.</summary>
    internal static JsonDocument ReadJson(string path)
    {
        if (!File.Exists(path))
            throw Bad(path, null, "there is no such file");
        using var file = File.OpenRead(path);
        if (file.Length > LargestJson)
            throw Bad(path, null, $"{file.Length} bytes; more than {LargestJson} are no configuration");
        JsonDocument document;
        try
        {
            document = JsonDocument.Parse(file);
        }
        catch (JsonException error)
        {
            throw Bad(path, null, $"it is not JSON: {error.Message}", error);
        }

        if (document.RootElement.ValueKind == JsonValueKind.Object)
            return document;
        document.Dispose();
        throw Bad(path, null, "it is no JSON object");
    }

    /// <summary>What is wrong with a file of a checkpoint.</summary>
    internal static StateFileException Bad(string path, string? key, string problem, Exception? inner = null) =>
        new("CausalDecoder.Load", path, key, problem, inner);

    /// <summary>The names and shapes of the tensors of a checkpoint.</summary>
    private static Dictionary<string, long[]> Expected(DecoderOptions options)
    {
        long width = options.Width;
        var expected = new Dictionary<string, long[]>(StringComparer.Ordinal)
        {
            ["model.embed_tokens.weight"] = [options.Vocabulary, width],
            ["model.norm.weight"] = [width],
        };
        if (!options.TiedHead)
            expected["lm_head.weight"] = [options.Vocabulary, width];
        for (var i = 0; i < options.Layers.Count; i++)
        {
            var (queryHeads, kvHeads, feedForward) = options.Layers[i];
            long queries = (long)queryHeads * options.HeadDim, kv = (long)kvHeads * options.HeadDim;
            var layer = $"model.layers.{i}.";
            expected[layer + "input_layernorm.weight"] = expected[layer + "post_attention_layernorm.weight"] = [width];
            Projection("self_attn.q_proj", queries, width, options.QkvBias);
            Projection("self_attn.k_proj", kv, width, options.QkvBias);
            Projection("self_attn.v_proj", kv, width, options.QkvBias);
            Projection("self_attn.o_proj", width, queries, options.OutputBias);
            Projection("mlp.gate_proj", feedForward, width, options.FeedForwardBias);
            Projection("mlp.up_proj", feedForward, width, options.FeedForwardBias);
            Projection("mlp.down_proj", width, feedForward, options.FeedForwardBias);
            if (options.QueryKeyNorm)
                expected[layer + "self_attn.q_norm.weight"] = expected[layer + "self_attn.k_norm.weight"] = [options.HeadDim];

            void Projection(string name, long to, long from, bool bias)
            {
                expected[$"{layer}{name}.weight"] = [to, from];
                if (bias)
                    expected[$"{layer}{name}.bias"] = [to];
            }
        }

        return expected;
    }

    /// <summary>The checkpoint's name of a parameter of this module.</summary>
    private static string CheckpointName(string name)
    {
        if (name.StartsWith("lm_head.", StringComparison.Ordinal))
            return name;
        if (!name.StartsWith("layers.", StringComparison.Ordinal))
            return $"model.{name}";
        var parts = name.Split('.'); // layers, which, module, parameter
        var module = parts[2] switch
        {
            "input_norm" => "input_layernorm",
            "post_attention_norm" => "post_attention_layernorm",
            "gate_proj" or "up_proj" or "down_proj" => $"mlp.{parts[2]}",
            _ => $"self_attn.{parts[2]}",
        };
        return $"model.layers.{parts[1]}.{module}.{parts[3]}";
    }
}
