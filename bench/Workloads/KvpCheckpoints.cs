using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>The finished models of the KV-prediction experiment: a bfloat16 file for each training, with its recipe.</summary>
/// <param name="folder">Where the files are.</param>
internal sealed class KvpCheckpoints(string folder)
{
    private const string Operation = "models kvp";

    private static readonly string Place = Path.Combine("checkpoints", "kvp");

    /// <summary>Where <c>models kvp --train</c> leaves them, seen from the root of the repository.</summary>
    public static KvpCheckpoints Written { get; } = new(Path.Combine("bench", Place));

    /// <summary>What was trained here, else the committed ones beside the executable.</summary>
    public static KvpCheckpoints Best => Written.Has("base") ? Written : new(Path.Combine(AppContext.BaseDirectory, Place));

    /// <summary>Whether a training is finished.</summary>
    public bool Has(string name) => File.Exists(PathOf(name));

    /// <summary>The file of a training, whether it is there or not.</summary>
    public string PathOf(string name) => Path.Combine(folder, name + ".safetensors");

    /// <summary>Asks for a training.</summary>
    /// <exception cref="StateFileException">It is not there.</exception>
    public void Require(string name)
    {
        if (Has(name)) return;
        throw new StateFileException(
            Operation, PathOf(name), null, "there is no such file; `models kvp --train`, in the root of the repository, makes it");
    }

    /// <summary>A decoder that was trained.</summary>
    /// <exception cref="StateFileException">As <see cref="Read"/>.</exception>
    public CausalDecoder Load(string name, DecoderOptions options)
    {
        var model = new CausalDecoder(options);
        try
        {
            Read(name, new() { ["model"] = model });
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Reads the weights of modules that were trained together.</summary>
    /// <exception cref="StateFileException">There is no such file, it is damaged, or it holds other sizes.</exception>
    public void Read(string name, Dictionary<string, torch.nn.Module> modules)
    {
        Require(name);
        using SafetensorsReader file = SafetensorsFile.Open(PathOf(name));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        List<(string Key, TorchSharp.Modules.Parameter Parameter)> parameters = [.. Parameters(modules)];
        foreach ((string key, TorchSharp.Modules.Parameter parameter) in parameters)
        {
            long[] found = file.Shape(key), wanted = parameter.shape;
            if (!found.AsSpan().SequenceEqual(wanted))
            {
                throw new StateFileException(
                    Operation, PathOf(name), key,
                    $"its shape is [{string.Join(',', found)}], and the model's [{string.Join(',', wanted)}]");
            }
        }

        foreach ((string key, TorchSharp.Modules.Parameter parameter) in parameters) parameter.copy_(file.Read(key));
    }

    /// <summary>Writes modules that were trained together, in bfloat16.</summary>
    public void Write(
        string name, IReadOnlyDictionary<string, torch.nn.Module> modules, IReadOnlyDictionary<string, string> recipe)
    {
        Directory.CreateDirectory(folder);
        using var scope = torch.NewDisposeScope();
        SafetensorsFile.Write(
            PathOf(name),
            Parameters(modules).Select(entry => new KeyValuePair<string, Tensor>(
                entry.Key, entry.Parameter.detach().to(torch.bfloat16))),
            recipe);
    }

    private static IEnumerable<(string Key, TorchSharp.Modules.Parameter Parameter)> Parameters(
        IReadOnlyDictionary<string, torch.nn.Module> modules) =>
        modules.SelectMany(module => module.Value.named_parameters().Select(entry => ($"{module.Key}.{entry.name}", entry.parameter)));
}
