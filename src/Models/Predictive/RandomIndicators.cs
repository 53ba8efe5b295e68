using AuxCore.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Random sets of states as auxiliary tasks: set t holds the states for which output t of a random, frozen network exceeds a threshold,
/// which is chosen so that a wanted share of states is in the set. These are the random network indicators of proto-value networks
/// (Farebrother et al. 2023, arXiv 2304.12567; google-research, <c>pvn/indicator_functions.py</c>).
/// <code>
/// using var tasks = RandomIndicators.Calibrate(observations, tasks: 100, rate: 0.05);
/// Console.WriteLine(tasks.Report);      // dead tasks among others
/// </code>
/// </summary>
/// <remarks>
/// Thresholds are exact quantiles of the sample (<see cref="IndicatorCalibration"/>). The published network ends in a ReLU, behind which
/// many tasks never fire; the network that is made here ends in a linear layer. A network of one's own is not trained either, and is called
/// without history. Not thread-safe.
/// </remarks>
public sealed class RandomIndicators : IDisposable
{
    private readonly Module<Tensor, Tensor> _network;
    private readonly bool _ownsNetwork;
    private readonly long[] _observationShape;
    private readonly Tensor _thresholds;

    private RandomIndicators(Module<Tensor, Tensor> network, bool ownsNetwork, Tensor observations, double rate)
    {
        (_network, _ownsNetwork, Rate) = (network, ownsNetwork, rate);
        _observationShape = observations.shape[1..];
        using var scope = torch.NewDisposeScope();
        var features = Run(observations);
        Tasks = checked((int)features.shape[1]);
        _thresholds = torch.empty(Tasks, dtype: torch.float32, device: features.device);
        var counts = torch.empty(Tasks, dtype: torch.int32, device: features.device);
        IndicatorCalibration.Quantile(
            features.ToTensorView("observations"), rate, _thresholds.ToTensorView(), counts.ToTensorView());
        Report = IndicatorReport.Of(counts.cpu().data<int>().ToArray(), features.shape[0]);
        _thresholds.DetachFromDisposeScope();
    }

    /// <summary>Sets from a random network of one hidden layer, for observations that are vectors.</summary>
    /// <param name="observations">[N, D], float32: a sample of states, which the thresholds are calibrated on.</param>
    /// <param name="tasks">T.</param>
    /// <param name="rate">The wanted share of states in a set, within (0, 1).</param>
    /// <param name="hidden">The width of the hidden layer.</param>
    /// <param name="seed">Seeds the network; libtorch's own generator is left alone.</param>
    /// <exception cref="ArgumentException">
    /// The observations are no float32 matrix, or the rate rounds to none of the N states or to all of them.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The rate lies outside (0, 1), or a size is below 1.</exception>
    /// <exception cref="ObjectDisposedException">The observations were disposed.</exception>
    public static RandomIndicators Calibrate(Tensor observations, int tasks, double rate, int hidden = 256, int seed = 0)
    {
        RequireObservations(observations);
        if (observations.dtype != torch.float32 || observations.shape.Length != 2)
        {
            throw new ArgumentException(
                $"observations: {Batches.Describe(observations)} is no Float32[N, D]; for others, pass a network", nameof(observations));
        }

        Sizes.RequirePositive((nameof(observations), observations.shape[1]), (nameof(tasks), tasks), (nameof(hidden), hidden));
        return Owning(new RandomNetwork(observations.shape[1], hidden, tasks, seed, observations.device), observations, rate);
    }

