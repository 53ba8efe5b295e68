using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests;

[RequiresLibtorch]
public sealed class CausalDecoderTests
{
    public static TheoryData<bool, bool, bool> Variants => new()
    {
        { false, false, false }, { true, false, false }, { false, true, false }, { false, false, true }, { true, true, true },
    };

    [Theory]
    [MemberData(nameof(Variants))]
    public void Logits_are_those_of_plain_loops_in_double(bool biases, bool norms, bool tied)
    {
        using var scope = torch.NewDisposeScope();
        var options = TinyDecoder.Options(biases, norms, tied);
        using var model = TinyDecoder.Model(options);
        var ids = TinyDecoder.Tokens(2, 9);

        var logits = model.forward(ids);

        var plain = new PlainDecoder(PlainDecoder.WeightsOf(model), options);
        for (var b = 0; b < 2; b++)
            Near(plain.Logits(ids[b].data<long>().ToArray()), logits[b]);
    }

    // What lies between two numbers of bfloat16 may be rounded to either, and rounds otherwise what follows; float32 would be 1e-6 off.
    [Theory]
    [MemberData(nameof(Variants))]
    public void Products_with_weights_in_bfloat16_take_and_give_bfloat16_and_all_else_is_float32(bool biases, bool norms, bool tied)
    {
        using var scope = torch.NewDisposeScope();
        var options = TinyDecoder.Options(biases, norms, tied) with { WeightType = torch.ScalarType.BFloat16 };
        using var model = TinyDecoder.Model(options);
        var ids = TinyDecoder.Tokens(1, 9);
        var weights = PlainDecoder.WeightsOf(model);

        var logits = model.forward(ids);

        Assert.Equal(torch.ScalarType.Float32, logits.dtype);
        foreach (var (name, parameter) in model.named_parameters())
        {
            Assert.Equal(
                name.Contains("norm", StringComparison.Ordinal) ? torch.ScalarType.Float32 : torch.ScalarType.BFloat16, parameter.dtype);
        }

        var rounded = Deviation(new PlainDecoder(weights, options));
        var exact = Deviation(new PlainDecoder(weights, options with { WeightType = torch.ScalarType.Float32 }));
        Assert.True(rounded < 0.01 && exact > 1e-3, $"{rounded}; without rounding {exact}");

        double Deviation(PlainDecoder plain)
        {
            double[] wanted = [.. plain.Logits(ids[0].data<long>().ToArray()).SelectMany(row => row)];
            var off = wanted.Zip(logits.data<float>().ToArray(), (want, got) => (want - got) * (want - got)).Sum();
            return Math.Sqrt(off / wanted.Sum(want => want * want));
        }
    }

    [Fact]
    public void Gradients_pass_through_products_in_bfloat16()
    {
        using var scope = torch.NewDisposeScope();
        var options = TinyDecoder.Options(biases: true, norms: true);
        using var half = TinyDecoder.Model(options with { WeightType = torch.ScalarType.BFloat16 });
        using var whole = TinyDecoder.Model(options);
        using (torch.no_grad())
        {
            foreach (var (to, from) in whole.parameters().Zip(half.parameters()))
                to.copy_(from);
        }

        var ids = TinyDecoder.Tokens(2, 6);
        foreach (var model in (CausalDecoder[])[half, whole])
            model.forward(ids).log_softmax(-1).select(2, 3).mean().neg().backward();

        foreach (var ((name, of), (_, exact)) in half.named_parameters().Zip(whole.named_parameters()))
        {
            var (got, wanted) = (of.grad!.to(torch.float32), exact.grad!);
            var off = (got - wanted).norm().item<float>() / wanted.norm().item<float>();
            Assert.True(off < 0.1 || wanted.norm().item<float>() < 1e-6, $"{name}: {off}");
        }
    }

    [Fact]
    public void Positions_may_have_gaps()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(1, 4);
        int[] positions = [3, 4, 90, 1000];

        var logits = model.forward(ids, torch.tensor(positions, torch.int64).unsqueeze(0));

