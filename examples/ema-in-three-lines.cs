// Trains a small network with noisy gradients, and averages its weights along the way:  dotnet run examples/ema-in-three-lines.cs
//
// The three lines are marked. The average of the last steps lies nearer to the optimum than the weights, which jitter around it.
#:project ../src/Models/AuxCore.Models.csproj
#:package libtorch-cpu-linux-x64

using AuxCore.Models;
using static TorchSharp.torch;

set_num_threads(1);
manual_seed(1);
using var model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1));
using var optimizer = optim.SGD(model.parameters(), 0.05);
using var directions = randn(8, 1);

using var ema = new EmaModel(model, EmaSchedule.HalfLife(steps: 100)); // 1

for (var step = 0; step < 1000; step++)
{
    using var scope = NewDisposeScope();
    var (inputs, targets) = Batch(16, noise: 2);
    optimizer.zero_grad();
    nn.functional.mse_loss(model.forward(inputs), targets).backward();
    optimizer.step();
    ema.Update(); // 2
}

var weights = Loss();
double averaged;
using (ema.Swap()) // 3: the model holds its average until the end of the scope
    averaged = Loss();

Console.WriteLine($"Error without noise: {weights:0.0000} with the last weights, {averaged:0.0000} with their average.");

(Tensor Inputs, Tensor Targets) Batch(int size, double noise)
{
    var inputs = randn(size, 8);
    return (inputs, tanh(inputs.matmul(directions)) + noise * randn(size, 1));
}

double Loss()
{
    using var noGrad = no_grad();
    using var scope = NewDisposeScope();
    var (inputs, targets) = Batch(4096, noise: 0);
    return nn.functional.mse_loss(model.forward(inputs), targets).item<float>();
}
