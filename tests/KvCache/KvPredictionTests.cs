using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests;

[RequiresLibtorch]
public class KvPredictionTests
{
    private const int Vocabulary = 40;

    private static readonly DecoderOptions BaseOptions = DecoderOptions.Uniform(Vocabulary, 32, 5, 4, 2, 48) with
    {
        QueryKeyNorm = true,
        TiedHead = true,
        InitialDeviation = 0.2,
    };

    private static readonly DecoderOptions SmallOptions = DecoderOptions.Uniform(Vocabulary, 16, 2, 2, 1, 24) with
    {
        QueryKeyNorm = true,
        TiedHead = true,
        InitialDeviation = 0.2,
    };

    [Fact]
    public void A_smaller_siblings_layers_serve_as_evenly_as_they_can()
    {
        Assert.Equal([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, .. Enumerable.Range(8, 12)], KvPredictor.CanonicalMap(28, 20));
        Assert.Equal([.. Enumerable.Range(0, 12).SelectMany(j => new[] { j, j }), 12, 13, 14, 15], KvPredictor.CanonicalMap(28, 16));
        Assert.Equal([0, 1, 2], KvPredictor.CanonicalMap(3, 3));
        Assert.Equal([0, 0, 0, 0, 1, 1, 1], KvPredictor.CanonicalMap(7, 2));
    }

    [Fact]
    public void A_pruned_models_layers_serve_until_the_next_one_kept()
    {
        Assert.Equal([0, 1, 2, 2, 3, 4, 5, 5], KvPredictor.PrunedMap(8, [0, 1, 2, 4, 5, 6]));
        Assert.Equal([0, 0, 1, 1], KvPredictor.PrunedMap(4, [0, 2]));
        Assert.Equal([0, 0, 0, 0], KvPredictor.PrunedMap(4, [0]));
    }

    [Fact]
    public void Maps_that_make_no_sense_are_refused()
    {
        Assert.Contains("auxiliaryLayers", Assert.Throws<ArgumentException>(() => KvPredictor.CanonicalMap(2, 3)).Message);
        Assert.Throws<ArgumentOutOfRangeException>(() => KvPredictor.CanonicalMap(0, 0));
        Assert.Contains("first layer", Assert.Throws<ArgumentException>(() => KvPredictor.PrunedMap(4, [1, 2])).Message);
        Assert.Contains("first layer", Assert.Throws<ArgumentException>(() => KvPredictor.PrunedMap(4, [])).Message);
        Assert.Contains("ascend", Assert.Throws<ArgumentException>(() => KvPredictor.PrunedMap(4, [0, 2, 2])).Message);
        Assert.Contains("kept[1]", Assert.Throws<ArgumentOutOfRangeException>(() => KvPredictor.PrunedMap(4, [0, 4])).Message);
        Assert.Contains(
            "5", Assert.Throws<ArgumentException>(() => new KvPredictor(BaseOptions, SmallOptions, [0, 1])).Message);
        Assert.Contains(
            "map[4]",
            Assert.Throws<ArgumentOutOfRangeException>(() => new KvPredictor(BaseOptions, SmallOptions, [0, 0, 1, 1, 2])).Message);
    }

    // The published table's column of reductions: 450M and 270M for 1.1B, its three pruned models, 1.1B for 3B.
    [Fact]
    public void The_cost_model_gives_the_papers_ratios()
    {
        var pruned = (Func<int, bool> keep) => KvPredictor.Pruned(OpenElm.Options1B, [.. Enumerable.Range(0, 28).Where(keep)]);

        Assert.Equal("2.36", Ratio(OpenElm.Options1B, OpenElm.Options450M));
        Assert.Equal("3.98", Ratio(OpenElm.Options1B, OpenElm.Options270M));
        Assert.Equal("1.34", Ratio(OpenElm.Options1B, pruned(i => i % 4 != 3)));
        Assert.Equal("1.93", Ratio(OpenElm.Options1B, pruned(i => i % 2 == 0)));
        Assert.Equal("3.60", Ratio(OpenElm.Options1B, pruned(i => i % 4 == 0)));
        Assert.Equal("2.81", Ratio(OpenElm.Options3B, OpenElm.Options1B));

        static string Ratio(DecoderOptions whole, DecoderOptions part) => string.Create(
            System.Globalization.CultureInfo.InvariantCulture,
            $"{(double)KvPredictionCost.Parameters(whole) / KvPredictionCost.Parameters(part):f2}");
    }

