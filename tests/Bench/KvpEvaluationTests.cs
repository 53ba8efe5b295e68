using AuxCore.Bench.Experiments;
using AuxCore.Bench.Workloads;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests.Bench;

[RequiresLibtorch]
public class KvpEvaluationTests
{
    private const double Weight = 0.25;

    [Fact]
    public void Nats_are_those_of_a_model_that_repeats_the_last_byte()
    {
        using var model = Repeating();
        using var system = new KvpSystem { Generator = model };
        // The tenth byte behind the prompt is another one, and all that follow are as it is.
        byte[] text = [.. Enumerable.Repeat((byte)'a', 128 + 9), .. Enumerable.Repeat((byte)'b', KvpSamples.Continuation - 9)];
        var samples = new KvpSamples(text, [64, 128], Excerpts: 1, Questions: 3);

        var figures = KvpEvaluation.Run(system, samples, TestContext.Current.CancellationToken);

        var logit = Weight / Math.Sqrt(1.0 / 256 + model.Options.NormEpsilon);
        double wrong = Math.Log(Math.Exp(logit) + 255), right = wrong - logit;
        foreach (var nats in figures.Loss)
        {
            Assert.Equal(right, nats[0], 1e-5);
            Assert.Equal((23 * right + wrong) / 24, nats[1], 1e-5);
            Assert.Equal(right, nats[2], 1e-5);
        }

        // Asked for a value, it repeats the key.
        for (var l = 0; l < 2; l++)
        {
            using var scope = torch.NewDisposeScope();
            var last = samples.Recall(0, 3, samples.Lengths[l]).Prompts.select(1, samples.Lengths[l] - 1).contiguous();
            Assert.Equal([.. last.data<long>().ToArray().Select(key => KvpSamples.Code([(byte)key, (byte)key]))], figures.Answers[l]);
            Assert.Equal(0, figures.Recall(samples, l));
        }
    }

    [Fact]
    public void Nats_are_those_of_one_pass_over_prompt_and_continuation()
    {
        torch.manual_seed(1);
        using var model = new CausalDecoder(KvpPlan.Quick.BaseOptions with { InitialDeviation = 0.2 });
        using var system = new KvpSystem { Generator = model };
        var samples = new KvpSamples(Noise(600), [80], Excerpts: 3, Questions: 1);

        var figures = KvpEvaluation.Run(system, samples, TestContext.Current.CancellationToken);

        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var ids = samples.Prompts(0, 3, 80);
        var logits = model.forward(ids).log_softmax(2).narrow(1, 79, KvpSamples.Continuation);
        var nats = logits.gather(2, ids.narrow(1, 80, KvpSamples.Continuation).unsqueeze(2)).squeeze(2).mean([0]).neg();
        for (var span = 0; span < KvpSamples.Spans.Count; span++)
        {
            var (begin, end) = KvpSamples.Spans[span];
            Assert.Equal(nats.narrow(0, begin, end - begin).mean().item<float>(), figures.Loss[0][span], 1e-4);
        }
    }

    [Fact]
    public void The_same_bytes_follow_prompts_of_all_lengths()
    {
        using var scope = torch.NewDisposeScope();
        var samples = new KvpSamples(Noise(2000), [32, 128], Excerpts: 5, Questions: 1);

        var (few, many) = (samples.Prompts(1, 4, 32), samples.Prompts(1, 4, 128));

        Assert.Equal(many.narrow(1, 96, 160).contiguous().data<long>().ToArray(), few.data<long>().ToArray());
        Assert.NotEqual(few[0].data<long>().ToArray(), few[1].data<long>().ToArray());
    }

    [Fact]
    public void A_system_reads_what_it_says_and_its_cache_shows_it()
    {
        torch.manual_seed(1);
        using var model = new CausalDecoder(KvpPlan.Quick.BaseOptions);
        var samples = new KvpSamples(Noise(600), [64, 128], Excerpts: 2, Questions: 2);

        double[] all = Bytes(new() { Generator = model }), last = Bytes(new() { Generator = model, Reads = _ => 1 });
        double[] quarter = Bytes(new() { Generator = model, Scorer = new StreamingLlm(), Keep = 0.25 });
        double[] narrow = Bytes(new() { Generator = model, Format = KvFormat.Q4_0 });

        // Of one sequence: keys, values and a position of each head of each layer.
        var token = model.Options.Layers.Sum(layer => layer.KvHeads * (2 * model.Options.HeadDim * sizeof(float) + sizeof(int)));
        Assert.Equal([64.0 * token, 128.0 * token], all);
        Assert.Equal([all[0] / 64, all[0] / 64], last);
        Assert.Equal([all[0] / 4, all[1] / 4], quarter);
        Assert.All(narrow.Zip(all), pair => Assert.True(pair.First < pair.Second / 4));

        double[] Bytes(KvpSystem system) => KvpEvaluation.Run(system, samples, TestContext.Current.CancellationToken).CacheBytes;
    }

