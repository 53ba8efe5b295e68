using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>Which sets of states the tasks are.</summary>
internal enum TaskSets
{
    /// <summary>A set for each state: what is learned is the whole successor measure.</summary>
    States,

    /// <summary>Sets of random networks that hold a tenth of the states each, as in proto-value networks.</summary>
    Random,
}

/// <summary>
/// Proto-value functions of four rooms, learned from a random walk by <see cref="SuccessorMeasureObjective"/>: wide features and the
/// heads of many tasks. The four strongest directions of their predictions are held against the four smoothest eigenvectors of the
/// transition matrix, one mode a room.
/// </summary>
internal sealed class ProtoValues : IDisposable
{
    public const int Modes = 4, Features = 32, RandomSets = 1000, Batch = 256, Transitions = Walkers * WalkSteps;
    public const double Discount = 0.9, Rate = 0.1;
    private const int Walkers = 32, WalkSteps = 1000, TimeLimit = 50;
    private const double HighRate = 0.01, LowRate = 1e-4;

    private readonly Tensor _observations = torch.eye(FourRooms.States);
    private readonly ReplayBuffer _buffer;
    private readonly Encoder _encoder;
    private readonly RandomIndicators? _indicators;
    private readonly SuccessorMeasureObjective _objective;
    private readonly torch.optim.Optimizer _optimizer;
    private readonly Tensor _stateBits;

    public ProtoValues(TaskSets tasks, int seed, AuxBackend backend)
    {
        _buffer = new(Transitions, seed);
        _buffer.Collect(new TabularEnvironment(FourRooms.World, Walkers, seed, TimeLimit), WalkSteps);
        _encoder = new(seed);
        var settings = new SuccessorMeasureSettings { Features = Features, Actions = FourRooms.Actions, Seed = seed, TargetDecay = 0.95 };
        if (tasks == TaskSets.Random)
            _indicators = RandomIndicators.Calibrate(_observations, RandomSets, Rate, seed: seed);
        _objective = _indicators is null
            ? new(_encoder, FourRooms.States, settings) { Backend = backend }
            : new(_encoder, _indicators, settings) { Backend = backend };
        _stateBits = StateBits();
        _optimizer = torch.optim.Adam(_objective.Parameters(), HighRate);
    }

    /// <summary>The exact modes: [states, 4], orthonormal, smoothest first.</summary>
    public static double[,] ExactModes()
    {
        using var scope = torch.NewDisposeScope();
        Tensor p = torch.tensor(FourRooms.World.Transitions(), [FourRooms.States, FourRooms.States], torch.float64);
        return Matrix(torch.linalg.eigh(p).Item2.narrow(1, FourRooms.States - Modes, Modes).flip(1));
    }

    /// <summary>Trains; the learning rate falls from 0.01 to 0.0001, each step by the same factor.</summary>
    public void Train(int steps, Action<double> progress, CancellationToken cancellation)
    {
        for (int step = 0; step < steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = torch.NewDisposeScope();
            foreach (var group in _optimizer.ParamGroups)
                group.LearningRate = HighRate * Math.Pow(LowRate / HighRate, step / (double)steps);
            _optimizer.zero_grad();
            Loss().backward();
            _optimizer.step();
            _objective.UpdateTarget();
            if (step % 20 == 0) progress(step / (double)steps);
        }
    }

    /// <summary>The learned modes: the four strongest left singular vectors of the predictions, [states, 4].</summary>
    public double[,] LearnedModes()
    {
        using var scope = torch.NewDisposeScope();
        Tensor values = _objective.Values(_observations).to(torch.float64).mean([2]); // of the uniform policy: over actions
        return Matrix(torch.linalg.svd(values).Item1.narrow(1, 0, Modes));
    }

    /// <summary>The largest difference between two backends in the loss and the gradients of one batch, relative to the largest.</summary>
    public double Disagreement(AuxBackend backend, AuxBackend other)
    {
        using var scope = torch.NewDisposeScope();
        TransitionBatch batch = _buffer.Sample(Batch, _observations);
        AuxBackend before = _objective.Backend;
        Tensor[] one = Gradients(backend), two = Gradients(other);
        _objective.Backend = before;
        return one.Zip(two).Max(pair =>
            ((pair.First - pair.Second).abs().max() / pair.Second.abs().max()).to(torch.float64).item<double>());

        Tensor[] Gradients(AuxBackend which)
        {
            _objective.Backend = which;
            _optimizer.zero_grad();
            Tensor loss = Loss(batch);
            loss.backward();
            return [loss.detach(), .. _objective.Parameters().Select(parameter => parameter.grad!.clone())];
        }
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        _objective.Dispose();
        _indicators?.Dispose();
        _encoder.Dispose();
        _stateBits.Dispose();
        _observations.Dispose();
    }

    private Tensor Loss() => Loss(_buffer.Sample(Batch, _observations));

    private Tensor Loss(TransitionBatch batch) => _indicators is null
        ? _objective.Loss(batch, _stateBits.index_select(0, batch.Observations.argmax(1)), Discount)
        : _objective.Loss(batch, Discount);

    private static Tensor StateBits()
    {
        var bits = new byte[FourRooms.States, Indicators.BytesPerState(FourRooms.States)];
        for (int state = 0; state < FourRooms.States; state++) bits[state, state / 8] = (byte)(1 << state % 8);
        return torch.tensor(bits).DetachFromDisposeScope();
    }

    private static double[,] Matrix(Tensor tensor)
    {
        double[] values = tensor.contiguous().data<double>().ToArray();
        var matrix = new double[tensor.shape[0], tensor.shape[1]];
        Buffer.BlockCopy(values, 0, matrix, 0, values.Length * sizeof(double));
        return matrix;
    }

    /// <summary>A table of features, from a generator of its own.</summary>
    private sealed class Encoder : torch.nn.Module<Tensor, Tensor>
    {
        private readonly TorchSharp.Modules.Parameter _table;

        public Encoder(int seed) : base(nameof(Encoder))
        {
            using var generator = new torch.Generator((ulong)seed, torch.CPU);
            _table = new(torch.randn([FourRooms.States, Features], generator: generator) / Math.Sqrt(Features));
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) => input.matmul(_table);
    }
}
