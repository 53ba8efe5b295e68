using AuxCore.Bench.Measurement;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>
/// What the losses need beside inputs and gradients, at 65,536 transitions of 64 dimensions: less than 64 MB, where one n × n matrix would
/// be 17 GB. The process's peak resident memory is measured, so these run while no other test does.
/// </summary>
[Collection(ProcessWide.Name)]
public class PeakMemoryTests
{
    private const int Count = 65_536, Dimension = 64;
    private const long Allowed = 64L << 20;
    private const string LongTests = "AUXCORE_LONG_TESTS";

    [Fact]
    public void The_Gram_form_stays_below_64_MB() =>
        Measure(() => ForwardBackward(new() { Discount = 0.98, Convention = FbConvention.MetaMotivo, Form = FbForm.Gram }));

    [Fact]
    public void The_tiled_form_stays_below_64_MB()
    {
        RequireLongTests();
        Measure(() => ForwardBackward(new() { Discount = 0.98, Convention = FbConvention.ControllableAgent, Target = FbTarget.Minimum }));
    }

    [Fact]
    public void InfoNce_stays_below_64_MB()
    {
        RequireLongTests();
        var batch = Filled(4);
        Measure(() => () => InfoNceLoss.Run(batch[0], batch[1], Count, Dimension, new(), batch[2], batch[3]));
    }

    private static void RequireLongTests() => Assert.SkipUnless(
        Environment.GetEnvironmentVariable(LongTests) == "1", $"takes a minute or so; set {LongTests}=1 to run it");

    private static Action ForwardBackward(FbOptions options)
    {
        float[][] two = Filled(3, heads: 2), one = Filled(3);
        var done = new bool[Count];
        return () => ForwardBackwardLoss.Run(
            two[0], one[0], two[1], one[1], done, new FbShape(2, Count, Dimension), options, two[2], one[2]);
    }

    private static void Measure(Func<Action> prepare)
    {
        Assert.SkipUnless(PeakMemory.IsAvailable, "peak memory is read from Linux's /proc");
        var needed = PeakMemory.Of(prepare())!.Value;
        TestContext.Current.SendDiagnosticMessage("{0:F1} MB beside inputs and gradients", needed / 1e6);
        Assert.InRange(needed, 0, Allowed);
    }

    // Written to, so that the pages are there.
    private static float[][] Filled(int count, int heads = 1)
    {
        var random = new Random(1);
        return [.. Enumerable.Range(0, count).Select(_ =>
        {
            var values = new float[heads * Count * Dimension];
            for (var i = 0; i < values.Length; i++)
                values[i] = random.NextSingle() - 0.5f;
            return values;
        })];
    }
}