    /// <summary>Sets from random networks of a convolution and two linear layers, for observations that are pictures.</summary>
    /// <param name="observations">[N, C, H, W], float32: a sample of states, which the thresholds are calibrated on.</param>
    /// <param name="tasks">T.</param>
    /// <param name="rate">The wanted share of states in a set, within (0, 1).</param>
    /// <param name="tasksPerNetwork">How many tasks share a network; 10 as published.</param>
    /// <param name="seed">Seeds the networks; libtorch's own generator is left alone.</param>
    /// <exception cref="ArgumentException">
    /// The observations are no float32 pictures of 3 × 3 at least, or the rate rounds to none of the N states or to all of them.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The rate lies outside (0, 1), or a size is below 1.</exception>
    /// <exception cref="ObjectDisposedException">The observations were disposed.</exception>
    public static RandomIndicators CalibratePictures(
        Tensor observations, int tasks, double rate, int tasksPerNetwork = 10, int seed = 0)
    {
        RequireObservations(observations);
        if (observations.dtype != torch.float32 || observations.shape is not [_, >= 1, >= 3, >= 3])
        {
            throw new ArgumentException(
                $"observations: {Batches.Describe(observations)} is no Float32[N, C, H, W] with pictures of 3 × 3 at least",
                nameof(observations));
        }

        Sizes.RequirePositive((nameof(tasks), tasks), (nameof(tasksPerNetwork), tasksPerNetwork));
        return Owning(
            new RandomConvolutions(observations.shape[1..], tasks, tasksPerNetwork, seed, observations.device), observations, rate);
    }

    /// <summary>Sets from a network of one's own.</summary>
    /// <param name="network">[n, …] to [n, T]: float32 or bfloat16. It stays the caller's, and must not change afterwards.</param>
    /// <param name="observations">[N, …]: a sample of states, which the thresholds are calibrated on.</param>
    /// <param name="rate">The wanted share of states in a set, within (0, 1).</param>
    /// <inheritdoc cref="Calibrate(Tensor, int, double, int, int)" path="/exception"/>
    public static RandomIndicators Calibrate(Module<Tensor, Tensor> network, Tensor observations, double rate)
    {
        ArgumentNullException.ThrowIfNull(network);
        RequireObservations(observations);
        return new(network, ownsNetwork: false, observations, rate);
    }

    /// <summary>T.</summary>
    public int Tasks { get; }

    /// <summary>The wanted share of states in a set.</summary>
    public double Rate { get; }

    /// <summary>What the sets are like on the calibration's sample: dead tasks, full ones, those with NaN.</summary>
    public IndicatorReport Report { get; }

    /// <summary>[T], float32: b; a state is in set t where f_t + b_t &gt; 0. Live: do not dispose it.</summary>
    public Tensor Thresholds => _thresholds;

    /// <summary>f: the network's outputs.</summary>
    /// <param name="observations">[n, …], of the calibration's shape behind the first dimension.</param>
    /// <returns>[n, T], without history.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    /// <exception cref="ObjectDisposedException">The observations, or the sets, were disposed.</exception>
    public Tensor Features(Tensor observations)
    {
        Require(observations);
        return Run(observations);
    }

    /// <summary>Which states are in which sets, as bits: all that training needs to keep of a state. 13 bytes for 100 tasks.</summary>
    /// <param name="observations">[n, …], of the calibration's shape behind the first dimension.</param>
    /// <returns>[n, <see cref="Indicators.BytesPerState"/>(T)], uint8.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    /// <exception cref="ObjectDisposedException">The observations, or the sets, were disposed.</exception>
    public Tensor Pack(Tensor observations)
    {
        Require(observations);
        using var scope = torch.NewDisposeScope();
        var features = Run(observations);
        var bits = torch.empty(features.shape[0], Indicators.BytesPerState(Tasks), dtype: torch.uint8, device: features.device);
        IndicatorCalibration.Pack(features.ToTensorView(), _thresholds.ToTensorView(), bits.ToTensorView());
        return bits.MoveToOuterDisposeScope();
    }

    /// <summary>What the sets are like on other states than those of the calibration.</summary>
    /// <param name="observations">[n, …], of the calibration's shape behind the first dimension.</param>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    /// <exception cref="ObjectDisposedException">The observations, or the sets, were disposed.</exception>
    public IndicatorReport Inspect(Tensor observations)
    {
        Require(observations);
        using var scope = torch.NewDisposeScope();
        var features = Run(observations);
        var bits = torch.empty(features.shape[0], Indicators.BytesPerState(Tasks), dtype: torch.uint8, device: features.device);
        var counts = torch.empty(Tasks, dtype: torch.int32, device: features.device);
        IndicatorCalibration.Pack(features.ToTensorView(), _thresholds.ToTensorView(), bits.ToTensorView(), counts.ToTensorView());
        return IndicatorReport.Of(counts.cpu().data<int>().ToArray(), features.shape[0]);
    }

