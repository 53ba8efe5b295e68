using System.Globalization;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// A training that is broken off and goes on: every so many steps, what is trained and the optimiser's state are written, and what is
/// continued gives the same bits as what was never stopped. AdamW as the KV Prediction paper has it: β 0.9 and 0.95, weight decay 0.1,
/// gradients clipped to a norm of 1, a warm-up, then half a cosine down to a tenth. It ends early once the loss on held-out text has not
/// fallen for a while.
/// </summary>
internal sealed class TrainingJob : IDisposable
{
    /// <summary>
    /// Steps from one look at the held-out text to the next, and how many looks without a new best end the training: more than the 2,500
    /// steps that the plateau before recall can last.
    /// </summary>
    public const int EvaluateEvery = 500, Patience = 6;

    private const int WarmUp = 100, SaveEvery = 100;

    private readonly string _folder, _settings;
    private readonly List<double> _heldOut = [];
    private readonly List<(string Name, TorchSharp.Modules.Parameter Parameter)> _parameters;
    private readonly AdamW _optimizer;
    private readonly double _rate;

    /// <param name="folder">Where its files are kept until it is done.</param>
    /// <param name="modules">What is trained, by name.</param>
    /// <param name="steps">How many steps it has.</param>
    /// <param name="rate">The highest learning rate.</param>
    /// <param name="settings">Everything else that its result depends on; files of other settings are not taken.</param>
    public TrainingJob(string folder, IReadOnlyDictionary<string, torch.nn.Module> modules, int steps, double rate, string settings)
    {
        (_folder, Steps, _rate) = (folder, steps, rate);
        _settings = string.Create(CultureInfo.InvariantCulture, $"{settings}; {steps} steps, rate {rate}");
        _parameters =
        [
            .. modules.SelectMany(module => module.Value.named_parameters()
                .Select(entry => ($"{module.Key}.{entry.name}", entry.parameter))),
        ];
        _optimizer = new AdamW(_parameters, lr: rate, beta1: 0.9, beta2: 0.95, weight_decay: 0.1) { MaxGradientNorm = 1 };
        Resume();
    }

    /// <summary>How many steps it has in all, and how many are done.</summary>
    public int Steps { get; }

    /// <inheritdoc cref="Steps"/>
    public int Done { get; private set; }

    /// <summary>The loss on held-out text, every <see cref="EvaluateEvery"/> steps.</summary>
    public IReadOnlyList<double> HeldOut => _heldOut;

    private bool Stale => _heldOut.Count - 1 - _heldOut.IndexOf(_heldOut.DefaultIfEmpty().Min()) >= Patience;

    private string WeightsPath => Path.Combine(_folder, "weights.safetensors");

    /// <summary>Does the steps that are left.</summary>
    /// <param name="loss">The loss of a step, in the current dispose scope.</param>
    /// <param name="heldOut">The loss on held-out text; gradients are off.</param>
    /// <param name="report">Gets the number of a step that is done and its loss.</param>
    /// <param name="cancellation">Ends it behind a step; it goes on from the last state written.</param>
    public void Run(Func<int, Tensor> loss, Func<Tensor> heldOut, Action<int, double> report, CancellationToken cancellation)
    {
        Directory.CreateDirectory(_folder);
        while (Done < Steps && !Stale)
        {
            cancellation.ThrowIfCancellationRequested();
            using (torch.NewDisposeScope())
            {
                foreach (var group in _optimizer.ParamGroups) group.LearningRate = RateAt(Done);
                _optimizer.zero_grad();
                Tensor value = loss(Done);
                value.backward();
                _optimizer.step();
                report(++Done, value.item<float>());
            }

            if (Done % EvaluateEvery == 0)
            {
                using var scope = torch.NewDisposeScope();
                using var noGrad = torch.no_grad();
                _heldOut.Add(heldOut().item<float>());
            }

            if (Done % SaveEvery == 0 || Done == Steps) Save();
        }
    }

    /// <summary>Its files are no longer wanted.</summary>
    public void Delete()
    {
        if (Directory.Exists(_folder)) Directory.Delete(_folder, recursive: true);
    }

    /// <inheritdoc/>
    public void Dispose() => _optimizer.Dispose();

    private double RateAt(int step) => step < WarmUp
        ? _rate * (step + 1) / WarmUp
        : _rate * (0.1 + 0.9 * 0.5 * (1 + Math.Cos(Math.PI * (step - WarmUp) / Math.Max(1, Steps - WarmUp))));

    // The weights come last and name the optimiser's file that belongs to them, so that a stop between the two costs nothing.
    private void Save()
    {
        _optimizer.Save(OptimizerPath(Done));
        SafetensorsFile.Write(
            WeightsPath, _parameters.Select(entry => new KeyValuePair<string, Tensor>(entry.Name, entry.Parameter)),
            new Dictionary<string, string>
            {
                ["step"] = Done.ToString(CultureInfo.InvariantCulture), ["settings"] = _settings,
                ["held-out"] = Invariant(_heldOut),
            });
        foreach (string other in Directory.EnumerateFiles(_folder, "optimizer-*").Where(path => path != OptimizerPath(Done)).ToList())
            File.Delete(other);
    }

    private void Resume()
    {
        if (!File.Exists(WeightsPath)) return;
        using SafetensorsReader file = SafetensorsFile.Open(WeightsPath);
        if (file.Metadata.GetValueOrDefault("settings") != _settings) return;
        int step = int.Parse(file.Metadata["step"], CultureInfo.InvariantCulture);
        _optimizer.Load(OptimizerPath(step));
        using var noGrad = torch.no_grad();
        foreach ((string name, TorchSharp.Modules.Parameter parameter) in _parameters) file.ReadInto(name, parameter);
        _heldOut.AddRange(file.Metadata["held-out"].Split(' ', StringSplitOptions.RemoveEmptyEntries)
            .Select(loss => double.Parse(loss, CultureInfo.InvariantCulture)));
        Done = step;
    }

    /// <summary>Losses in a form that can be read again.</summary>
    public static string Invariant(IEnumerable<double> losses) =>
        string.Join(' ', losses.Select(loss => loss.ToString("R", CultureInfo.InvariantCulture)));

    private string OptimizerPath(int step) =>
        Path.Combine(_folder, string.Create(CultureInfo.InvariantCulture, $"optimizer-{step}.safetensors"));
}