    [Fact]
    public void Parameters_are_counted_as_the_model_has_them()
    {
        var biased = BaseOptions with { QkvBias = true, OutputBias = true, FeedForwardBias = true };
        foreach (var options in (DecoderOptions[])[BaseOptions, SmallOptions with { TiedHead = false }, biased])
        {
            using var model = new CausalDecoder(options);
            Assert.Equal(model.parameters().Sum(parameter => parameter.numel()), KvPredictionCost.Parameters(options));
        }
    }

    // 2 n P for products, 4 Hq d n (n + 1) / 2 for attention, one row of the head.
    [Fact]
    public void Operations_are_counted_by_hand()
    {
        var options = DecoderOptions.Uniform(10, 8, 1, 2, 1, 12); // d = 4
        const double products = 8 * (8 + 4 + 4 + 8) + 3 * 8 * 12, head = 2 * 10 * 8;
        using var predictor = new KvPredictor(options, options);

        Assert.Equal(2 * 3 * products + 4 * 8 * 6 + head, KvPredictionCost.PrefillOperations(options, 3));
        Assert.Equal(2 * 3 * products + 4 * 8 * 6, KvPredictionCost.PrefillOperations(options, 3, head: false));
        Assert.Equal(2 * products + 4 * 8 * 3 + head, KvPredictionCost.DecodeOperations(options, 2));
        Assert.Equal(2 * 2 * 3 * 4 * 4, KvPredictionCost.PredictorOperations(predictor, 3));
        Assert.Equal(
            2 * 2 * products + 4 * 8 * 3 + 2 * 2 * 2 * 16 + 2 * products + 4 * 8 * 3 + head,
            KvPredictionCost.PredictionOperations(predictor, 3));
    }

    [Fact]
    public void With_itself_as_auxiliary_model_and_an_identity_the_base_is_unchanged()
    {
        using var setup = Identity();
        var (model, prediction) = (setup.Base, setup.Prediction);
        using var ids = Ids(2, 9);
        using var whole = model.forward(ids);
        using var cache = model.CreateCache(16, batch: 2);

        using var prompt = ids.narrow(1, 0, 5);
        using var first = prediction.Prefill(prompt, cache);
        Near(whole.select(1, 4), first);
        for (var t = 5; t < 9; t++)
        {
            using var token = ids.select(1, t);
            using var next = model.Decode(token, cache);
            Near(whole.select(1, t), next);
        }
    }

    [Fact]
    public void A_cache_that_was_evicted_from_by_head_is_filled_again_once_it_is_empty()
    {
        using var setup = Pair();
        using var ids = Ids(1, 6);
        using var cache = setup.Base.CreateCache(10);
        using var expected = setup.Prediction.Prefill(ids, cache);
        cache.Keep(0, [0, 1, 3], [0, 1, 2]);
        cache.Rewind(0);
        using var again = setup.Prediction.Prefill(ids, cache);
        Near(expected, again);
    }

    [Fact]
    public void Prompts_of_unequal_length_are_read_as_each_alone()
    {
        using var setup = Pair();
        using var ids = Ids(3, 7);
        int[] lengths = [7, 1, 4];
        using var together = setup.Base.CreateCache(10, batch: 3);
        using var logits = setup.Prediction.Prefill(ids, together, lengths);
        for (var b = 0; b < 3; b++)
        {
            using var alone = setup.Base.CreateCache(10);
            using var prompt = ids.narrow(0, b, 1).narrow(1, 0, lengths[b]);
            using var expected = setup.Prediction.Prefill(prompt, alone);
            Near(expected.squeeze(0), logits[b]);
            Assert.Equal(lengths[b], together.Length(0, b));
        }
    }

