using AuxCore.Models;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Continual;

[RequiresLibtorch]
public class EfficientModulesTests
{
    [Fact]
    public void An_adapter_begins_as_nothing_and_then_is_its_formula()
    {
        using var scope = torch.NewDisposeScope();
        var adapter = new Adapter(width: 6, hidden: 3);
        var x = torch.randn(2, 5, 6);
        Assert.Equal(0, adapter.forward(x).abs().max().item<float>());

        var p = Randomised(adapter);
        var hidden = functional.gelu(x.matmul(p["down.weight"].t()) + p["down.bias"]);
        var expected = p["scale"] * (hidden.matmul(p["up.weight"].t()) + p["up.bias"]);

        AssertClose(expected, adapter.forward(x));
    }

    [Fact]
    public void LoRA_begins_as_nothing_and_then_is_its_formula()
    {
        using var scope = torch.NewDisposeScope();
        var lora = new LowRankAdapter(from: 6, to: 4, rank: 2);
        var x = torch.randn(2, 5, 6);
        Assert.Equal(0, lora.forward(x).abs().max().item<float>());

        var p = Randomised(lora);

        AssertClose(x.matmul((p["scale"] * p["up.weight"].matmul(p["down.weight"])).t()), lora.forward(x));
        Assert.Equal([2, 6], p["down.weight"].shape);
    }

    [Fact]
    public void A_prefix_takes_its_share_from_the_frozen_attention_and_gives_its_values_the_learned_weight()
    {
        using var scope = torch.NewDisposeScope();
        const int Heads = 2, Width = 4, Length = 3;
        var prefix = new PrefixAttention(Heads, Width, Length);
        var p = Randomised(prefix);
        var (q, k, v) = (torch.randn(2, Heads, 5, Width), torch.randn(2, Heads, 6, Width), torch.randn(2, Heads, 6, Width));

        // In the words of the paper: λ is the prefix's share of a joint softmax.
        var keys = torch.cat([p["keys"].expand(2, Heads, Length, Width) * p["key_scale"], k], 2);
        var joint = functional.softmax(q.matmul(keys.transpose(2, 3)) / Math.Sqrt(Width), 3);
        var share = joint.narrow(3, 0, Length).sum([3], keepdim: true);
        var expected = (1 - share) * functional.scaled_dot_product_attention(q, k, v)
            + p["scale"] * (joint.narrow(3, 0, Length) / share).matmul(p["values"].expand(2, Heads, Length, Width));

        AssertClose(expected, prefix.forward(q, k, v));
    }

    [Fact]
    public void All_parameters_get_gradients_the_scales_too()
    {
        using var scope = torch.NewDisposeScope();
        foreach (var module in (Module[])[new Adapter(6), new LowRankAdapter(6, 6), new PrefixAttention(2, 3)])
        {
            Randomised(module);
            var x = torch.randn(2, 5, 6);
            var heads = torch.randn(2, 2, 5, 3);
            var y = module switch
            {
                PrefixAttention prefix => prefix.forward(heads, heads, heads),
                Module<Tensor, Tensor> plain => plain.forward(x),
                _ => throw new InvalidOperationException(),
            };
            y.pow(2).sum().backward();
            foreach (var (name, parameter) in module.named_parameters())
                Assert.True(parameter.grad?.abs().max().item<float>() > 0, $"{module.GetName()}: {name}");
        }
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        var (adapter, lora, prefix) = (new Adapter(6), new LowRankAdapter(6, 4), new PrefixAttention(2, 3));
        var heads = torch.randn(2, 2, 5, 3);
        var gone = torch.zeros(1);
        gone.Dispose();
        foreach (var module in (Module<Tensor, Tensor>[])[adapter, lora])
        {
            foreach (var wrong in (Tensor[])[torch.randn(2, 5), torch.randn(2, 6, dtype: torch.float64), torch.tensor(1f)])
            {
                Assert.Contains("is not Float32[..., 6]", Assert.Throws<ArgumentException>(
                    () => module.forward(wrong)).Message, StringComparison.Ordinal);
            }

            Assert.Throws<ObjectDisposedException>(() => module.forward(gone));
            Assert.Throws<ArgumentNullException>(() => module.forward(null!));
        }

        Refused("queries: ", torch.randn(2, 3, 5, 3), heads, heads);
        Refused("queries: ", torch.randn(2, 2, 5, 4), heads, heads);
        Refused("keys: ", heads, torch.randn(2, 5, 3), heads);
        Refused("keys: ", heads, torch.randn(3, 2, 5, 3), torch.randn(3, 2, 5, 3));
        Refused("values: ", heads, heads, torch.randn(2, 2, 4, 3));
        Assert.Throws<ObjectDisposedException>(() => prefix.forward(heads, gone, heads));
        Assert.Throws<ArgumentOutOfRangeException>(() => new Adapter(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new LowRankAdapter(4, 4, rank: 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PrefixAttention(2, 3, length: 0));

        void Refused(string message, Tensor q, Tensor k, Tensor v) => Assert.StartsWith(
            message, Assert.Throws<ArgumentException>(() => prefix.forward(q, k, v)).Message, StringComparison.Ordinal);
    }

    private static Dictionary<string, Parameter> Randomised(Module module)
    {
        using var noGrad = torch.no_grad();
        foreach (var parameter in module.parameters())
            parameter.normal_();
        return module.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter);
    }

    private static void AssertClose(Tensor expected, Tensor actual)
    {
        Assert.Equal(expected.shape, actual.shape);
        Assert.InRange((expected - actual).abs().max().item<float>(), 0, 1e-5f * (1 + expected.abs().max().item<float>()));
    }
}