    [Fact]
    public void A_system_that_reads_less_reads_the_end()
    {
        torch.manual_seed(1);
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        using var model = new CausalDecoder(KvpPlan.Quick.BaseOptions with { InitialDeviation = 0.2 });
        var prompts = new KvpSamples(Noise(600), [64], Excerpts: 2, Questions: 1).Prompts(0, 2, 64).narrow(1, 0, 64);
        var (few, all) = (new KvpSystem { Generator = model, Reads = _ => 5 }, new KvpSystem { Generator = model });

        using var cache = few.CreateCache(64, 1, 2);
        using var same = all.CreateCache(5, 1, 2);
        var read = few.Prefill(prompts, cache).data<float>().ToArray();

        Assert.Equal(all.Prefill(prompts.narrow(1, 59, 5), same).data<float>().ToArray(), read);
        Assert.True(few.Operations(64) < all.Operations(64));
        Assert.Equal(all.Operations(5), few.Operations(64));
    }

    [Fact]
    public void Right_answers_are_counted()
    {
        var samples = new KvpSamples(Noise(2000), [64, 128], Excerpts: 1, Questions: 4);
        int[] right = samples.Right(128), wrong = [.. samples.Right(64).Select(code => code ^ 1)];
        var figures = new KvpFigures([[1, 2, 3], [4, 5, 6]], [7, 8], [[.. samples.Right(64)[..1], .. wrong[1..]], right]);

        var again = KvpFigures.Unpack(figures.Pack(), samples);

        Assert.Equal((0.25, 1.0), (again.Recall(samples, 0), again.Recall(samples, 1)));
        Assert.Equal(figures.Loss, again.Loss);
        Assert.Equal(figures.CacheBytes, again.CacheBytes);
        Assert.Equal(figures.Answers, again.Answers);
        Assert.Equal("bytes 9–32", KvpSamples.NameOf(1));
    }

    [Theory]
    [InlineData(2)]
    [InlineData(128)]
    [InlineData(1024)]
    public void Equal_work_is_the_longest_prompt_that_costs_no_more(int prompt)
    {
        var plan = new KvpPlan();
        using var predictor = new KvPredictor(plan.BaseOptions, plan.AuxiliaryOptions);

        var tokens = KvpArms.EqualWork(predictor, plan.BaseOptions, prompt);

        var allowed = KvPredictionCost.PredictionOperations(predictor, prompt);
        Assert.InRange(tokens, 1, prompt - 1);
        Assert.True(KvPredictionCost.PrefillOperations(plan.BaseOptions, tokens + 1) > allowed);
        Assert.True(tokens == 1 || KvPredictionCost.PrefillOperations(plan.BaseOptions, tokens) <= allowed);
    }

    [Fact]
    public void Seeds_pair_and_shares_of_the_gap_are_those_of_the_formula()
    {
        var samples = new KvpSamples(Noise(600), [64], Excerpts: 1, Questions: 1);
        var outcome = new KvpOutcome(samples, "noise", [], KvpPlan.Quick);
        Add(KvpArms.Base, (null, 1));
        Add(KvpArms.Auxiliary, (null, 3));
        Add(KvpArms.Split, (1, 2.5), (2, 2), (3, 3.5));
        Add(KvpArms.Continued, (3, 2.75), (1, 2.25));
        var loss = new Measure("nats", 0, 64, LowerIsBetter: true, figures => figures.Loss[0][0]);

        Assert.Equal([25.0, 50.0, -25.0], outcome.Shares(outcome.Find(KvpArms.Split)!, loss)!);
        Assert.Null(outcome.Shares(outcome.Find(KvpArms.Split)!, loss with { LowerIsBetter = false }));
        var (split, continued) = outcome.Pairs(KvpArms.Split, KvpArms.Continued, loss.Of)!.Value;
        Assert.Equal([2.5, 3.5], split);
        Assert.Equal([2.25, 2.75], continued);
        Assert.Equal([3.0, 3.0, 3.0], outcome.Pairs(KvpArms.Split, KvpArms.Auxiliary, loss.Of)!.Value.Control);
        Assert.Equal([1.0, 1.0], outcome.Pairs(KvpArms.Base, KvpArms.Continued, loss.Of)!.Value.Arm);
        Assert.Null(outcome.Pairs(KvpArms.Split, KvpArms.Published, loss.Of));

        void Add(string name, params (int? Seed, double Loss)[] values) => outcome.Arms[
            new(name, false, [.. values.Select(value => new KvpVariant(value.Seed, [], () => throw new NotSupportedException()))])] =
            [.. values.Select(value => new KvpFigures([[value.Loss, 0, 0]], [0], [[0]]))];
    }

    /// <summary>A decoder whose attention and feed-forward network add nothing, and whose head favours the last byte.</summary>
    private static CausalDecoder Repeating()
    {
        var model = new CausalDecoder(DecoderOptions.Uniform(256, 256, 1, 2, 1, 32, headDim: 32));
        using var noGrad = torch.no_grad();
        using var identity = torch.eye(256);
        foreach (var (name, parameter) in model.named_parameters())
        {
            if (name == "embed_tokens.weight")
                parameter.copy_(identity);
            else if (name == "lm_head.weight")
                parameter.copy_(identity).mul_(Weight);
            else if (name.Contains("o_proj", StringComparison.Ordinal) || name.Contains("down_proj", StringComparison.Ordinal))
                parameter.zero_();
        }

        return model;
    }

    private static byte[] Noise(int length)
    {
        var bytes = new byte[length];
        new Random(1).NextBytes(bytes);
        return bytes;
    }
}
