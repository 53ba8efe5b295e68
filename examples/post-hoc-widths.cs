// The width of an average, chosen after the training:  dotnet run examples/post-hoc-widths.cs
//
// Two power-function averages are trained and saved now and then. From the files alone come averages of other widths (Karras et al. 2024).
// For comparison this example trains those as well, which is what nobody has to do.
#:project ../src/Models/AuxCore.Models.csproj
#:package libtorch-cpu-linux-x64

using AuxCore.Models;
using static TorchSharp.torch;

double[] trained = [0.05, 0.10], wanted = [0.06, 0.075, 0.10, 0.15, 0.25];
const int Steps = 2000, SnapshotEvery = 100;
set_num_threads(1);
manual_seed(1);
using var model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1));
using var optimizer = optim.SGD(model.parameters(), 0.05);
using var directions = randn(8, 1);
using var ema = new EmaModel(model, [.. trained.Select(EmaSchedule.PowerFunction)]);
using var direct = new EmaModel(model, [.. wanted.Select(EmaSchedule.PowerFunction)]);

var folder = Directory.CreateTempSubdirectory("auxcore-");
try
{
    var files = new List<string>();
    for (var step = 1; step <= Steps; step++)
    {
        Train();
        ema.Update();
        direct.Update();
        if (step % SnapshotEvery == 0)
        {
            files.Add(Path.Combine(folder.FullName, $"{step:00000}.safetensors"));
            ema.SaveSnapshot(files[^1]);
        }
    }

    Console.WriteLine($"{files.Count} snapshots of the widths {string.Join(" and ", trained)}; from them, at step {Steps}:");
    Console.WriteLine("width  error of weights over time  distance from the trained one  coefficients of the last three snapshots");
    for (var k = 0; k < wanted.Length; k++)
    {
        using var synthesized = EmaModel.Synthesize(files, wanted[k]);
        var coefficients = synthesized.Weights.TakeLast(6).Select(part => $"{part.Weight,7:0.000}");
        Console.WriteLine(
            $"{wanted[k],5:0.000}  {synthesized.Solution.Error,26:0.00000}  {Distance(synthesized, k),29:0.00000}  "
            + string.Join("", coefficients));
    }
}
finally
{
    folder.Delete(recursive: true);
}

void Train()
{
    using var scope = NewDisposeScope();
    var inputs = randn(16, 8);
    optimizer.zero_grad();
    nn.functional.mse_loss(model.forward(inputs), tanh(inputs.matmul(directions)) + 2 * randn(16, 1)).backward();
    optimizer.step();
}

// Relative to how far the average is from the weights.
double Distance(SynthesizedEma synthesized, int average)
{
    using var noGrad = no_grad();
    using var scope = NewDisposeScope();
    var (difference, lag) = (0.0, 0.0);
    foreach (var (name, parameter) in model.named_parameters())
    {
        var expected = direct.StateDict(average)[name];
        difference += (synthesized.StateDict()[name] - expected).square().sum().item<float>();
        lag += (parameter - expected).square().sum().item<float>();
    }

    return Math.Sqrt(difference / lag);
}