    [Fact]
    public void A_prompt_of_one_token_is_the_bases_alone()
    {
        using var setup = Pair();
        using var ids = Ids(1, 1);
        using var cache = setup.Base.CreateCache(4);
        using var predicted = setup.Prediction.Prefill(ids, cache);
        using var expected = setup.Base.forward(ids);
        Near(expected[0, 0], predicted[0]);
    }

    // What the base makes of predicted keys and values, written out by the plain forward pass with a hook that replaces them.
    [Theory]
    [InlineData(null)]
    [InlineData(4)]
    public void The_loss_is_the_sum_of_its_parts_and_the_cache_loss_is_as_published(int? prompt)
    {
        using var setup = Pair();
        using var ids = Ids(2, 8);
        var options = new KvPredictionOptions
        {
            BaseWeight = 0.5, AuxiliaryWeight = 2, CacheWeight = 3, LogPartitionWeight = 0, PromptLength = prompt,
        };
        using var scope = torch.NewDisposeScope();
        var loss = setup.Prediction.Loss(ids, options);

        Assert.Equal(
            0.5 * Value(loss.Base) + 2 * Value(loss.Auxiliary) + 3 * Value(loss.Cache), Value(loss.Total), 4);
        using var byDefault = setup.Prediction.Loss(ids, options with { CacheWeight = null }).Total;
        Assert.Equal(0.5 * Value(loss.Base) + 2 * Value(loss.Auxiliary) + Value(loss.Cache) / 5, Value(byDefault), 4);

        var logits = setup.Auxiliary.forward(ids.narrow(1, 0, 7));
        var own = torch.nn.functional.cross_entropy(logits.reshape(-1, Vocabulary), ids.narrow(1, 1, 7).reshape(-1));
        Assert.Equal(Value(own), Value(loss.Auxiliary), 5);
        using var partition = setup.Prediction.Loss(ids, options with { BaseWeight = 0, CacheWeight = 0, LogPartitionWeight = 0.1 }).Total;
        Assert.Equal(2 * (Value(own) + 0.1 * Value(logits.logsumexp(2).square().mean())), Value(partition), 4);
    }

    // With the prompt split off, training sees exactly what inference computes: its cross-entropy is that of prefill and decoding.
    [Theory]
    [InlineData(torch.ScalarType.Float32, 1e-5)]
    [InlineData(torch.ScalarType.BFloat16, 2e-2)] // products of other shapes may round otherwise
    public void Split_training_has_the_loss_that_inference_has(torch.ScalarType weights, double tolerance)
    {
        const int prompt = 4, length = 8;
        using var setup = Pair(weights);
        using var ids = Ids(2, length);
        using var scope = torch.NewDisposeScope();
        var loss = setup.Prediction.Loss(ids, new() { PromptLength = prompt });
        using var cache = setup.Base.CreateCache(length, batch: 2);
        var logits = new List<Tensor> { setup.Prediction.Prefill(ids.narrow(1, 0, prompt), cache) };
        for (var t = prompt; t < length - 1; t++)
            logits.Add(setup.Base.Decode(ids.select(1, t), cache));
        var expected = torch.nn.functional.cross_entropy(
            torch.stack(logits, 1).reshape(-1, Vocabulary), ids.narrow(1, prompt, length - prompt).reshape(-1));

        Assert.Equal(Value(expected), Value(loss.Base), tolerance);
    }

    [Fact]
    public void The_identity_has_no_cache_loss_and_the_bases_own_cross_entropy()
    {
        using var setup = Identity();
        using var ids = Ids(2, 8);
        using var scope = torch.NewDisposeScope();
        foreach (var options in (KvPredictionOptions[])[new(), new() { PromptLength = 5 }])
        {
            var loss = setup.Prediction.Loss(ids, options);
            var from = options.PromptLength is { } p ? p - 1 : 0;
            var logits = setup.Base.forward(ids.narrow(1, 0, 7)).narrow(1, from, 7 - from);
            var expected = torch.nn.functional.cross_entropy(
                logits.reshape(-1, Vocabulary), ids.narrow(1, from + 1, 7 - from).reshape(-1));
            Assert.Equal(0, Value(loss.Cache), 4);
            Assert.Equal(Value(expected), Value(loss.Base), 4);
        }
    }

