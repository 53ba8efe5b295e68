using AuxCore.Models;
using TorchSharp;
using static TorchSharp.torch;

const double Decay = 0.75;
const int Steps = 8;

set_num_threads(1);
random.manual_seed(1);
using var scope = NewDisposeScope();
using var model = nn.Linear(3, 1);
using var optimizer = optim.SGD(model.parameters(), learningRate: 0.1);
using var ema = new EmaModel(model, EmaSchedule.Constant(Decay));
var (inputs, targets) = (randn(16, 3), randn(16, 1));

// e_T = β^T w_0 + (1 − β) Σ β^(T−t) w_t, in double.
var expected = Weights();
for (var step = 0; step < Steps; step++)
{
    optimizer.zero_grad();
    nn.functional.mse_loss(model.forward(inputs), targets).backward();
    optimizer.step();
    ema.Update();
    expected = [.. expected.Zip(Weights(), (e, w) => Decay * e + (1 - Decay) * w)];
}

var trained = Weights();
using (ema.Swap())
    Expect("average", Weights(), expected, tolerance: 1e-6);
Expect("trained weights after the swap", Weights(), trained, tolerance: 0);
if (trained.Zip(expected, (w, e) => Math.Abs(w - e)).Max() < 1e-3)
    throw new InvalidOperationException("training did not move the weights, so nothing was tested");

Console.WriteLine($"{Steps} steps; weights {Format(trained)}, average {Format(expected)}");

double[] Weights() => [.. model.parameters().SelectMany(parameter => parameter.data<float>().ToArray()).Select(value => (double)value)];

static void Expect(string what, double[] actual, double[] expected, double tolerance)
{
    if (actual.Length != expected.Length || actual.Zip(expected, (a, e) => Math.Abs(a - e)).Any(error => !(error <= tolerance)))
        throw new InvalidOperationException($"{what}: {Format(actual)}, expected {Format(expected)}");
}

static string Format(double[] values) => $"[{string.Join(", ", values.Select(value => value.ToString("F4")))}]";
