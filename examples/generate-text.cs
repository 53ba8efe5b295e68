// Loads a Hugging Face checkpoint and goes on with a text, from a compressed 8-bit cache:
//
//     dotnet run examples/generate-text.cs -- FOLDER "The text"
//
// FOLDER holds config.json, model.safetensors or its shards, vocab.json and merges.txt, as those of Qwen2 do. Without a folder, it writes
// a tiny one with random weights, a token for each byte, and goes on with nonsense: that shows the way, and nothing about models.
#:project ../src/Models/AuxCore.Models.csproj
#:package libtorch-cpu-linux-x64
#:package Microsoft.ML.Tokenizers

using System.Text.Json;
using AuxCore.Kernels;
using AuxCore.Models;
using Microsoft.ML.Tokenizers;
using static TorchSharp.torch;

set_num_threads(1);
var temporary = args.Length == 0 ? WriteTinyCheckpoint() : null;
try
{
    var folder = temporary ?? args[0];
    var text = args.Length > 1 ? args[1] : "A KV cache holds keys and values of the tokens so far. " + new string('a', 200);
    var tokenizer = BpeTokenizer.Create(new BpeOptions(Path.Combine(folder, "vocab.json"), Path.Combine(folder, "merges.txt"))
    {
        ByteLevel = true,
    });

    using var scope = NewDisposeScope();
    using var model = CausalDecoder.Load(folder);
    var prompt = tensor(tokenizer.EncodeToIds(text).Select(id => (long)id).ToArray()).unsqueeze(0);

    using var cache = model.CreateCache(capacity: 8192, KvFormat.Q8_0);
    using var compression = model.CompressKv(new SnapKv(window: 16), KvBudget.Tokens(64));
    var logits = model.Prefill(prompt, cache);
    Console.WriteLine($"{prompt.shape[1]} tokens read, {cache.Length(0, 0)} kept in a cache of {cache.BytesUsed:N0} bytes.");

    var written = new List<int>();
    for (var i = 0; i < 20; i++)
    {
        var next = logits.argmax(1);
        written.Add((int)next.item<long>());
        logits = model.Decode(next, cache);
    }

    Console.WriteLine($"It goes on with {written.Count} tokens: {JsonSerializer.Serialize(tokenizer.Decode(written))}");
}
finally
{
    if (temporary is not null)
        Directory.Delete(temporary, recursive: true);
}

static string WriteTinyCheckpoint()
{
    const int Vocabulary = 256, Width = 32, Inner = 64;
    var folder = Directory.CreateTempSubdirectory("auxcore-tiny-").FullName;

    // Byte-level tokenizers write bytes that cannot be printed as characters from 256 on (GPT-2).
    var free = 256;
    var characters = Enumerable.Range(0, 256).Select(b =>
        b is >= '!' and <= '~' or >= 0xA1 and <= 0xAC or >= 0xAE ? (char)b : (char)free++);
    var vocabulary = characters.Select((character, id) => (character, id)).ToDictionary(entry => $"{entry.character}", entry => entry.id);
    File.WriteAllText(Path.Combine(folder, "vocab.json"), JsonSerializer.Serialize(vocabulary));
    File.WriteAllText(Path.Combine(folder, "merges.txt"), "#version: 0.2\n");
    File.WriteAllText(Path.Combine(folder, "config.json"), $$"""
        {
          "model_type": "qwen2", "vocab_size": {{Vocabulary}}, "hidden_size": {{Width}}, "intermediate_size": {{Inner}},
          "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": true
        }
        """);

    manual_seed(1);
    using var scope = NewDisposeScope();
    var layer = "model.layers.0.";
    SafetensorsFile.Write(Path.Combine(folder, "model.safetensors"), new Dictionary<string, Tensor>
    {
        ["model.embed_tokens.weight"] = randn(Vocabulary, Width),
        ["model.norm.weight"] = ones(Width),
        [layer + "input_layernorm.weight"] = ones(Width),
        [layer + "post_attention_layernorm.weight"] = ones(Width),
        [layer + "self_attn.q_proj.weight"] = randn(64, Width),
        [layer + "self_attn.q_proj.bias"] = randn(64),
        [layer + "self_attn.k_proj.weight"] = randn(32, Width),
        [layer + "self_attn.k_proj.bias"] = randn(32),
        [layer + "self_attn.v_proj.weight"] = randn(32, Width),
        [layer + "self_attn.v_proj.bias"] = randn(32),
        [layer + "self_attn.o_proj.weight"] = randn(Width, 64),
        [layer + "mlp.gate_proj.weight"] = randn(Inner, Width),
        [layer + "mlp.up_proj.weight"] = randn(Inner, Width),
        [layer + "mlp.down_proj.weight"] = randn(Width, Inner),
    });
    return folder;
}
