using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.VisualTokens;

/// <summary>
/// The formulas of a <see cref="CausalDecoder"/> in plain operations over its parameters, layer by layer, with any mask: what pruned
/// decoders are held against.
/// </summary>
internal sealed class PlainDecoder(CausalDecoder decoder)
{
    private readonly Dictionary<string, Tensor> _parameters =
        decoder.named_parameters().ToDictionary(p => p.name, p => (Tensor)p.parameter);
    private readonly DecoderOptions _options = decoder.Options;

    public int Layers => _options.Layers.Count;

    /// <summary>Rotated queries and keys of a layer: [B, H, L, d].</summary>
    public (Tensor Queries, Tensor Keys) Project(int layer, Tensor hidden, Tensor positions)
    {
        var normed = Norm(hidden, $"layers.{layer}.input_norm.weight");
        return (
            Rotate(Heads(normed, layer, "q_proj", _options.Layers[layer].QueryHeads), positions),
            Rotate(Heads(normed, layer, "k_proj", _options.Layers[layer].KvHeads), positions));
    }

    /// <summary>One layer.</summary>
    /// <param name="layer">Which.</param>
    /// <param name="hidden">[B, L, D].</param>
    /// <param name="positions">int64 [B, L].</param>
    /// <param name="visible">bool [B, L]: which keys are not masked; beside that, attention is causal.</param>
    public Tensor Layer(int layer, Tensor hidden, Tensor positions, Tensor visible)
    {
        var sizes = _options.Layers[layer];
        var (batch, length) = (hidden.shape[0], hidden.shape[1]);
        var (queries, keys) = Project(layer, hidden, positions);
        var values = Heads(Norm(hidden, $"layers.{layer}.input_norm.weight"), layer, "v_proj", sizes.KvHeads);
        var group = sizes.QueryHeads / sizes.KvHeads;
        (keys, values) = (keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1));
        var mask = torch.ones([length, length], torch.@bool).tril().logical_and(visible.view(batch, 1, 1, length))
            .logical_or(torch.eye(length, dtype: torch.@bool)); // a masked row still sees itself
        var logits = torch.matmul(queries, keys.transpose(2, 3)) / Math.Sqrt(_options.HeadDim);
        var mixed = torch.matmul(logits.masked_fill(mask.logical_not(), double.NegativeInfinity).softmax(3), values);
        hidden = hidden + Linear(mixed.transpose(1, 2).reshape(batch, length, -1), $"layers.{layer}.o_proj.weight");
        var normed = Norm(hidden, $"layers.{layer}.post_attention_norm.weight");
        var gated = torch.nn.functional.silu(Linear(normed, $"layers.{layer}.gate_proj.weight"))
            * Linear(normed, $"layers.{layer}.up_proj.weight");
        return hidden + Linear(gated, $"layers.{layer}.down_proj.weight");
    }

    public Tensor Logits(Tensor hidden) => Linear(Norm(hidden, "norm.weight"), "lm_head.weight");

    private Tensor Heads(Tensor normed, int layer, string name, int heads) =>
        Linear(normed, $"layers.{layer}.{name}.weight").view(normed.shape[0], normed.shape[1], heads, _options.HeadDim).transpose(1, 2);

    private Tensor Norm(Tensor x, string weight) =>
        x / (x.square().mean([-1L], keepdim: true) + _options.NormEpsilon).sqrt() * _parameters[weight];

    private Tensor Linear(Tensor x, string weight) => torch.matmul(x, _parameters[weight].t());

    private Tensor Rotate(Tensor heads, Tensor positions)
    {
        var half = _options.HeadDim / 2;
        var frequencies = torch.tensor(
            Enumerable.Range(0, half).Select(pair => Math.Pow(_options.Rotary.Base, -2.0 * pair / _options.HeadDim)).ToArray());
        var angles = (positions.to(torch.float64).unsqueeze(-1) * frequencies).unsqueeze(1);
        var (cosines, sines) = (angles.cos().to(torch.float32), angles.sin().to(torch.float32));
        var (first, second) = (heads.narrow(3, 0, half), heads.narrow(3, half, half));
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], 3);
    }
}
