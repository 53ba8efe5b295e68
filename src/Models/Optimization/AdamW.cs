using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using TorchSharp.Modules;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// AdamW (Loshchilov and Hutter 2019), or Adam with an L2 penalty, over all parameters in one pass; the averages of an <see
/// cref="EmaModel"/> can move in the same pass. It takes the place of <c>torch.optim.AdamW</c>, with its parameters, groups and
/// learning-rate schedulers.
/// <code>
/// using var ema = new EmaModel(model, EmaSchedule.HalfLife(steps: 500));
/// using var optimizer = new AdamW(model.parameters(), lr: 1e-3, weight_decay: 0.05) { Averages = ema, MaxGradientNorm = 1 };
/// optimizer.zero_grad(); loss.backward(); optimizer.step();
/// </code>
/// </summary>
/// <remarks>
/// <para>Formulas and arithmetic: <see cref="AdamWUpdate"/>. Before a step, gradients are multiplied by the inverse of the loss scale and
/// of the number of accumulated passes, then clipped by their global norm, all in one factor. Moments are float32. Parameters of bfloat16
/// or float16 have a float32 master each, which takes the steps; where a parameter was written to, its master begins from that
/// value.</para>
/// <para>A parameter takes part in a step if it requires grad and has a gradient; each counts its own steps, as in PyTorch. What does not
/// take part keeps its value and its moments. A frozen parameter is left alone also where it still has a gradient from before.</para>
/// <para>Parameters that <c>model.to(…)</c> retyped between float32, bfloat16 and float16 are followed at the next step, moments and all,
/// if the optimiser was given <c>model.parameters()</c> itself and not a list of it. A changed number or shape is an error. All checks come
/// before the first write: after an exception, parameters, moments and averages are as they were.</para>
/// <para>AMSGrad is not offered. Steps write memory directly and do not raise autograd's version counters: do not step between the forward
/// and the backward pass of one graph. Not thread-safe.</para>
/// </remarks>
public sealed partial class AdamW : OptimizerHelper, torch.optim.IBetas
{
    private readonly List<AdamWState> _states = [];
    private readonly List<FlatTensors> _moments = [];
    private readonly AverageLinks _links = new();
    private AdamWGroup? _group;   // null: to be made anew from the parameters
    private int[] _settingsOf = [];
    private double? _maxGradientNorm;
    private NonFiniteGradients _nonFinite;
    private int _accumulationSteps = 1;
    private int _pending;         // backward passes since the last step, where several are accumulated
    private bool _disposed;

    /// <summary>An optimiser of one group of parameters.</summary>
    /// <param name="parameters">A module's <c>parameters()</c>: float32, bfloat16 or float16, contiguous, each once, on one device.</param>
    /// <param name="lr">The learning rate, at least 0.</param>
    /// <param name="beta1">The decay of the first moment, within [0, 1).</param>
    /// <param name="beta2">The decay of the second moment, within [0, 1).</param>
    /// <param name="eps">Added to the root of the second moment, at least 0.</param>
    /// <param name="weight_decay">At least 0; <see cref="Decoupled"/> says how it acts.</param>
    /// <param name="maximize">Whether to follow the gradient instead of descending.</param>
    /// <exception cref="ArgumentException">A parameter is of another type, not contiguous, repeated, or overlaps another.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A hyper-parameter is NaN or out of its range.</exception>
    /// <exception cref="BackendUnavailableException">No backend runs on the parameters' device.</exception>
    /// <exception cref="ObjectDisposedException">A parameter was disposed.</exception>
    public AdamW(
        IEnumerable<Parameter> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8,
        double weight_decay = 0, bool maximize = false)
        : this([new ParamGroup(parameters)], lr, beta1, beta2, eps, weight_decay, maximize)
    {
    }

    /// <summary>An optimiser of one group of parameters with names, which messages and state files then use.</summary>
    /// <inheritdoc cref="AdamW(IEnumerable{Parameter}, double, double, double, double, double, bool)"/>
    public AdamW(
        IEnumerable<(string name, Parameter parameter)> parameters, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999,
        double eps = 1e-8, double weight_decay = 0, bool maximize = false)
        : this([new ParamGroup(parameters)], lr, beta1, beta2, eps, weight_decay, maximize)
    {
    }

