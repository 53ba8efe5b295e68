using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// A vision transformer that was trained on cluttered canvases, for the tour: seed 1 of <c>models pruning</c>, which leaves it in
/// <see cref="Written"/>, in float16. The committed one is in <c>data/canvas-vit</c>.
/// </summary>
internal static class CanvasModel
{
    private const string MeanKey = "mean", DeviationKey = "deviation";

    /// <summary>Where the experiment leaves it.</summary>
    public static string Written { get; } = Path.Combine("artifacts", "bench", "models", "canvas-vit.safetensors");

    private static string Shipped => Path.Combine(DataStore.ShippedFolder, "canvas-vit", "canvas-vit.safetensors");

    /// <summary>Writes a model and how its images are normalised.</summary>
    public static void Save(VisionTransformer model, ByteImages images)
    {
        using var scope = NewDisposeScope();
        Directory.CreateDirectory(Path.GetDirectoryName(Written)!);
        SafetensorsFile.Write(
            Written, model.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter.detach().to(float16)),
            new Dictionary<string, string> { [MeanKey] = Text(images.Moments.Mean), [DeviationKey] = Text(images.Moments.Deviation) });

        static string Text(double value) => value.ToString("R", CultureInfo.InvariantCulture);
    }

    /// <summary>The committed model, and mean and deviation of the pixels that it learned from.</summary>
    public static (VisionTransformer Model, (double Mean, double Deviation) Moments) Load()
    {
        using SafetensorsReader file = SafetensorsFile.Open(Shipped);
        var model = new VisionTransformer(PruningTraining.OptionsFor(ClutteredCanvas.Side));
        using (no_grad())
        {
            foreach ((string name, TorchSharp.Modules.Parameter parameter) in model.named_parameters())
            {
                using Tensor stored = file.Read(name);
                parameter.copy_(stored);
            }
        }

        model.eval();
        return (model, (Number(MeanKey), Number(DeviationKey)));

        double Number(string key) => double.Parse(file.Metadata[key], CultureInfo.InvariantCulture);
    }
}