        Near(new PlainDecoder(PlainDecoder.WeightsOf(model), model.Options).Logits(ids[0].data<long>().ToArray(), positions), logits[0]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Masked_padding_changes_no_logits_and_no_gradients_on_either_side(bool left)
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(1, 5);
        var padding = torch.full(new long[] { 1, 3 }, 2, torch.int64);
        var real = torch.ones(1, 5, torch.@bool);
        var masked = torch.zeros(1, 3, torch.@bool);
        var positions = left ? torch.cat([torch.zeros(1, 3, torch.int64), torch.arange(5).unsqueeze(0)], 1) : null;

        var plain = model.forward(ids);
        plain.square().sum().backward();
        var wanted = Gradients(model);
        model.zero_grad();
        var padded = model.forward(
            torch.cat(left ? [padding, ids] : [ids, padding], 1), positions, torch.cat(left ? [masked, real] : [real, masked], 1));
        var some = padded.narrow(1, left ? 3 : 0, 5);
        some.square().sum().backward();

        Assert.True(padded.isfinite().all().item<bool>());
        Assert.InRange(TinyDecoder.Distance(plain, some), 0, 1e-5);
        foreach (var (want, got) in wanted.Zip(Gradients(model)))
            Assert.InRange(TinyDecoder.Distance(want, got), 0, 1e-3);
    }

    [Fact]
    public void Gradients_are_those_of_differences()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model(TinyDecoder.Options(biases: true, norms: true));
        var ids = TinyDecoder.Tokens(2, 6);
        Loss().backward();
        var checkedCount = 0;
        foreach (var (name, parameter) in model.named_parameters())
        {
            var direction = parameter.grad!.clone();
            var length = direction.square().sum().item<float>();
            if (length == 0)
                continue;
            const double Step = 1e-3;
            var unit = direction / Math.Sqrt(length);
            double Along(double step)
            {
                using var inner = torch.NewDisposeScope();
                using var noGrad = torch.no_grad();
                parameter.add_(unit * step);
                var loss = Loss().item<float>();
                parameter.sub_(unit * step);
                return loss;
            }

            var difference = (Along(Step) - Along(-Step)) / (2 * Step);
            var error = Math.Abs(difference - Math.Sqrt(length));
            Assert.True(error <= 0.05 * Math.Sqrt(length) + 2e-3, $"{name}: {difference}, {Math.Sqrt(length)}");
            checkedCount++;
        }

        Assert.True(checkedCount > 20);