    /// <summary>
    /// Moves the thresholds a little towards the wanted share on these states, for states that change during training: one gradient step on
    /// the pinball loss.
    /// </summary>
    /// <param name="observations">[n, …], of the calibration's shape behind the first dimension.</param>
    /// <param name="learningRate">At least 0.</param>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The learning rate is negative or not finite.</exception>
    /// <exception cref="ObjectDisposedException">The observations, or the sets, were disposed.</exception>
    public void Follow(Tensor observations, double learningRate)
    {
        Require(observations);
        using var scope = torch.NewDisposeScope();
        var features = Run(observations);
        var gradient = torch.empty(Tasks, dtype: torch.float32, device: features.device);
        IndicatorCalibration.PinballStep(
            features.ToTensorView(), Rate, learningRate, _thresholds.ToTensorView(), new() { Gradient = gradient.ToTensorView() });
    }

    /// <summary>Frees the thresholds, and the network where it was made here.</summary>
    public void Dispose()
    {
        _thresholds.Dispose();
        if (_ownsNetwork)
            _network.Dispose();
    }

    /// <summary>What an op takes of a batch. The features belong to the caller's scope.</summary>
    internal IndicatorViews Views(Tensor observations) =>
        IndicatorViews.Threshold(Features(observations).ToTensorView(), _thresholds.ToTensorView());

    private static RandomIndicators Owning(Module<Tensor, Tensor> network, Tensor observations, double rate)
    {
        try
        {
            return new(network, ownsNetwork: true, observations, rate);
        }
        catch
        {
            network.Dispose();
            throw;
        }
    }

    private Tensor Run(Tensor observations)
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var features = _network.forward(observations);
        var type = features.dtype;
        if (features.shape.Length != 2 || features.shape[0] != observations.shape[0]
            || type is not (torch.ScalarType.Float32 or torch.ScalarType.BFloat16))
        {
            throw new ArgumentException(
                $"network: it makes {Batches.Describe(features)} of {observations.shape[0]} observations, not Float32 or BFloat16[n, T]");
        }

        return features.contiguous().MoveToOuterDisposeScope();
    }

    private void Require(Tensor observations)
    {
        ObjectDisposedException.ThrowIf(_thresholds.IsInvalid, this);
        RequireObservations(observations);
        if (!observations.shape.AsSpan(1).SequenceEqual(_observationShape))
        {
            throw new ArgumentException(
                $"observations: {Batches.Describe(observations)} is not [n, {string.Join(", ", _observationShape)}], as calibrated on",
                nameof(observations));
        }
    }

    private static void RequireObservations(Tensor observations)
    {
        Batches.Require(observations, nameof(observations));
        if (observations.shape.Length < 1 || observations.shape[0] < 1)
            throw new ArgumentException($"observations: {Batches.Describe(observations)} has no rows", nameof(observations));
    }

    /// <summary>Glorot's uniform initialisation, as the published network has it, from a generator of its own; no biases.</summary>
    private sealed class RandomNetwork : Module<Tensor, Tensor>
    {
        private readonly Tensor _first, _second;

        public RandomNetwork(long inputs, long hidden, long tasks, int seed, torch.Device device) : base(nameof(RandomNetwork))
        {
            using var generator = new torch.Generator((uint)seed, torch.CPU);
            register_buffer("first", _first = Glorot(inputs, hidden));
            register_buffer("second", _second = Glorot(hidden, tasks));

            Tensor Glorot(long rows, long columns)
            {
                using var scope = torch.NewDisposeScope();
                var bound = Math.Sqrt(6.0 / (rows + columns));
                return torch.rand([rows, columns], generator: generator).mul(2 * bound).sub(bound).to(device).DetachFromDisposeScope();
            }
        }

        public override Tensor forward(Tensor observations) => observations.mm(_first).relu_().mm(_second);
    }
}
