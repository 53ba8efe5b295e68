using AuxCore.Interop;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>What those who read back their own state ask of its file before anything of theirs changes.</summary>
/// <param name="owner">The class that wrote it, and reads it.</param>
/// <param name="self">What messages call the object that reads, after "this".</param>
/// <param name="whole">What the tensors are part of, where that is not the object itself.</param>
internal sealed class StateFile(string owner, string self, string? whole = null)
{
    /// <summary>An entry of the metadata.</summary>
    public string Metadata(SafetensorsReader file, string path, string key) =>
        file.Metadata.TryGetValue(key, out var value)
            ? value
            : throw Foreign(path, key, $"is missing from the metadata; {owner}.Save did not write this file");

    /// <summary>Refuses a file in which an entry of the metadata is another than the reader's own.</summary>
    public void Require(SafetensorsReader file, string path, string key, string expected)
    {
        var found = Metadata(file, path, key);
        if (found != expected)
            throw Foreign(path, key, $"is '{found}', but this {self} has '{expected}'");
    }

    /// <summary>Refuses a file whose tensors are not the reader's own: by name, dtype and shape, none missing and none besides.</summary>
    public void RequireTensors(SafetensorsReader file, string path, IReadOnlyList<(string Name, Tensor Tensor)> tensors)
    {
        foreach (var (key, tensor) in tensors)
        {
            if (!file.Contains(key))
                throw Foreign(path, key, "is missing");
            if (file.DType(key) != tensor.dtype)
                throw Foreign(path, key, $"has dtype {file.DType(key)}, not {tensor.dtype}");
            if (!file.Shape(key).AsSpan().SequenceEqual(tensor.shape))
                throw Foreign(path, key, $"has shape {TensorView.Format(file.Shape(key))}, not {TensorView.Format(tensor.shape)}");
        }

        if (file.Names.Count != tensors.Count)
            throw Foreign(path, file.Names.Except(tensors.Select(entry => entry.Name)).First(), $"is not part of this {whole ?? self}");
    }

    /// <summary>What is wrong with an entry.</summary>
    public StateFileException Foreign(string path, string key, string problem) => new(owner, path, key, problem);
}
