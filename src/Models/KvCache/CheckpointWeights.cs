using System.Text.Json;
using AuxCore.Interop;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>The tensors of a Hugging Face checkpoint, in one file or in shards.</summary>
internal sealed class CheckpointWeights : IDisposable
{
    private const string SingleFile = "model.safetensors", IndexFile = "model.safetensors.index.json", Map = "weight_map";

    private readonly string _folder;
    private readonly Dictionary<string, SafetensorsReader> _readers = new(StringComparer.Ordinal); // by file name
    private readonly Dictionary<string, string> _files = new(StringComparer.Ordinal);              // by tensor

    public CheckpointWeights(string folder)
    {
        _folder = folder;
        try
        {
            if (File.Exists(Path.Combine(folder, SingleFile)))
            {
                foreach (var name in Open(SingleFile).Names)
                    _files[name] = SingleFile;
            }
            else
            {
                ReadIndex(Path.Combine(folder, IndexFile));
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Refuses a checkpoint that lacks one of these tensors, has it in another shape, or has others.</summary>
    /// <param name="expected">Names and shapes.</param>
    /// <param name="tied">Whether the head is the embedding, so that a copy of it is left alone.</param>
    public void Require(IReadOnlyDictionary<string, long[]> expected, bool tied)
    {
        foreach (var (name, shape) in expected)
        {
            if (!_files.TryGetValue(name, out var file))
                throw Bad(File.Exists(Path.Combine(_folder, SingleFile)) ? SingleFile : IndexFile, name, "is missing");
            var reader = _readers[file];
            if (!reader.Contains(name))
                throw Bad(file, name, $"is missing, though {IndexFile} says that it is here");
            if (!reader.Shape(name).AsSpan().SequenceEqual(shape))
            {
                throw Bad(
                    file, name, $"has shape {TensorView.Format(reader.Shape(name))}, but {TensorView.Format(shape)} by config.json");
            }

            if (reader.DType(name) is not (torch.ScalarType.Float32 or torch.ScalarType.BFloat16 or torch.ScalarType.Float16))
                throw Bad(file, name, $"has dtype {reader.DType(name)}, and weights are of float32, bfloat16 or float16");
        }

        foreach (var (name, file) in _files)
        {
            // Frequencies of the rotary embedding were once saved too, and some writers save the head beside the embedding that it is.
            var known = expected.ContainsKey(name) || name.EndsWith(".rotary_emb.inv_freq", StringComparison.Ordinal)
                || (tied && name == "lm_head.weight");
            if (!known)
                throw Bad(file, name, "is no tensor of a model of this config.json");
        }
    }

    public Tensor Read(string name) => _readers[_files[name]].Read(name);

    public void Dispose()
    {
        foreach (var reader in _readers.Values)
            reader.Dispose();
    }

    private void ReadIndex(string path)
    {
        if (!File.Exists(path))
            throw new StateFileException("CausalDecoder.Load", _folder, null, $"there is neither {SingleFile} nor {IndexFile}");
        using var index = CausalDecoder.ReadJson(path);
        if (!index.RootElement.TryGetProperty(Map, out var map) || map.ValueKind != JsonValueKind.Object)
            throw Bad(IndexFile, Map, "is missing, or no object");
        foreach (var entry in map.EnumerateObject())
        {
            if (entry.Value.ValueKind != JsonValueKind.String)
                throw Bad(IndexFile, entry.Name, "its file is no text");
            var file = entry.Value.GetString()!;
            RequireInside(file, entry.Name);
            if (!_readers.ContainsKey(file))
            {
                if (!File.Exists(Path.Combine(_folder, file)))
                    throw Bad(IndexFile, entry.Name, $"its file, '{StateFileException.Shown(file)}', is not there");
                Open(file);
            }

            _files[entry.Name] = file;
        }
    }

    // A shard's name comes from a file that may be anybody's.
    private void RequireInside(string file, string tensor)
    {
        var plain = file is not ("" or "." or "..") && file == Path.GetFileName(file) && file.IndexOfAny(['\\', ':', '\0']) < 0;
        if (!plain)
        {
            throw Bad(
                IndexFile, tensor, $"its file, '{StateFileException.Shown(file)}', is outside the folder, or no name of a file");
        }
    }

    private SafetensorsReader Open(string file) => _readers[file] = SafetensorsFile.Open(Path.Combine(_folder, file));

    private StateFileException Bad(string file, string key, string problem) => CausalDecoder.Bad(Path.Combine(_folder, file), key, problem);
}
