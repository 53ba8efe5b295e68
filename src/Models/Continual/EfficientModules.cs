using AuxCore.Interop;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// An adapter (Houlsby et al. 2019), beside a frozen module whose output its own is added to: s · (W₂ gelu(W₁ x + b₁) + b₂). W₂ begins as
/// 0, so at first it changes nothing. The learned s is the speed calibration of Gao et al. (ICCV 2023): adapters, LoRA and prefixes then
/// learn at comparable speed.
/// </summary>
public sealed class Adapter : Module<Tensor, Tensor>
{
    private readonly long _width;
    private readonly Linear _down, _up;
    private readonly Parameter _scale;

    /// <summary>An adapter that changes nothing yet.</summary>
    /// <param name="width">Of the tokens.</param>
    /// <param name="hidden">Of the bottleneck; 5 in the paper.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public Adapter(long width, long hidden = 5) : base(nameof(Adapter))
    {
        Sizes.RequirePositive((nameof(width), width), (nameof(hidden), hidden));
        _width = width;
        (_down, _up) = (Linear(width, hidden), Linear(hidden, width));
        init.zeros_(_down.bias!);
        init.zeros_(_up.weight);
        init.zeros_(_up.bias!);
        _scale = Tokens.Parameter(torch.ones(1));
        register_module("down", _down);
        register_module("up", _up);
        register_parameter("scale", _scale);
    }

    /// <summary>What is to be added to the frozen module's output.</summary>
    /// <param name="input">What the frozen module got: [..., width], float32.</param>
    /// <exception cref="ArgumentException">The last dimension is not the width.</exception>
    public override Tensor forward(Tensor input)
    {
        Tokens.Require(input, _width, nameof(input));
        using var scope = torch.NewDisposeScope();
        return (_up.forward(functional.gelu(_down.forward(input))) * _scale).MoveToOuterDisposeScope();
    }
}

/// <summary>
/// LoRA (Hu et al. 2022) beside a frozen linear layer whose output its own is added to: s · B A x. B begins as 0; A as a linear layer does;
/// s as in <see cref="Adapter"/>.
/// </summary>
public sealed class LowRankAdapter : Module<Tensor, Tensor>
{
    private readonly long _from;
    private readonly Linear _down, _up;
    private readonly Parameter _scale;

    /// <summary>An adapter that changes nothing yet.</summary>
    /// <param name="from">Width of the input.</param>
    /// <param name="to">Width of the output.</param>
    /// <param name="rank">Of B A; 5 in the paper.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public LowRankAdapter(long from, long to, long rank = 5) : base(nameof(LowRankAdapter))
    {
        Sizes.RequirePositive((nameof(from), from), (nameof(to), to), (nameof(rank), rank));
        _from = from;
        (_down, _up) = (Linear(from, rank, hasBias: false), Linear(rank, to, hasBias: false));
        init.zeros_(_up.weight);
        _scale = Tokens.Parameter(torch.ones(1));
        register_module("down", _down);
        register_module("up", _up);
        register_parameter("scale", _scale);
    }

    /// <summary>What is to be added to the frozen layer's output.</summary>
    /// <param name="input">What the frozen layer got: [..., from], float32.</param>
    /// <returns>[..., to].</returns>
    /// <exception cref="ArgumentException">The last dimension is not <c>from</c>.</exception>
    public override Tensor forward(Tensor input)
    {
        Tokens.Require(input, _from, nameof(input));
        using var scope = torch.NewDisposeScope();
        return (_up.forward(_down.forward(input)) * _scale).MoveToOuterDisposeScope();
    }
}

/// <summary>
/// Prefix tuning (Li and Liang 2021) with the speed calibration of Gao et al. (ICCV 2023): attention in which every query also sees learned
/// keys and values. Plain prefixes get the share λ of a joint softmax, which is small at first and slows their learning; here their share
/// is taken out of the frozen attention as before, but what they contribute has weight s, learned, in place of λ:
/// (1 − λ) · softmax(q kᵀ / √d) v + s · softmax(q pₖᵀ / √d) p_v.
/// </summary>
public sealed class PrefixAttention : Module<Tensor, Tensor, Tensor, Tensor>
{
    private readonly long _heads, _headWidth;
    private readonly Parameter _keys, _values, _keyScale, _scale;

