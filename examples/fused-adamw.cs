// AuxCore's AdamW in the place of TorchSharp's, with an average of the weights in the same pass:  dotnet run examples/fused-adamw.cs
//
// One line of the training changes. The example trains twice from the same seed and compares.
#:project ../src/Models/AuxCore.Models.csproj
#:package libtorch-cpu-linux-x64

using AuxCore.Models;
using TorchSharp.Modules;
using static TorchSharp.torch;

const int Steps = 300;
set_num_threads(1);

var (theirs, theirLoss) = Train(model => optim.AdamW(model.parameters(), lr: 1e-3, weight_decay: 0.05));
var (ours, ourLoss) = Train(model => new AuxCore.Models.AdamW(model.parameters(), lr: 1e-3, weight_decay: 0.05)); // the line
Console.WriteLine($"Loss after {Steps} steps: {theirLoss:0.000000} with TorchSharp's AdamW, {ourLoss:0.000000} with AuxCore's.");

var apart = theirs.parameters().Zip(ours.parameters(), (left, right) => (left - right).abs().max().item<float>()).Max();
Console.WriteLine($"The weights differ by {apart:0.0e0} at most: both round, in different places.");

// Clipping and an average come with the step and cost no pass of their own.
EmaModel? ema = null;
var (averaged, _) = Train(model =>
{
    ema = new EmaModel(model, EmaSchedule.HalfLife(steps: 50));
    return new AuxCore.Models.AdamW(model.parameters(), lr: 1e-3, weight_decay: 0.05) { Averages = ema, MaxGradientNorm = 1 };
});
using (ema)
using (ema!.Swap())
{
    Console.WriteLine(
        $"Loss of the average of the last steps: {Loss(averaged):0.000000} after {ema.Updates} updates in the optimiser's pass.");
}

static (Sequential Model, double Loss) Train(Func<Sequential, optim.Optimizer> optimizerOf)
{
    manual_seed(1);
    var model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 1));
    using var optimizer = optimizerOf(model);
    for (var step = 0; step < Steps; step++)
    {
        using var scope = NewDisposeScope();
        var (inputs, targets) = Batch(32);
        optimizer.zero_grad();
        nn.functional.mse_loss(model.forward(inputs), targets).backward();
        optimizer.step();
    }

    return (model, Loss(model));
}

static (Tensor Inputs, Tensor Targets) Batch(int size)
{
    var inputs = randn(size, 8);
    return (inputs, inputs.sin().sum(1, keepdim: true));
}

static double Loss(Sequential model)
{
    using var noGrad = no_grad();
    using var scope = NewDisposeScope();
    manual_seed(2);
    var (inputs, targets) = Batch(1024);
    return nn.functional.mse_loss(model.forward(inputs), targets).item<float>();
}