    /// <summary>An optimiser of several groups of parameters.</summary>
    /// <param name="groups">Groups; what is null in their options is taken from the parameters that follow.</param>
    /// <param name="lr">The learning rate, at least 0.</param>
    /// <param name="beta1">The decay of the first moment, within [0, 1).</param>
    /// <param name="beta2">The decay of the second moment, within [0, 1).</param>
    /// <param name="eps">Added to the root of the second moment, at least 0.</param>
    /// <param name="weight_decay">At least 0; <see cref="Decoupled"/> says how it acts.</param>
    /// <param name="maximize">Whether to follow the gradient instead of descending.</param>
    /// <inheritdoc cref="AdamW(IEnumerable{Parameter}, double, double, double, double, double, bool)" path="/exception"/>
    public AdamW(
        IEnumerable<ParamGroup> groups, double lr = 1e-3, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8,
        double weight_decay = 0, bool maximize = false)
    {
        ArgumentNullException.ThrowIfNull(groups);
        var defaults = new Options
        {
            LearningRate = lr, InitialLearningRate = lr, Beta1 = beta1, Beta2 = beta2, Epsilon = eps, WeightDecay = weight_decay,
            Maximize = maximize,
        };
        Settings(defaults, step: 1).Check("options");
        _defaults = defaults;
        _parameter_groups = [];
        try
        {
            foreach (var group in groups)
                add_param_group(group);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>
    /// True (AdamW): weight decay shrinks the parameter by itself. False (Adam): it is an L2 penalty, added to the gradient.
    /// </summary>
    public bool Decoupled { get; init; } = true;

    /// <summary>The greatest 2-norm of all gradients together; greater ones are scaled down to it. Null for no clipping.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The value is not above 0.</exception>
    public double? MaxGradientNorm
    {
        get => _maxGradientNorm;
        set
        {
            if (value is { } norm && !(norm > 0 && double.IsFinite(norm)))
                throw new ArgumentOutOfRangeException(nameof(value), value, "A gradient's greatest norm is finite and above 0.");
            _maxGradientNorm = value;
        }
    }

    /// <summary>What to do where a gradient is NaN or infinite; <see cref="Scaler"/>, where there is one, has its own answer.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The value is none of the enumeration.</exception>
    public NonFiniteGradients NonFinite
    {
        get => _nonFinite;
        set => _nonFinite = Enum.IsDefined(value) ? value : throw new ArgumentOutOfRangeException(nameof(value), value, "Not a policy.");
    }

    /// <summary>
    /// The scale of the loss, or null. With it, a step whose gradients are not finite is skipped and lowers the scale.
    /// </summary>
    public GradientScaler? Scaler { get; set; }

    /// <summary>
    /// n: only each n-th call of <see cref="step"/> steps, by the mean of the gradients of n backward passes; <see cref="zero_grad()"/>
    /// keeps the gradients in between.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The value is below 1.</exception>
    /// <exception cref="InvalidOperationException">Passes are being accumulated.</exception>
    public int AccumulationSteps
    {
        get => _accumulationSteps;
        set
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(value, 1);
            RequireNothingPending(nameof(AccumulationSteps));
            _accumulationSteps = value;
        }
    }

    /// <summary>
    /// Averages that move in the optimiser's pass, so that <see cref="EmaModel.Update"/> is not called any longer: the bits are the same.
    /// What the averages have beside this optimiser's parameters is updated as well. At most four schedules, in float32, where the
    /// parameters are; the optimiser does not dispose the averages.
    /// </summary>
    /// <exception cref="ArgumentException">
    /// There are more averages than one pass carries, or they are stored in another way; call <see cref="EmaModel.Update"/> then.
    /// </exception>
    public EmaModel? Averages
    {
        get => _links.Averages;
        set
        {
            if (value?.DirectAverageCount > AdamWUpdate.MostAverages)
                throw new ArgumentException(
                    $"Averages: {value.DirectAverageCount} averages; one pass carries {AdamWUpdate.MostAverages} at most", nameof(value));
            if (value?.WhyNotFused is { } reason)
                throw new ArgumentException($"Averages: they {reason}; call their Update after each step instead", nameof(value));
            _links.Averages = value;
            _group = null;
        }
    }

    /// <summary>Where steps run: Auto takes what fits the parameters' memory; a named backend runs or throws.</summary>
    public AuxBackend Backend { get; set; }

    /// <summary>Steps taken; those that were skipped do not count.</summary>
    public long Steps { get; private set; }

    /// <summary>Steps that were skipped because a gradient was not finite.</summary>
    public long SkippedSteps { get; private set; }

    /// <summary>Steps at which a gradient was not finite, whatever was done then, as far as gradients were searched.</summary>
    public long NonFiniteSteps { get; private set; }

    /// <summary>The 2-norm of the last step's gradients, unscaled, before clipping; NaN where nothing asked for it.</summary>
    public double LastGradientNorm { get; private set; } = double.NaN;

    /// <summary>β₁ and β₂: reading gives the defaults, writing changes them and those of all groups.</summary>
    public (double, double) Betas
    {
        get => (Defaults.Beta1!.Value, Defaults.Beta2!.Value);
        set
        {
            (Defaults.Beta1, Defaults.Beta2) = value;
            foreach (var group in _parameter_groups.Cast<ParamGroup>())
                group.Betas = value;
        }
    }

    /// <summary>One step of all parameters that have a gradient, and of <see cref="Averages"/>.</summary>
    /// <param name="closure">Computes the loss and its gradients, before the step; optional.</param>
    /// <returns>What the closure returned, or null.</returns>
    /// <exception cref="ArgumentException">
    /// A gradient is sparse or does not fit its parameter, or the parameters changed in number or shape, or to a type that cannot be
    /// stepped.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">A group's hyper-parameter is out of its range.</exception>
    /// <exception cref="NonFiniteGradientException">A gradient is not finite, and <see cref="NonFinite"/> says to throw.</exception>
    /// <exception cref="InvalidOperationException">The averages are swapped into the model.</exception>
    /// <exception cref="BackendUnavailableException">The named <see cref="Backend"/> does not run here.</exception>
    /// <exception cref="ObjectDisposedException">The optimiser was disposed, or a parameter that nothing replaced.</exception>
    public override Tensor? step(Func<Tensor>? closure = null)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Tensor? loss = null;
        if (closure is not null)
        {
            using var grad = torch.enable_grad();
            loss = closure();
        }

        if (_pending + 1 < AccumulationSteps)
        {
            _pending++;
            return loss;
        }

        _pending = 0;
        Step();
        return loss;
    }