    /// <summary>A prefix with small random keys and values.</summary>
    /// <param name="heads">Attention heads.</param>
    /// <param name="headWidth">d: the width of a head.</param>
    /// <param name="length">How many keys; 10 in the paper.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public PrefixAttention(long heads, long headWidth, long length = 10) : base(nameof(PrefixAttention))
    {
        Sizes.RequirePositive((nameof(heads), heads), (nameof(headWidth), headWidth), (nameof(length), length));
        (_heads, _headWidth) = (heads, headWidth);
        var bound = 1 / Math.Sqrt(headWidth);
        _keys = Tokens.Parameter(torch.empty(1, heads, length, headWidth).uniform_(-bound, bound));
        _values = Tokens.Parameter(torch.empty(1, heads, length, headWidth).uniform_(-bound, bound));
        (_keyScale, _scale) = (Tokens.Parameter(torch.ones(1)), Tokens.Parameter(torch.ones(1)));
        register_parameter("keys", _keys);
        register_parameter("values", _values);
        register_parameter("key_scale", _keyScale);
        register_parameter("scale", _scale);
    }

    /// <summary>Attention with the prefix.</summary>
    /// <param name="queries">[n, heads, tokens, d], float32.</param>
    /// <param name="keys">[n, heads, tokens, d], float32.</param>
    /// <param name="values">[n, heads, tokens, d], float32.</param>
    /// <returns>[n, heads, tokens, d].</returns>
    /// <exception cref="ArgumentException">A shape does not fit; the message names the tensor.</exception>
    public override Tensor forward(Tensor queries, Tensor keys, Tensor values)
    {
        Require(queries, nameof(queries), null);
        Require(keys, nameof(keys), null);
        Require(values, nameof(values), keys);
        if (keys.shape[0] != queries.shape[0])
        {
            throw new ArgumentException(
                $"keys: {TensorView.Format(keys.shape)} are not of the {queries.shape[0]} sequences of queries", nameof(keys));
        }

        using var scope = torch.NewDisposeScope();
        var scaled = queries * (1 / Math.Sqrt(_headWidth));
        var own = torch.matmul(scaled, keys.transpose(2, 3));
        var prefix = torch.matmul(scaled, (_keys * _keyScale).transpose(2, 3));
        var joint = functional.softmax(torch.cat([prefix, own], 3), 3);
        var rest = joint.narrow(3, prefix.shape[3], own.shape[3]); // sums to 1 − λ
        var seen = torch.matmul(rest, values) + torch.matmul(functional.softmax(prefix, 3), _values * _scale);
        return seen.MoveToOuterDisposeScope();
    }

    private void Require(Tensor tensor, string name, Tensor? like)
    {
        Tokens.RequireLive(tensor, name);
        var fits = tensor.dtype == torch.ScalarType.Float32 && tensor.shape.Length == 4 && tensor.shape[1] == _heads
            && tensor.shape[3] == _headWidth && (like is null || tensor.shape.AsSpan().SequenceEqual(like.shape));
        if (!fits)
        {
            throw new ArgumentException(
                $"{name}: {tensor.dtype}{TensorView.Format(tensor.shape)} is not "
                + (like is null ? $"Float32[n, {_heads}, tokens, {_headWidth}]" : $"of the keys' shape {TensorView.Format(like.shape)}"),
                name);
        }
    }
}

/// <summary>Checks before libtorch multiplies, because a wrong product would end the process; and parameters.</summary>
internal static class Tokens
{
    /// <summary>A parameter that outlives the dispose scope in which its module is made, as those of TorchSharp's modules do.</summary>
    public static Parameter Parameter(Tensor value)
    {
        var parameter = new Parameter(value);
        parameter.DetachFromDisposeScope();
        return parameter;
    }

    public static void Require(Tensor tensor, long width, string name)
    {
        RequireLive(tensor, name);
        if (tensor.dtype != torch.ScalarType.Float32 || tensor.shape.Length < 1 || tensor.shape[^1] != width)
            throw new ArgumentException($"{name}: {tensor.dtype}{TensorView.Format(tensor.shape)} is not Float32[..., {width}]", name);
    }

    public static void RequireLive(Tensor tensor, string name)
    {
        ArgumentNullException.ThrowIfNull(tensor, name);
        if (tensor.IsInvalid)
            throw new ObjectDisposedException(name, $"{name} was disposed");
    }
}