        Tensor Loss() => model.forward(ids).log_softmax(-1).select(2, 3).mean().neg();
    }

    [Fact]
    public void Embeddings_of_the_tokens_give_the_same_logits()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(2, 5);

        Assert.Equal(0, TinyDecoder.Distance(model.forward(ids), model.ForwardEmbeddings(model.Embed(ids))));
    }

    [Theory]
    [InlineData(torch.ScalarType.Float32)]
    [InlineData(torch.ScalarType.BFloat16)]
    public void A_step_of_training_leaves_no_tensor_behind(torch.ScalarType type)
    {
        using var model = TinyDecoder.Model(TinyDecoder.Options(biases: true, norms: true) with { WeightType = type });
        model.forward(TinyDecoder.Tokens(2, 5)).sum().backward(); // makes the gradients

        TensorLeaks.None(() =>
        {
            using var scope = torch.NewDisposeScope();
            model.forward(TinyDecoder.Tokens(2, 5)).sum().backward();
        });
    }

    [Fact]
    public void Hooks_read_what_attention_reads_and_may_drop_rows()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        var ids = TinyDecoder.Tokens(1, 6);
        var hook = new Dropping(after: 0, keep: [0, 2, 3, 5]);
        Tensor pruned;
        using (model.AddHook(hook))
            pruned = model.forward(ids);

        Assert.Equal([6L, 4, 4], hook.RowsOfLayers);
        Assert.Equal([1, 4, 6, 32], hook.FirstQueries!);
        Assert.Equal([1, 4, TinyDecoder.Vocabulary], pruned.shape);
        Assert.Equal(6, model.forward(ids).shape[1]); // the hook is gone
    }

    [Fact]
    public void A_hook_that_adds_rows_or_forgets_positions_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();
        foreach (var (replace, words) in ((Func<DecoderRows, DecoderRows>, string)[])
        [
            (rows => new(torch.cat([rows.Hidden, rows.Hidden], 1), torch.cat([rows.Positions, rows.Positions], 1)), "may drop rows"),
            (rows => rows with { Hidden = rows.Hidden.narrow(1, 0, 2) }, "Positions"),
            (_ => null!, "no rows"),
        ])
        {
            using (model.AddHook(new Replacing(replace)))
            {
                var error = Assert.Throws<ArgumentException>(() => model.forward(TinyDecoder.Tokens(1, 4)));
                Assert.Contains(words, error.Message, StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void Wrong_tokens_are_refused_before_libtorch_sees_them()
    {
        using var scope = torch.NewDisposeScope();
        using var model = TinyDecoder.Model();

        Assert.Contains("within 0 and 22", Assert.Throws<ArgumentOutOfRangeException>(
            () => model.forward(torch.tensor(new long[,] { { 0, 23 } }))).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => model.forward(torch.tensor(new long[,] { { -1, 2 } })));
        Assert.Contains("int64", Assert.Throws<ArgumentException>(
            () => model.forward(torch.ones(1, 2))).Message, StringComparison.Ordinal);
        Assert.Contains("[B, L, D]", Assert.Throws<ArgumentException>(
            () => model.forward(torch.tensor(new long[] { 1, 2 }))).Message, StringComparison.Ordinal);
        Assert.Contains("24]", Assert.Throws<ArgumentException>(
            () => model.ForwardEmbeddings(torch.zeros(1, 2, 23))).Message, StringComparison.Ordinal);
        Assert.Contains("Positions", Assert.Throws<ArgumentException>(
            () => model.forward(TinyDecoder.Tokens(1, 3), torch.zeros(1, 2, torch.int64))).Message, StringComparison.Ordinal);
        Assert.Contains("KeyMask", Assert.Throws<ArgumentException>(
            () => model.forward(TinyDecoder.Tokens(1, 3), null, torch.ones(1, 3))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Wrong_options_are_refused_by_name()
    {
        var good = TinyDecoder.Options();
        foreach (var (options, words) in ((DecoderOptions, string)[])
        [
            (good with { Layers = [new(4, 3, 8)] }, "4 query heads are not a multiple of 3"),
            (good with { Layers = [] }, "there are none"),
            (good with { Layers = [new(4, 0, 8)] }, "Layers[0].KvHeads"),
            (good with { HeadDim = 31 }, "31"),
            (good with { WeightType = torch.ScalarType.Float16 }, "WeightType: Float16 is neither Float32 nor BFloat16"),
            (good with { NormEpsilon = double.NaN }, "NormEpsilon"),
            (good with { Rotary = new() { Layout = Kernels.RotaryLayout.Pairs } }, "by halves"),
        ])
        {
            var error = Assert.ThrowsAny<ArgumentException>(() => new CausalDecoder(options));
            Assert.Contains(words, error.Message, StringComparison.Ordinal);
        }

        Assert.Contains("5 query heads", Assert.Throws<ArgumentException>(
            () => DecoderOptions.Uniform(10, 24, 1, 5, 5, 8)).Message, StringComparison.Ordinal);
    }

    private static void Near(double[][] wanted, Tensor logits)
    {
        var got = logits.contiguous().data<float>().ToArray();
        var most = wanted.Max(row => row.Max(Math.Abs));
        for (var i = 0; i < got.Length; i++)
            Assert.InRange(got[i] - wanted[i / TinyDecoder.Vocabulary][i % TinyDecoder.Vocabulary], -1e-5 * most, 1e-5 * most);
    }

    private static List<Tensor> Gradients(CausalDecoder model) => [.. model.parameters().Select(parameter => parameter.grad!.clone())];

    private sealed class Dropping(int after, long[] keep) : DecoderHook
    {
        public List<long> RowsOfLayers { get; } = [];

        public long[]? FirstQueries { get; private set; }

        public override void AfterAttention(LayerAttention attention)
        {
            RowsOfLayers.Add(attention.Queries.shape[2]);
            FirstQueries ??= attention.Queries.shape;
        }

        public override DecoderRows AfterLayer(int layer, DecoderPhase phase, DecoderRows rows)
        {
            if (layer != after)
                return rows;
            var index = torch.tensor(keep);
            return rows with { Hidden = rows.Hidden.index_select(1, index), Positions = rows.Positions.index_select(1, index) };
        }
    }

    private sealed class Replacing(Func<DecoderRows, DecoderRows> replace) : DecoderHook
    {
        public override DecoderRows AfterLayer(int layer, DecoderPhase phase, DecoderRows rows) => replace(rows);
    }
}