    [Theory]
    [InlineData(null)]
    [InlineData(3)]
    public void The_base_is_frozen_and_gradients_pass_through_it(int? prompt)
    {
        using var setup = Pair();
        using var ids = Ids(2, 7);
        Assert.All(setup.Base.parameters(), parameter => Assert.False(parameter.requires_grad));
        using (torch.NewDisposeScope())
        {
            setup.Prediction.Loss(ids, new() { AuxiliaryWeight = 0, CacheWeight = 0, PromptLength = prompt }).Total.backward();
        }

        Assert.All(setup.Base.parameters(), parameter => Assert.Null(parameter.grad));
        foreach (var (name, parameter) in setup.Predictor.named_parameters())
        {
            using var gradient = parameter.grad;
            Assert.NotNull(gradient);
            Assert.True(gradient.isfinite().all().item<bool>(), name);
            // A constant shift of all keys changes no softmax without the key norm; with it, and rotated, it does.
            Assert.True(gradient.abs().max().item<float>() > 0, name);
        }

        using var first = setup.Auxiliary.get_parameter("layers.0.k_proj.weight")!.grad;
        Assert.True(first!.abs().max().item<float>() > 0);
    }

    [Fact]
    public void The_gradient_is_the_slope_of_the_loss()
    {
        using var setup = Pair();
        using var ids = Ids(1, 6);
        var options = new KvPredictionOptions { PromptLength = 4 };
        foreach (var name in (string[])["values.3.weight", "keys.1.weight"])
        {
            var weight = setup.Predictor.get_parameter(name)!;
            using var scope = torch.NewDisposeScope();
            setup.Predictor.zero_grad();
            setup.Auxiliary.zero_grad();
            setup.Prediction.Loss(ids, options).Total.backward();
            var direction = weight.grad!.clone();
            var slope = direction.square().sum().item<float>();
            const double step = 1e-2;
            double[] ends = [.. new[] { step, -step }.Select(move =>
            {
                using var noGrad = torch.no_grad();
                weight.add_(direction, alpha: move / Math.Sqrt(slope));
                double value = setup.Prediction.Loss(ids, options).Total.item<float>();
                weight.add_(direction, alpha: -move / Math.Sqrt(slope));
                return value;
            })];
            Assert.Equal(1, (ends[0] - ends[1]) / (2 * step) / Math.Sqrt(slope), 1e-2);
        }
    }

    [Fact]
    public void Bad_input_is_refused_and_the_cache_stays_as_it_was()
    {
        using var setup = Pair();
        var prediction = setup.Prediction;
        using var ids = Ids(2, 6);
        using var flat = ids.flatten();
        using var cache = setup.Base.CreateCache(4, batch: 2);
        Fails<ArgumentException>("ids", () => prediction.Loss(flat));
        Fails<ArgumentException>("prompt of 6", () => prediction.Loss(ids, new() { PromptLength = 6 }));
        Fails<ArgumentOutOfRangeException>("PromptLength", () => prediction.Loss(ids, new() { PromptLength = 1 }));
        Fails<ArgumentOutOfRangeException>("CacheWeight", () => prediction.Loss(ids, new() { CacheWeight = double.NaN }));
        Fails<ArgumentOutOfRangeException>("BaseWeight", () => prediction.Loss(ids, new() { BaseWeight = -1 }));
        Fails<ArgumentException>("ids", () => prediction.Prefill(flat, cache));
        Fails<ArgumentException>("lengths", () => prediction.Prefill(ids, cache, [6]));
        Fails<ArgumentOutOfRangeException>("lengths[1]", () => prediction.Prefill(ids, cache, [6, 0]));
        Fails<KvCapacityException>("room", () => prediction.Prefill(ids, cache));
        using var outside = torch.full([2L, 3L], 40, torch.int64);
        Fails<ArgumentOutOfRangeException>("40", () => prediction.Prefill(outside, cache));
        using var other = setup.Auxiliary.CreateCache(8, batch: 2);
        Fails<ArgumentException>("cache", () => prediction.Prefill(ids, other));
        Assert.Equal(0, other.Length(0, 0));

        using var shorter = ids.narrow(1, 0, 3);
        prediction.Prefill(shorter, cache).Dispose();
        Fails<ArgumentException>("begins with an empty cache", () => prediction.Prefill(shorter, cache));
        Assert.Equal(3, cache.Length(4, 1));

        using var wrong = torch.zeros(1, 2, 3, 8);
        Fails<ArgumentException>("keys", () => setup.Predictor.Predict(0, wrong, wrong));
        Fails<ArgumentOutOfRangeException>("layer", () => setup.Predictor.Predict(5, wrong, wrong));
        using var speaker = new CausalDecoder(SmallOptions with { Vocabulary = 41 });
        Fails<ArgumentException>("vocabulary of 41", () => _ = new KvPrediction(setup.Base, speaker, setup.Predictor));
        Fails<ArgumentException>("made for a base", () => _ = new KvPrediction(setup.Auxiliary, setup.Auxiliary, setup.Predictor));
        Fails<ArgumentException>("made for an auxiliary", () => _ = new KvPrediction(setup.Base, setup.Base, setup.Predictor));

        void Fails<T>(string words, Action action) where T : Exception
        {
            Assert.Contains(words, Assert.ThrowsAny<T>(action).Message, StringComparison.Ordinal);
            Assert.Equal(cache.NextPosition(0), cache.Length(2, 0));
        }
    }

