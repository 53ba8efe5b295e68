using AuxCore.Interop;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Trains a sequential model block by block. No gradient passes from a block to the one before: each learns from its own auxiliary
/// classifier, the last one from the model's output. A block's activations are freed before the next block runs, so only one block's are
/// ever held. What a block cannot learn from later ones comes to it as an average of the next block's first layer (<see
/// cref="MomentumAuxiliaryBlock"/>).
/// <code>
/// using var trainer = new LocalTrainer(model, [2, 1, 1], heads, layers: i => MakeLayer(i));
/// using var optimizer = new AdamW(trainer.Parameters, lr: 1e-3);
/// optimizer.zero_grad(); trainer.Backward(images, labels); optimizer.step();
/// model.eval(); model.forward(images);                    // the model alone; what trained it is no part of it
/// </code>
/// </summary>
/// <remarks>
/// <para>Momentum Auxiliary Network: Su et al., ECCV 2024, arXiv 2407.05623; <c>JunhaoSu0/MAN</c>. The average moves after the backward
/// passes and before the optimiser's step, as there. There it moves block by block; here all averages move in one call at the end, which
/// is the same, because E has no further use in that step and parameters change only in the optimiser's.</para>
/// <para>The model and the optimiser stay the caller's. Not thread-safe.</para>
/// </remarks>
public sealed partial class LocalTrainer : IDisposable
{
    private readonly Sequential _model;
    private readonly Module<Tensor, Tensor>[] _layers;
    private readonly int[] _starts; // of the blocks, and the end
    private readonly MomentumAuxiliaryBlock[] _auxiliaries = [];
    private readonly LocalLearningOptions _options;
    private EmaMixer? _mixer;
    private Tensor[] _mixed = []; // what the mixer was made of
    private bool _disposed;

    /// <summary>Cuts a model into blocks.</summary>
    /// <param name="model">Layers, one after the other; <see cref="Backward"/> changes their gradients and running statistics.</param>
    /// <param name="blockSizes">How many layers each block has, from the first on; in sum all of the model's.</param>
    /// <param name="heads">
    /// The classifier of each block but the last. It gets what <see cref="LocalLearningOptions.Input"/> says, and what it says goes to the
    /// loss. From here on they are the trainer's to dispose.
    /// </param>
    /// <param name="options">Default: the Momentum Auxiliary Network with m = 0.995.</param>
    /// <param name="layers">
    /// Makes a new layer like the model's layer of that index; asked for the first layers of blocks, for copies. What weights it has does
    /// not matter. Needed for every input but <see cref="AuxiliaryInput.Output"/>.
    /// </param>
    /// <param name="example">
    /// A batch of the model's input, to learn the number of channels from; needed for <see cref="AuxiliaryInput.ScaledMomentum"/>. It runs
    /// through the model once, in evaluation mode.
    /// </param>
    /// <exception cref="ArgumentException">
    /// Sizes or heads do not fit the model, a layer is no module from tensor to tensor, or what <paramref name="layers"/> made is not like
    /// the model's. The heads are still the caller's.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of range.</exception>
    public LocalTrainer(
        Sequential model, IReadOnlyList<int> blockSizes, IReadOnlyList<Module<Tensor, Tensor>> heads, LocalLearningOptions? options = null,
        Func<int, Module<Tensor, Tensor>>? layers = null, Tensor? example = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(blockSizes);
        ArgumentNullException.ThrowIfNull(heads);
        _options = options ?? new();
        _options.Check(nameof(options));
        _model = model;
        _layers = LayersOf(model);
        _starts = StartsOf(blockSizes, _layers.Length);
        Check(heads, layers, example);
        var channels = example is null ? null : ChannelsOf(example);
        var auxiliaries = new List<MomentumAuxiliaryBlock>();
        try
        {
            for (var i = 0; i < heads.Count; i++)
            {
                var (block, at) = (i, _starts[i + 1]);
                auxiliaries.Add(new(
                    _options, layers is null ? null : _layers[at], () => layers!(at), heads[i],
                    () => channels!(block)));
            }

            _auxiliaries = [.. auxiliaries];
            FollowTensors();
        }
        catch
        {
            foreach (var auxiliary in auxiliaries) // but not their heads
            {
                auxiliary.Copy?.Dispose();
                auxiliary.Momentum?.Dispose();
            }

            throw;
        }
    }

    /// <summary>How many blocks there are.</summary>
    public int BlockCount => _starts.Length - 1;

    /// <summary>The auxiliary networks of all blocks but the last.</summary>
    public IReadOnlyList<MomentumAuxiliaryBlock> Auxiliaries => _auxiliaries;

    /// <summary>Backward passes so far, with as many updates of the averages.</summary>
    public long Steps { get; private set; }

    /// <summary>Where averages are updated: Auto takes what fits the tensors' memory; a named backend runs or throws.</summary>
    public AuxBackend Backend { get; set; }

    /// <summary>What an optimiser is made for: parameters of the model and of auxiliary networks that require grad, by name.</summary>
    public IEnumerable<(string name, Parameter parameter)> Parameters => State()
        .Where(entry => entry.Tensor is Parameter { requires_grad: true })
        .Select(entry => (entry.Name, (Parameter)entry.Tensor));

