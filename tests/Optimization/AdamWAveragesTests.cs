using AuxCore.Interop;
using AuxCore.Models;
using AuxCore.Tests.Averaging;
using TorchSharp;
using static AuxCore.Tests.Optimization.Networks;
using AdamW = AuxCore.Models.AdamW;

namespace AuxCore.Tests.Optimization;

/// <summary>Averages that move in the optimiser's pass.</summary>
[RequiresLibtorch]
public class AdamWAveragesTests
{
    private static readonly EmaSchedule[] Schedules =
        [EmaSchedule.Constant(0.9), EmaSchedule.WarmUp(), EmaSchedule.HalfLife(20), EmaSchedule.Constant(0.25)];

    public static TheoryData<int, BufferPolicy, string, bool> Kinds
    {
        get
        {
            var kinds = new TheoryData<int, BufferPolicy, string, bool>();
            foreach (var averages in (int[])[1, 2, 3, 4])
            {
                foreach (var type in (string[])["float32", "bfloat16", "float16"])
                {
                    kinds.Add(averages, (BufferPolicy)(averages % 3), type, averages % 2 == 0);
                    kinds.Add(averages, (BufferPolicy)((averages + 1) % 3), type, averages % 2 != 0);
                }
            }

            return kinds;
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Fused_equals_the_step_and_Update_after_it_bit_for_bit(int averages, BufferPolicy buffers, string type, bool partly)
    {
        using var scope = torch.NewDisposeScope();
        var dtype = Enum.Parse<torch.ScalarType>(type, ignoreCase: true);
        var (fused, apart) = Twins(() => NetworkWithBuffers().to(dtype));
        using var fusedEma = new EmaModel(fused, Schedules[..averages], buffers);
        using var apartEma = new EmaModel(apart, Schedules[..averages], buffers);
        // Partly: some parameters are not the optimiser's, and one is frozen for a while.
        using var optimizer = new AdamW(fused.parameters().Skip(partly ? 1 : 0), 0.01, weight_decay: 0.1)
        {
            MaxGradientNorm = 0.5,
            Averages = fusedEma
        };
        using var reference = new AdamW(apart.parameters().Skip(partly ? 1 : 0), 0.01, weight_decay: 0.1) { MaxGradientNorm = 0.5 };

        for (var step = 0; step < 8; step++)
        {
            foreach (var model in (torch.nn.Module[])[fused, apart])
            {
                if (partly)
                    model.parameters().ElementAt(2).requires_grad = step is < 3 or > 5;
            }

            TrainStep(fused, optimizer, step);
            TrainStep(apart, reference, step);
            apartEma.Update();
            Assert.Equal(apartEma.Step, fusedEma.Step);
            Assert.Equal(EmaModelTests.State(apart), EmaModelTests.State(fused));
            for (var k = 0; k < averages; k++)
            {
                foreach (var (name, value) in apartEma.StateDict(k))
                    Assert.Equal(EmaModelTests.Bytes(value), EmaModelTests.Bytes(fusedEma.StateDict(k)[name]));
            }
        }
    }

    [Fact]
    public void Options_of_the_averages_hold_in_the_pass_too()
    {
        using var scope = torch.NewDisposeScope();
        EmaOptions[] all =
        [
            new() { Every = 3 }, new() { StartAfter = 4 }, new() { Every = 2, StartAfter = 3, Levels = 2, Buffers = BufferPolicy.Mix },
            new() { Parameters = name => !name.StartsWith('0') },
        ];
        foreach (var options in all)
        {
            var (fused, apart) = Twins(() => NetworkWithBuffers());
            using var fusedEma = new EmaModel(fused, Schedules[..2], options);
            using var apartEma = new EmaModel(apart, Schedules[..2], options);
            fusedEma.FeedBack(every: 5, keep: 0.5);
            apartEma.FeedBack(every: 5, keep: 0.5);
            using var optimizer = new AdamW(fused.parameters(), 0.01) { Averages = fusedEma };
            using var reference = new AdamW(apart.parameters(), 0.01);
            for (var step = 0; step < 12; step++)
            {
                TrainStep(fused, optimizer, step);
                TrainStep(apart, reference, step);
                apartEma.Update();
                Assert.Equal((apartEma.Step, apartEma.Updates), (fusedEma.Step, fusedEma.Updates));
                Assert.Equal(EmaModelTests.State(apart), EmaModelTests.State(fused));
                for (var k = 0; k < apartEma.AverageCount; k++)
                {
                    foreach (var (name, value) in apartEma.StateDict(k))
                        Assert.Equal(EmaModelTests.Bytes(value), EmaModelTests.Bytes(fusedEma.StateDict(k)[name]));
                }
            }
        }
    }

    [Fact]
    public void Averages_that_no_pass_can_carry_are_refused()
    {
        using var scope = torch.NewDisposeScope();
        var model = NetworkWithBuffers();
        using var narrow = new EmaModel(model, EmaSchedule.Constant(0.9), new EmaOptions { Storage = EmaStorage.BFloat16 });
        using var elsewhere = new EmaModel(model, EmaSchedule.Constant(0.9), new EmaOptions { Device = torch.CPU });
        using var optimizer = new AdamW(model.parameters());

        Assert.Contains("bfloat16", Assert.Throws<ArgumentException>(() => optimizer.Averages = narrow).Message, StringComparison.Ordinal);
        Assert.Contains("device", Assert.Throws<ArgumentException>(() => optimizer.Averages = elsewhere).Message, StringComparison.Ordinal);
        Assert.Null(optimizer.Averages);
    }

    [Theory]
    [InlineData(AuxBackend.Cpu)]
    [InlineData(AuxBackend.Reference)]
    public void Every_backend_carries_averages(AuxBackend backend)
    {
        using var scope = torch.NewDisposeScope();
        var (fused, apart) = Twins(() => NetworkWithBuffers());
        using var fusedEma = new EmaModel(fused, Schedules[..2]);
        using var apartEma = new EmaModel(apart, Schedules[..2]) { Backend = backend };
        using var optimizer = new AdamW(fused.parameters()) { Averages = fusedEma, Backend = backend };
        using var reference = new AdamW(apart.parameters()) { Backend = backend };
        for (var step = 0; step < 3; step++)
        {
            TrainStep(fused, optimizer, step);
            TrainStep(apart, reference, step);
            apartEma.Update();
        }

        foreach (var (name, value) in apartEma.StateDict(1))
            Assert.Equal(EmaModelTests.Bytes(value), EmaModelTests.Bytes(fusedEma.StateDict(1)[name]));
    }

    [Fact]
    public void Averages_can_be_taken_and_left_at_any_time()
    {
        using var scope = torch.NewDisposeScope();
        var model = NetworkWithBuffers();
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        using var optimizer = new AdamW(model.parameters());
        TrainStep(model, optimizer, 0);
        Assert.Equal(0, ema.Step);
        optimizer.Averages = ema;
        TrainStep(model, optimizer, 1);
        Assert.Equal(1, ema.Step);
        optimizer.Averages = null;
        TrainStep(model, optimizer, 2);
        Assert.Equal(1, ema.Step);
    }

    [Fact]
    public void Averages_of_another_model_move_beside_the_pass()
    {
        using var scope = torch.NewDisposeScope();
        var (model, teacher) = (NetworkWithBuffers(), Regression());
        using var ema = new EmaModel(teacher, EmaSchedule.Constant(0.5));
        using var optimizer = new AdamW(model.parameters()) { Averages = ema };
        using (torch.no_grad())
            teacher.weight.fill_(3);
        var before = ema.StateDict()["weight"].clone();

        TrainStep(model, optimizer, 0);

        Assert.Equal(((before + 3) / 2).data<float>(), ema.StateDict()["weight"].data<float>());
    }

    [Fact]
    public void Inside_a_swap_a_step_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var model = NetworkWithBuffers();
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        using var optimizer = new AdamW(model.parameters()) { Averages = ema };
        TrainStep(model, optimizer, 0);
        using (ema.Swap())
        {
            var before = EmaModelTests.State(model);
            Assert.Contains("Swap", Assert.Throws<InvalidOperationException>(() => optimizer.step()).Message, StringComparison.Ordinal);
            Assert.Throws<InvalidOperationException>(() => optimizer.Save("nowhere"));
            Assert.Throws<InvalidOperationException>(() => optimizer.Load("nowhere"));
            Assert.Equal(before, EmaModelTests.State(model));
        }

        optimizer.step();
        Assert.Equal(2, ema.Step);
    }

    [Fact]
    public void A_schedule_that_fails_leaves_everything_as_it_was()
    {
        using var scope = torch.NewDisposeScope();
        var model = NetworkWithBuffers();
        var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        using var optimizer = new AdamW(model.parameters()) { Averages = ema };
        model.forward(torch.ones(2, 5)).sum().backward();
        var before = EmaModelTests.State(model);
        ema.Dispose();

        Assert.Throws<ObjectDisposedException>(() => optimizer.step());

        Assert.Equal(before, EmaModelTests.State(model));
    }

    [Fact]
    public void More_than_four_averages_are_refused()
    {
        using var scope = torch.NewDisposeScope();
        var model = NetworkWithBuffers();
        using var ema = new EmaModel(model, [.. Enumerable.Repeat(EmaSchedule.Constant(0.9), 5)]);

        Assert.Contains("5 averages", Assert.Throws<ArgumentException>(
            () => new AdamW(model.parameters()) { Averages = ema }).Message, StringComparison.Ordinal);
    }
}