    [Fact]
    public void Nothing_is_left_behind() => TensorLeaks.None(() =>
    {
        using var setup = Pair();
        using (var half = Pair(torch.ScalarType.BFloat16))
        {
            using var prompt = Ids(1, 5);
            using var own = half.Base.CreateCache(8);
            half.Prediction.Prefill(prompt, own).Dispose();
        }

        using var ids = Ids(2, 6);
        using var cache = setup.Base.CreateCache(8, batch: 2);
        setup.Prediction.Prefill(ids, cache).Dispose();
        foreach (var options in (KvPredictionOptions[])[new(), new() { PromptLength = 3 }])
        {
            var (total, part, own, error) = setup.Prediction.Loss(ids, options);
            total.backward();
            foreach (var tensor in (Tensor[])[total, part, own, error])
                tensor.Dispose();
        }

        Assert.ThrowsAny<ArgumentException>(() => setup.Prediction.Prefill(ids, cache));
    });

    private static Setup Pair(torch.ScalarType weights = torch.ScalarType.Float32)
    {
        torch.manual_seed(7);
        var (large, small) = (BaseOptions with { WeightType = weights }, SmallOptions with { WeightType = weights });
        var (model, auxiliary) = (new CausalDecoder(large), new CausalDecoder(small));
        return new(model, auxiliary, new(large, small));
    }

    /// <summary>A base that is its own auxiliary model, and a predictor that changes nothing.</summary>
    private static Setup Identity()
    {
        torch.manual_seed(8);
        var model = new CausalDecoder(BaseOptions);
        var predictor = new KvPredictor(BaseOptions, BaseOptions);
        using var noGrad = torch.no_grad();
        foreach (var (name, parameter) in predictor.named_parameters())
        {
            if (name.EndsWith("bias", StringComparison.Ordinal))
                parameter.zero_();
            else
                torch.nn.init.eye_(parameter);
        }

        return new(model, model, predictor);
    }

    private static Tensor Ids(int batch, int length)
    {
        torch.manual_seed(batch * 100 + length);
        return torch.randint(0, Vocabulary, [batch, length], torch.int64);
    }

    private static double Value(Tensor scalar) => scalar.item<float>();

    private static void Near(Tensor expected, Tensor actual)
    {
        using var scope = torch.NewDisposeScope();
        Assert.Equal(expected.shape, actual.shape);
        Assert.True((expected - actual).abs().max().item<float>() <= 1e-4, $"{(expected - actual).abs().max().item<float>()}");
    }

    private sealed record Setup(CausalDecoder Base, CausalDecoder Auxiliary, KvPredictor Predictor) : IDisposable
    {
        public KvPrediction Prediction { get; } = new(Base, Auxiliary, Predictor);

        public void Dispose()
        {
            Base.Dispose();
            if (!ReferenceEquals(Auxiliary, Base))
                Auxiliary.Dispose();
            Predictor.Dispose();
        }
    }
}