    /// <summary>Sets model and auxiliary networks to training or evaluation mode.</summary>
    /// <param name="on">Whether to training mode.</param>
    public void Train(bool on = true)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        _model.train(on);
        foreach (var auxiliary in _auxiliaries)
            auxiliary.train(on);
    }

    /// <summary>
    /// One pass: each block forward, its loss, its gradients, its activations freed, then the next; at the end the averages move. Gradients
    /// are added to what parameters have, as by <c>backward()</c>.
    /// </summary>
    /// <param name="input">The model's input; gets no gradient.</param>
    /// <param name="target">What the losses compare with.</param>
    /// <returns>The loss of each block, [<see cref="BlockCount"/>], without history.</returns>
    /// <exception cref="ArgumentException">
    /// What a head says does not fit the target, or a loss is no scalar; the message names the block. The averages are as they were;
    /// gradients of earlier blocks were added.
    /// </exception>
    /// <exception cref="InvalidOperationException">Grad mode is off.</exception>
    /// <exception cref="BackendUnavailableException">The named <see cref="Backend"/> does not run here; gradients were added.</exception>
    /// <exception cref="ObjectDisposedException">The trainer or a tensor was disposed.</exception>
    public Tensor Backward(Tensor input, Tensor target)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        RequireLive(input, nameof(input));
        RequireLive(target, nameof(target));
        if (!torch.is_grad_enabled())
            throw new InvalidOperationException("LocalTrainer.Backward computes gradients: call it outside of torch.no_grad().");
        FollowTensors();

        using var scope = torch.NewDisposeScope();
        var losses = new Tensor[BlockCount];
        var x = input.detach();
        for (var block = 0; block < BlockCount; block++)
        {
            var (output, loss) = Pass(block, x, target);
            x.Dispose();
            (x, losses[block]) = (output, loss);
        }

        if (_mixer is not null && _options.Momentum < 1) // at 1 nothing moves, whatever the parameters are
        {
            _mixer.Backend = Backend;
            _mixer.Update(_options.Momentum);
        }

        Steps++;
        return torch.stack(losses).MoveToOuterDisposeScope();
    }

    /// <summary>Frees auxiliary networks, heads and averages; the model stays.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _mixer?.Dispose();
        foreach (var auxiliary in _auxiliaries)
            auxiliary.Dispose();
    }

    // What it returns has no history, and backward() has let go of what it saved: when the scope ends, the block's activations are free.
    private (Tensor Output, Tensor Loss) Pass(int block, Tensor x, Tensor target)
    {
        using var scope = torch.NewDisposeScope();
        var output = Forward(block, x);
        var said = block < _auxiliaries.Length ? _auxiliaries[block].forward(output) : output;
        var loss = _options.Loss is { } custom ? custom(said, target) : CrossEntropy(block, said, target);
        if (loss is null || loss.numel() != 1)
        {
            throw new ArgumentException(
                $"options.Loss: block {block} got {(loss is null ? "null" : TensorView.Format(loss.shape))} from it, not a scalar");
        }

        if (loss.requires_grad) // a block that is frozen, head and all, has nothing to learn
            loss.backward();
        return (output.detach().MoveToOuterDisposeScope(), loss.detach().view([]).MoveToOuterDisposeScope());
    }

    private Tensor Forward(int block, Tensor x)
    {
        using var scope = torch.NewDisposeScope();
        for (var layer = _starts[block]; layer < _starts[block + 1]; layer++)
        {
            var next = _layers[layer].forward(x);
            if (layer > _starts[block] && !ReferenceEquals(next, x))
                x.Dispose(); // autograd keeps what it needs
            x = next;
        }

        return x.MoveToOuterDisposeScope();
    }

    private static Tensor CrossEntropy(int block, Tensor logits, Tensor target)
    {
        if (logits.shape.Length != 2 || !logits.is_floating_point() || target.dtype != torch.ScalarType.Int64 || target.shape.Length != 1
            || target.shape[0] != logits.shape[0])
        {
            throw new ArgumentException(
                $"target: {target.dtype}{TensorView.Format(target.shape)} are not the classes, int64, of block {block}'s logits "
                + $"{logits.dtype}{TensorView.Format(logits.shape)}", nameof(target));
        }

        return functional.cross_entropy(logits, target);
    }

    // Modules that were moved to another device or type have new parameters, the old ones disposed.
    private void FollowTensors()
    {
        if (!_options.HasMomentum)
            return;
        var pairs = _auxiliaries.SelectMany(auxiliary => auxiliary.Pairs()).ToArray();
        Tensor[] now = [.. pairs.Select(pair => pair.Source), .. pairs.Select(pair => pair.Average)];
        if (_mixer is not null && now.Zip(_mixed).All(pair => ReferenceEquals(pair.First, pair.Second)))
            return;
        var mixer = pairs.Length > 0 ? new EmaMixer(pairs) : null;
        _mixer?.Dispose();
        (_mixer, _mixed) = (mixer, now);
    }

    private static void RequireLive(Tensor tensor, string name)
    {
        ArgumentNullException.ThrowIfNull(tensor, name);
        if (tensor.IsInvalid)
            throw new ObjectDisposedException(name, $"{name} was disposed");
    }
}
