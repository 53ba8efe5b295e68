using System.Text.Json;
using System.Text.Json.Nodes;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests;

/// <summary>Checkpoints that the tests write, whose logits are checked against plain loops in double over the same numbers.</summary>
[RequiresLibtorch]
public sealed class CheckpointTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("auxcore-checkpoint-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("llama", false, false)]
    [InlineData("llama", true, true)]
    [InlineData("qwen2", false, true)]
    [InlineData("qwen3", true, false)]
    public void Logits_are_those_of_plain_loops(string type, bool tied, bool sharded)
    {
        using var scope = torch.NewDisposeScope();
        var (config, weights) = Write(type, tied, sharded);

        using var model = CausalDecoder.Load(_folder);

        var plain = new PlainDecoder(weights, Options(config));
        Near(plain, model);
        Assert.Equal((type == "qwen2", type == "qwen3", tied),
            (model.Options.QkvBias, model.Options.QueryKeyNorm, model.Options.TiedHead));
    }

    [Theory]
    [InlineData("rope_scaling")]
    [InlineData("rope_parameters")]
    public void Llama3_scaling_is_that_of_its_formula(string name)
    {
        using var scope = torch.NewDisposeScope();
        var (config, weights) = Write("llama");
        var scaling = new JsonObject
        {
            ["rope_type"] = "llama3",
            ["factor"] = 8.0,
            ["low_freq_factor"] = 1.0,
            ["high_freq_factor"] = 4.0,
            ["original_max_position_embeddings"] = 16,
        };
        if (name == "rope_parameters")
        {
            scaling["rope_theta"] = 500.0;
            config.Remove("rope_theta");
        }

        config[name] = scaling;
        Save(config);

        // As transformers has it, by wave lengths.
        var frequencies = new double[4];
        for (var pair = 0; pair < 4; pair++)
        {
            var frequency = 1 / Math.Pow(500, 2.0 * pair / 8);
            var wave = 2 * Math.PI / frequency;
            var smooth = (16 / wave - 1) / (4 - 1);
            frequencies[pair] = wave < 16.0 / 4 ? frequency
                : wave > 16.0 / 1 ? frequency / 8
                : (1 - smooth) * frequency / 8 + smooth * frequency;
        }

        using var model = CausalDecoder.Load(_folder);
        Assert.Equal(frequencies.Select(f => Math.Round(f, 12)), model.Options.Rotary.Frequencies.Select(f => Math.Round(f, 12)));
        Near(new PlainDecoder(weights, Options(config)) { Frequencies = frequencies }, model);
    }

    [Fact]
    public void Weights_of_sixteen_bits_are_widened()
    {
        using var scope = torch.NewDisposeScope();
        var (_, weights) = Write("llama", dtype: torch.bfloat16);

        using var model = CausalDecoder.Load(_folder);

        var rounded = torch.tensor(weights["model.norm.weight"]).to(torch.bfloat16).to(torch.float32).data<float>().ToArray();
        Assert.Equal(rounded, model.named_parameters().Single(entry => entry.name == "norm.weight").parameter.data<float>().ToArray());
    }

    [Fact]
    public void Weights_of_sixteen_bits_may_stay_as_they_are()
    {
        using var scope = torch.NewDisposeScope();
        var (_, weights) = Write("qwen2", dtype: torch.bfloat16);

        using var model = CausalDecoder.Load(_folder, torch.ScalarType.BFloat16);

        Assert.Equal(torch.ScalarType.BFloat16, model.Options.WeightType);
        foreach (var (name, parameter) in model.named_parameters().Where(entry => entry.name is "layers.1.v_proj.bias" or "norm.weight"))
        {
            var stored = name == "norm.weight" ? "model.norm.weight" : "model.layers.1.self_attn.v_proj.bias";
            var rounded = torch.tensor(weights[stored]).to(torch.bfloat16).to(torch.float32).data<float>().ToArray();
            Assert.Equal(name == "norm.weight" ? torch.ScalarType.Float32 : torch.ScalarType.BFloat16, parameter.dtype);
            Assert.Equal(rounded, parameter.to(torch.float32).data<float>().ToArray());
        }

        Assert.Contains("weightType: Int8", Assert.Throws<ArgumentException>(
            () => CausalDecoder.Load(_folder, torch.ScalarType.Int8)).Message, StringComparison.Ordinal);
    }

    public static TheoryData<string, string, string> Configurations => new()
    {
        { "model_type", "\"gpt2\"", "none of llama" },
        { "model_type", "3", "is no text" },
        { "hidden_act", "\"gelu\"", "not silu" },
        { "hidden_size", "0", "is no size" },
        { "hidden_size", "1e3", "is no size" },
        { "num_hidden_layers", "null", "is missing" },
        { "num_key_value_heads", "3", "do not divide" },
        { "head_dim", "7", "is odd" },
        { "rms_norm_eps", "-1", "not above 0" },
        { "rope_theta", "\"much\"", "is no number" },
        { "rope_theta", "1", "not above 1" },
        { "rope_scaling", "{\"type\":\"yarn\",\"factor\":4}", "'yarn' is none of default, llama3" },
        { "rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":4}", "'low_freq_factor': is missing" },
        { "rope_scaling", "3", "no object" },
        { "use_sliding_window", "true", "window" },
        { "tie_word_embeddings", "\"no\"", "neither true nor false" },
        { "quantization_config", "{}", "does not do" },
        { "layer_types", "[\"full_attention\",\"sliding_attention\"]", "does not do" },
        { "partial_rotary_factor", "0.5", "whole heads" },
        { "vocab_size", "9", "'model.embed_tokens.weight': has shape [11, 16], but [9, 16]" },
        { "num_hidden_layers", "1", "is no tensor of a model" },
        { "num_hidden_layers", "3", "'model.layers.2" },
        { "attention_bias", "true", "self_attn.q_proj.bias': is missing" },
        { "intermediate_size", "2147483647", "mlp" },
    };

    [Theory]
    [MemberData(nameof(Configurations))]
    public void A_wrong_configuration_is_refused_by_item(string key, string value, string words)
    {
        using var scope = torch.NewDisposeScope();
        var (config, _) = Write("llama");
        config[key] = JsonNode.Parse(value);
        Save(config);

        var error = Assert.Throws<StateFileException>(() => CausalDecoder.Load(_folder));

        Assert.Contains(words, error.Message, StringComparison.Ordinal);
        Assert.StartsWith(_folder, error.Path, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("../outside.safetensors", "outside the folder")]
    [InlineData("/etc/passwd", "outside the folder")]
    [InlineData("sub/model.safetensors", "outside the folder")]
    [InlineData("..", "outside the folder")]
    [InlineData("", "outside the folder")]
    [InlineData("C:\\model.safetensors", "outside the folder")]
    [InlineData("missing.safetensors", "is not there")]
    [InlineData("config.json", "header")]
    [InlineData("model-2.safetensors", "though model.safetensors.index.json says")]
    public void An_index_that_points_elsewhere_is_refused(string file, string words)
    {
        using var scope = torch.NewDisposeScope();
        Write("llama", sharded: true);
        var path = Path.Combine(_folder, "model.safetensors.index.json");
        var index = JsonNode.Parse(File.ReadAllText(path))!;
        index["weight_map"]!["model.embed_tokens.weight"] = file;
        File.WriteAllText(path, index.ToJsonString());

        var error = Assert.Throws<StateFileException>(() => CausalDecoder.Load(_folder));

        Assert.Contains(words, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Missing_truncated_and_damaged_files_are_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        Assert.Throws<DirectoryNotFoundException>(() => CausalDecoder.Load(Path.Combine(_folder, "none")));
        Assert.Throws<ArgumentException>(() => CausalDecoder.Load(""));
        Refused("config.json", "no such file");
        var (config, _) = Write("llama");
        string weights = Path.Combine(_folder, "model.safetensors"), configPath = Path.Combine(_folder, "config.json");
        var bytes = File.ReadAllBytes(weights);

        File.WriteAllBytes(weights, bytes[..^9]);
        Refused("model.safetensors", "");
        File.WriteAllBytes(weights, bytes[..5]);
        Refused("model.safetensors", "too short");
        bytes[^3] ^= 1;
        File.WriteAllBytes(weights, bytes);
        Refused("model.safetensors", "damaged");
        File.Delete(weights);
        Refused("neither", "model.safetensors.index.json");
        File.WriteAllText(configPath, "{");
        Refused("config.json", "not JSON");
        File.WriteAllText(configPath, "[]");
        Refused("config.json", "no JSON object");
        Save(config);
        File.WriteAllText(Path.Combine(_folder, "model.safetensors.index.json"), "{}");
        Refused("model.safetensors.index.json", "weight_map");

        void Refused(string file, string words)
        {
            var error = Assert.Throws<StateFileException>(() => CausalDecoder.Load(_folder));
            Assert.Contains(file, error.Message, StringComparison.Ordinal);
            Assert.Contains(words, error.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_misnamed_or_integer_tensor_is_refused_and_nothing_is_left()
    {
        TensorLeaks.None(() =>
        {
            using var scope = torch.NewDisposeScope();
            Write("llama", change: tensors => tensors["model.norm.weigth"] = tensors["model.norm.weight"]);
            Assert.Contains("'model.norm.weigth': is no tensor", Error(), StringComparison.Ordinal);
            Write("llama", change: tensors => tensors.Remove("model.norm.weight"));
            Assert.Contains("'model.norm.weight': is missing", Error(), StringComparison.Ordinal);
            Write("llama", change: tensors => tensors["model.norm.weight"] = torch.ones(16, torch.int32));
            Assert.Contains("dtype Int32", Error(), StringComparison.Ordinal);
        });

        string Error() => Assert.Throws<StateFileException>(() => CausalDecoder.Load(_folder)).Message;
    }

    private (JsonObject Config, Dictionary<string, float[]> Weights) Write(
        string type, bool tied = false, bool sharded = false, torch.ScalarType dtype = torch.ScalarType.Float32,
        Action<Dictionary<string, Tensor>>? change = null)
    {
        var config = new JsonObject
        {
            ["model_type"] = type,
            ["hidden_act"] = "silu",
            ["vocab_size"] = 11,
            ["hidden_size"] = 16,
            ["num_hidden_layers"] = 2,
            ["num_attention_heads"] = 4,
            ["num_key_value_heads"] = 2,
            ["head_dim"] = 8,
            ["intermediate_size"] = 20,
            ["rms_norm_eps"] = 1e-5,
            ["rope_theta"] = 500.0,
            ["tie_word_embeddings"] = tied,
            ["torch_dtype"] = "float32",
        };
        var shapes = new Dictionary<string, long[]> { ["model.embed_tokens.weight"] = [11, 16], ["model.norm.weight"] = [16] };
        if (!tied)
            shapes["lm_head.weight"] = [11, 16];
        for (var i = 0; i < 2; i++)
        {
            var layer = $"model.layers.{i}.";
            shapes[layer + "input_layernorm.weight"] = shapes[layer + "post_attention_layernorm.weight"] = [16];
            foreach (var (name, to, from) in ((string, long, long)[])[("q", 32, 16), ("k", 16, 16), ("v", 16, 16), ("o", 16, 32)])
            {
                shapes[$"{layer}self_attn.{name}_proj.weight"] = [to, from];
                if (type == "qwen2" && name != "o")
                    shapes[$"{layer}self_attn.{name}_proj.bias"] = [to];
            }

            if (type == "qwen3")
                shapes[layer + "self_attn.q_norm.weight"] = shapes[layer + "self_attn.k_norm.weight"] = [8];
            shapes[layer + "mlp.gate_proj.weight"] = shapes[layer + "mlp.up_proj.weight"] = [20, 16];
            shapes[layer + "mlp.down_proj.weight"] = [16, 20];
        }

        torch.manual_seed(5);
        var tensors = shapes.ToDictionary(entry => entry.Key, entry => torch.randn(entry.Value) * 0.4);
        var weights = tensors.ToDictionary(entry => entry.Key, entry => entry.Value.data<float>().ToArray());
        foreach (var name in tensors.Keys)
            tensors[name] = tensors[name].to(dtype);
        if (tied)
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone(); // as some writers do
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4);      // as old ones did
        change?.Invoke(tensors);
        Save(config);
        if (!sharded)
        {
            SafetensorsFile.Write(Path.Combine(_folder, "model.safetensors"), tensors);
            return (config, weights);
        }

        var map = new JsonObject();
        for (var shard = 1; shard <= 2; shard++)
        {
            var part = tensors.Where((_, i) => i % 2 == shard - 1).ToList();
            SafetensorsFile.Write(Path.Combine(_folder, $"model-{shard}.safetensors"), part);
            part.ForEach(entry => map[entry.Key] = $"model-{shard}.safetensors");
        }

        File.WriteAllText(Path.Combine(_folder, "model.safetensors.index.json"), new JsonObject { ["weight_map"] = map }.ToJsonString());
        return (config, weights);
    }

    private void Save(JsonObject config) =>
        File.WriteAllText(Path.Combine(_folder, "config.json"), config.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));

    /// <summary>What the plain decoder is to know of the configuration.</summary>
    private static DecoderOptions Options(JsonObject config) => new()
    {
        Vocabulary = 11,
        Width = 16,
        HeadDim = 8,
        Layers = [new(4, 2, 20), new(4, 2, 20)],
        Rotary = new() { Base = 500 },
        NormEpsilon = 1e-5,
        QueryKeyNorm = (string)config["model_type"]! == "qwen3",
        TiedHead = (bool)config["tie_word_embeddings"]!,
    };

    private static void Near(PlainDecoder plain, CausalDecoder model)
    {
        long[] ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 10, 0];
        var wanted = plain.Logits(ids).SelectMany(row => row).ToArray();
        var got = model.forward(torch.tensor(ids).unsqueeze(0)).contiguous().data<float>().ToArray();
        var most = wanted.Max(Math.Abs);
        Assert.Equal(wanted.Length, got.Length);
        foreach (var (w, g) in wanted.Zip(got))
            Assert.InRange(g - w, -1e-5 * most, 1e-5 * most);
    }
}
