using AuxCore.Models;
using TorchSharp;
using static AuxCore.Tests.Averaging.EmaModelTests;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public class EmaSwapTests
{
    [Fact]
    public void Swap_exchanges_and_restores_bit_for_bit_also_after_an_exception()
    {
        using var model = Network();
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9), BufferPolicy.Copy);
        Perturb(model, 1);
        ema.Update();
        Perturb(model, 2); // buffers now differ from those of the last update
        var (training, averages) = (State(model), ema.StateDict().ToDictionary(entry => entry.Key, entry => Bytes(entry.Value)));

        void Fail()
        {
            using (ema.Swap())
            {
                foreach (var (name, bytes) in State(model))
                    Assert.Equal(averages[name], bytes);
                throw new InvalidDataException();
            }
        }

        Assert.Throws<InvalidDataException>(Fail);

        Assert.Equal(training, State(model));
        Assert.All(ema.StateDict(), entry => Assert.Equal(averages[entry.Key], Bytes(entry.Value)));
    }

    [Fact]
    public void Inside_a_swap_nothing_else_is_allowed()
    {
        using var model = torch.nn.Linear(2, 2);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        using (var swap = ema.Swap())
        {
            Assert.Contains("Update inside a Swap", Assert.Throws<InvalidOperationException>(ema.Update).Message, StringComparison.Ordinal);
            Assert.Throws<InvalidOperationException>(() => ema.Swap());
            Assert.Throws<InvalidOperationException>(() => ema.Save("x"));
            Assert.Throws<InvalidOperationException>(() => ema.Load("x"));
            Assert.Throws<InvalidOperationException>(() => ema.CopyTo(model));
            swap.Dispose();
            ema.Update();
        }

        ema.Update();
        Assert.Throws<ArgumentOutOfRangeException>(() => ema.Swap(1));
        Assert.Throws<ArgumentOutOfRangeException>(() => ema.StateDict(-1));
    }

    [Fact]
    public void Disposing_inside_a_swap_gives_the_weights_back()
    {
        using var model = torch.nn.Linear(2, 2);
        var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        Perturb(model, 1);
        var training = State(model);

        ema.Swap();
        ema.Dispose();

        Assert.Equal(training, State(model));
        Assert.Throws<ObjectDisposedException>(ema.Update);
        Assert.Throws<ObjectDisposedException>(() => ema.StateDict());
        ema.Dispose();
    }

    [Fact]
    public void A_graph_from_before_the_swap_refuses_its_backward_pass()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1));
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        var loss = model.forward(torch.ones(1, 2)).sum();

        using (ema.Swap())
        {
        }

        Assert.Contains(
            "inplace",
            Assert.Throws<System.Runtime.InteropServices.ExternalException>(() => loss.backward()).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_graph_that_saved_an_average_refuses_its_backward_pass_too()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Linear(2, 2);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
        var loss = (ema.StateDict()["weight"] * torch.ones(new long[] { 2, 2 }, requires_grad: true)).sum();

        using (ema.Swap())
        {
        }

        Assert.Throws<System.Runtime.InteropServices.ExternalException>(() => loss.backward());
    }

    [Fact]
    public void A_model_that_is_retyped_inside_a_swap_gets_its_weights_back()
    {
        using var scope = torch.NewDisposeScope();
        var model = torch.nn.Linear(2, 2);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.0));
        using (torch.no_grad())
            model.weight.fill_(3f);

        using (ema.Swap())
            model.to(torch.bfloat16);

        Assert.All(Values(model.weight), value => Assert.Equal(3, value));
        Assert.NotEqual(3, Values(ema.StateDict()["weight"])[0]);
    }

    [Fact]
    public void A_swap_that_cannot_end_stays_active_until_it_can()
    {
        using var scope = torch.NewDisposeScope();
        var model = Network();
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));
        Perturb(model, 1);
        ema.Update();
        var (training, averages) = (State(model), ema.StateDict().ToDictionary(entry => entry.Key, entry => Bytes(entry.Value)));
        var swap = ema.Swap();

        model.to(torch.float64);

        Assert.Contains(
            "'0.weight': float64[4, 5] on cpu", Assert.Throws<ArgumentException>(swap.Dispose).Message, StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(ema.Update);
        model.to(torch.float32);
        swap.Dispose();
        Assert.Equal(training, State(model));
        Assert.All(ema.StateDict(), entry => Assert.Equal(averages[entry.Key], Bytes(entry.Value)));
        ema.Update();
    }

    [Fact]
    public void Tied_parameters_count_once_and_swap_once()
    {
        using var scope = torch.NewDisposeScope();
        var model = new Tied();
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));
        using (torch.no_grad())
            model.first.fill_(1f);
        ema.Update();
        var training = State(model);
        Assert.Single(ema.StateDict());

        using (ema.Swap())
            Assert.Equal(Bytes(ema.StateDict()["first"]).Length, Bytes(model.second).Length);

        Assert.Equal(training, State(model));
    }

    [Fact]
    public void Buffers_that_are_strided_or_not_persistent_are_swapped_or_left()
    {
        using var scope = torch.NewDisposeScope();
        var model = new Holder(torch.zeros(2));
        model.register_buffer("strided", torch.arange(6, dtype: torch.float32).view(2, 3).t());
        model.register_buffer("cache", torch.zeros(2), persistent: false);
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));
        var strided = model.get_buffer("strided")!;
        strided.add_(10);

        using (ema.Swap())
            Assert.Equal([0, 3, 1, 4, 2, 5], Values(strided.contiguous()));

        Assert.Equal([10, 13, 11, 14, 12, 15], Values(strided.contiguous()));
        Assert.DoesNotContain("cache", ema.StateDict().Keys);
    }

    [Fact]
    public void Swaps_of_sixteen_bit_parameters_leak_no_tensor()
    {
        using var model = torch.nn.Linear(4, 4).to(torch.bfloat16);
        TensorLeaks.None(() =>
        {
            using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
            for (var i = 0; i < 10; i++)
                ema.Swap().Dispose();
        });
    }

    [Fact]
    public void A_thousand_swaps_saves_and_loads_leak_no_tensor()
    {
        using var model = Network();
        var path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());
        TensorLeaks.None(() =>
        {
            using var ema = new EmaModel(model, EmaSchedule.Constant(0.9));
            for (var i = 0; i < 1000; i++)
                ema.Swap().Dispose();
            for (var i = 0; i < 20; i++)
            {
                ema.Save(path);
                ema.Load(path);
            }

            ema.CopyTo(model);
        });
        File.Delete(path);
    }
}