    /// <summary>Makes all gradients zero, in place. Between accumulated passes it does nothing.</summary>
    public override void zero_grad() => zero_grad(set_to_none: false);

    /// <summary>Makes all gradients zero, or takes them away. Between accumulated passes it does nothing.</summary>
    /// <param name="set_to_none">
    /// Whether to take them away: the next backward pass then writes them instead of adding to them, which is faster.
    /// </param>
    public void zero_grad(bool set_to_none)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_pending > 0)
            return;
        FollowReplaced();
        foreach (var state in _states)
            ParameterGradients.Clear(state.Parameter, state.Place, set_to_none);
        GC.KeepAlive(_states);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (!disposing || _disposed)
            return;
        _disposed = true;
        _group?.Dispose();
        _links.Dispose();
        foreach (var state in _states)
            state.Free();
        foreach (var moments in _moments)
            moments.Dispose();
    }

    private Options Defaults => (Options)_defaults;

    private AdamWSettings Settings(Options options, long step) => new()
    {
        Step = step,
        LearningRate = options.LearningRate!.Value,
        Beta1 = options.Beta1!.Value,
        Beta2 = options.Beta2!.Value,
        Epsilon = options.Epsilon!.Value,
        WeightDecay = options.WeightDecay!.Value,
        Maximize = options.Maximize!.Value,
        Decoupled = Decoupled,
    };

    private void RequireNothingPending(string operation)
    {
        if (_pending > 0)
            throw new InvalidOperationException(
                $"{operation} between accumulated passes ({_pending} of {AccumulationSteps}): call it after the step");
    }
}
