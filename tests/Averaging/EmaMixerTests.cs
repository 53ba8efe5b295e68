using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public class EmaMixerTests
{
    [Fact]
    public void Pairs_are_averaged()
    {
        using var scope = torch.NewDisposeScope();
        var (source, average) = (torch.ones(2, 3), torch.zeros(2, 3));
        using var mixer = new EmaMixer([(source, average)]);

        mixer.Update(0.75);

        Assert.Equal(Enumerable.Repeat(0.25f, 6), average.data<float>());
        Assert.Same(average, mixer.Averages()[0]);
    }

    [Fact]
    public void Agrees_with_libtorch_over_many_steps_and_types()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        Tensor[] sources = [torch.randn(33, 7), torch.randn(5).to(torch.bfloat16), torch.randn(3, 3).to(torch.float16)];
        Tensor[] averages = [.. sources.Select(source => torch.randn(source.shape))];
        Tensor[] expected = [.. averages.Select(average => average.to(torch.float64))];
        using var mixer = new EmaMixer(sources, averages);

        for (var step = 0; step < 50; step++)
        {
            foreach (var source in sources)
                source.copy_(torch.randn(source.shape));
            mixer.Update(0.9);
            for (var i = 0; i < expected.Length; i++)
                expected[i] = expected[i] * 0.9 + sources[i].to(torch.float64) * 0.1;
        }

        for (var i = 0; i < expected.Length; i++)
            Assert.True((averages[i].to(torch.float64) - expected[i]).abs().max().item<double>() < 1e-6);
    }

    [Fact]
    public void Views_with_offsets_are_averaged_where_they_are()
    {
        using var scope = torch.NewDisposeScope();
        var (sources, averages) = (torch.arange(12, dtype: torch.float32).view(4, 3), torch.zeros(4, 3));
        using var mixer = new EmaMixer([(sources[1], averages[3])]);

        mixer.Update(0.0);

        Assert.Equal([0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 5], averages.data<float>());
    }

    [Fact]
    public void A_tensor_that_moved_is_followed()
    {
        using var scope = torch.NewDisposeScope();
        var (source, average) = (torch.zeros(4), torch.zeros(4));
        using var mixer = new EmaMixer([(source, average)]);
        mixer.Update(0.0);
        Assert.Equal(0, mixer.Rebuilds);

        source.set_(torch.full(4, 2f));
        mixer.Update(0.5);
        average.set_(torch.full(4, 10f));
        mixer.Update(0.5);

        Assert.Equal(2, mixer.Rebuilds);
        Assert.Equal([6, 6, 6, 6], average.data<float>());
    }

    [Fact]
    public void A_tensor_that_moved_and_fits_no_longer_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var (source, average) = (torch.ones(4), torch.zeros(4));
        using var mixer = new EmaMixer([(source, average)]);

        source.set_(torch.ones(5));

        Assert.Contains(
            "sources[0]: shape [5] does not match averages[0][0] [4]",
            Assert.Throws<ArgumentException>(() => mixer.Update(0.5)).Message, StringComparison.Ordinal);
        Assert.Equal([0, 0, 0, 0], average.data<float>());
    }

    [Fact]
    public void A_tensor_that_was_transposed_or_shortened_at_its_address_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var (source, average) = (torch.ones(3, 3), torch.zeros(3, 3));
        using var mixer = new EmaMixer([(source, average)]);

        source.set_(source.t());
        Refused<ArgumentException>("sources[0]: float32[3, 3] on cpu with strides [1, 3]", () => { mixer.Update(0.5); return null; });
        source.set_(torch.ones(3, 3));
        average.set_(average.narrow(0, 0, 2));
        Refused<ArgumentException>(
            "sources[0]: shape [3, 3] does not match averages[0][0] [2, 3]", () => { mixer.Update(0.5); return null; });

        Assert.Equal(0, average.sum().item<float>());
    }

    [Fact]
    public void Averages_may_be_bfloat16_and_then_need_a_rounding()
    {
        using var scope = torch.NewDisposeScope();
        var (source, theirs) = (torch.ones(1000), torch.zeros(1000, torch.bfloat16));
        using var mixer = new EmaMixer([source], [theirs], [torch.zeros(1000)]);
        using var own = EmaMixer.WithOwnAverages([source], 2, torch.bfloat16);

        Refused<ArgumentException>("rounding: averages[0] is bfloat16", () => { mixer.Update(0.5, 0.5); return null; });
        mixer.Update(EmaRounding.Stochastic(1, 1), 0.999, 0.999);
        own.Update(EmaRounding.Stochastic(1, 1), 0.999, 0.5);

        Assert.Equal(0.001f, theirs.to(torch.float32).mean().item<float>(), 1e-5f);
        Assert.Equal(torch.bfloat16, own.Averages(1)[0].dtype);
        Assert.Equal(64, own.Averages(1)[0].ToTensorView().Address % 64 == 0 ? 64 : -1);
        Refused<ArgumentException>("storage: Float16", () => EmaMixer.WithOwnAverages([source], 1, torch.float16));
        Refused<ArgumentException>("device: meta", () => EmaMixer.WithOwnAverages([source], device: torch.META));
    }

    [Fact]
    public void Chains_average_averages()
    {
        using var scope = torch.NewDisposeScope();
        var source = torch.zeros(2);
        using var first = EmaMixer.WithOwnAverages([source], 2);
        using var second = first.Chain(1);
        using var third = second.Chain();
        source.fill_(8);

        for (var step = 0; step < 2; step++)
        {
            first.Update(0.0, 0.5);
            second.Update(0.5);
            third.Update(0.5);
        }

        Assert.Equal([6, 4, 2.5f], [.. ((EmaMixer[])[first, second, third]).Select(mixer =>
            mixer.Averages(mixer.AverageCount - 1)[0].data<float>()[0])]);
        Assert.Throws<ArgumentOutOfRangeException>(() => first.Chain(2));
        first.Dispose();
        Refused<ObjectDisposedException>("sources[0] was disposed", () => { second.Update(0.5); return null; });
        Assert.Throws<ObjectDisposedException>(() => first.Chain());
    }

    [Fact]
    public void A_staged_source_is_looked_after_like_any_other()
    {
        using var scope = torch.NewDisposeScope();
        var source = torch.ones(4);
        using var mixer = EmaMixer.WithOwnAverages([source], 1, torch.float32, torch.CPU, alwaysStage: true);
        source.set_(torch.full(4, 3f));

        mixer.Update(0.0);

        Assert.Equal((1, 3f), (mixer.Rebuilds, mixer.Averages()[0].data<float>()[0]));
        source.set_(torch.ones(5));
        Refused<ArgumentException>("sources[0]: shape [5]", () => { mixer.Update(0.0); return null; });
        source.set_(torch.ones(2, 2).t());
        Refused<ArgumentException>("sources[0]", () => { mixer.Update(0.0); return null; });
        Refused<ArgumentException>("strides", () => EmaMixer.WithOwnAverages(
            [torch.ones(2, 3).t()], 1, torch.float32, null, alwaysStage: true));
    }

    [Fact]
    public void A_frozen_mixer_trusts_the_caller()
    {
        using var scope = torch.NewDisposeScope();
        var (source, average) = (torch.ones(4), torch.zeros(4));
        var old = source.alias();
        using var mixer = new EmaMixer([(source, average)]);
        source.set_(torch.full(4, 3f));

        mixer.Freeze(); // looks one last time
        mixer.Update(0.0);
        source.set_(old);
        mixer.Update(0.0);

        Assert.True(mixer.IsFrozen);
        Assert.Equal([3, 3, 3, 3], average.data<float>());
    }

    [Fact]
    public void Own_averages_begin_as_copies_and_die_with_the_mixer()
    {
        using var source = torch.arange(5, dtype: torch.float32).to(torch.bfloat16);
        TensorLeaks.None(() =>
        {
            EmaMixer mixer;
            using (torch.NewDisposeScope())
                mixer = EmaMixer.WithOwnAverages([source], 2);
            Assert.Equal([0, 1, 2, 3, 4], mixer.Averages(1)[0].data<float>()); // outlived the scope
            Assert.Equal(torch.float32, mixer.Averages(0)[0].dtype);
            mixer.Dispose();
            mixer.Dispose();
            Assert.Throws<ObjectDisposedException>(() => mixer.Averages());
            Assert.Throws<ObjectDisposedException>(() => mixer.Update(0.5, 0.5));
            Assert.Throws<ObjectDisposedException>(mixer.Freeze);
        });
    }

    [Fact]
    public void Own_averages_begin_on_cache_lines_of_their_own()
    {
        using var scope = torch.NewDisposeScope();
        using var mixer = EmaMixer.WithOwnAverages([torch.ones(3), torch.ones(17), torch.ones(1)]);

        nint[] addresses = [.. mixer.Averages().Select(average => average.ToTensorView().Address)];

        Assert.Equal([64, 128], [addresses[1] - addresses[0], addresses[2] - addresses[1]]);
    }

    [Fact]
    public void Tensors_of_the_caller_outlive_the_mixer()
    {
        using var scope = torch.NewDisposeScope();
        var (source, average) = (torch.ones(2), torch.zeros(2));

        new EmaMixer([(source, average)]).Dispose();

        Assert.Equal((false, false), (source.IsInvalid, average.IsInvalid));
    }

    [Fact]
    public void A_refused_source_is_named_and_leaves_no_averages_behind()
    {
        using var source = torch.ones(2);
        using var counts = torch.ones(2, torch.int64);

        Assert.Equal("sources[1]", Assert.Throws<ArgumentNullException>(() => EmaMixer.WithOwnAverages([source, null!])).ParamName);
        TensorLeaks.None(() => Refused<ArgumentException>("sources[1]", () => EmaMixer.WithOwnAverages([source, counts], 2)));
    }

    [Fact]
    public void A_leaf_that_requires_grad_is_updated_only_without_grad_mode()
    {
        using var scope = torch.NewDisposeScope();
        var (source, leaf) = (torch.ones(2), torch.zeros(2, requires_grad: true));
        using var mixer = new EmaMixer([source], [leaf]);

        Assert.Contains(
            "averages[0][0] is a leaf",
            Assert.Throws<InvalidOperationException>(() => mixer.Update(0.0)).Message, StringComparison.Ordinal);
        using (torch.no_grad())
            mixer.Update(0.0);

        Assert.Equal([1, 1], leaf.detach().data<float>());
    }

    [Fact]
    public void Bad_tensors_are_named()
    {
        using var scope = torch.NewDisposeScope();
        var (good, shared) = (torch.ones(4), torch.zeros(8));
        var disposed = torch.ones(4);
        disposed.Dispose();
        var leaf = torch.ones(4, requires_grad: true);

        Refused<ArgumentException>("averages[0]: 1 tensors for 2 sources", () => new EmaMixer([good, good], [torch.zeros(4)]));
        Refused<ArgumentException>("sources[0]: shape [4] does not match averages[0][0] [5]", () => new EmaMixer([(good, torch.zeros(5))]));
        Refused<ArgumentException>(
            "sources[0]: int64[4] on cpu cannot be averaged", () => new EmaMixer([(torch.ones(4, dtype: torch.int64), torch.zeros(4))]));
        Refused<ArgumentException>(
            "averages[0][0]: float16[4] on cpu; averages are float32",
            () => new EmaMixer([(good, torch.zeros(4, dtype: torch.float16))]));
        Refused<ArgumentException>(
            "sources[0]: float32[3, 2] on cpu with strides [1, 3] is not contiguous",
            () => new EmaMixer([(torch.ones(2, 3).t(), torch.zeros(3, 2))]));
        Refused<ArgumentException>(
            "averages[0][1] overlaps averages[0][0]",
            () => new EmaMixer([good, good], [shared.narrow(0, 0, 4), shared.narrow(0, 3, 4)]));
        Refused<ArgumentException>("overlaps", () => new EmaMixer([(good, good)]));
        Refused<ArgumentException>("averages[0][0] is a computed tensor", () => new EmaMixer([(good, leaf * 2)]));
        Refused<ArgumentException>("sources[0] is on META", () => new EmaMixer([(torch.ones(4, device: torch.META), torch.zeros(4))]));
        Refused<ObjectDisposedException>("sources[0] was disposed", () => new EmaMixer([(disposed, torch.zeros(4))]));
        Refused<ObjectDisposedException>("averages[0][0] was disposed", () => new EmaMixer([(good, disposed)]));
        Refused<ArgumentNullException>("sources[0]", () => new EmaMixer([(null!, torch.zeros(4))]));
        Refused<ArgumentNullException>("pairs", () => new EmaMixer((IReadOnlyList<(Tensor, Tensor)>)null!));
        Refused<ArgumentNullException>("sources", () => EmaMixer.WithOwnAverages(null!));
        Refused<ArgumentOutOfRangeException>("averageCount", () => EmaMixer.WithOwnAverages([good], 0));
    }

    [Fact]
    public void A_tensor_disposed_later_is_named()
    {
        using var average = torch.zeros(4);
        var source = torch.ones(4);
        using var mixer = new EmaMixer([(source, average)]);

        source.Dispose();

        Refused<ObjectDisposedException>("sources[0] was disposed", () => { mixer.Update(0.5); return null; });
    }

    [Fact]
    public void A_named_backend_runs_or_throws()
    {
        using var source = torch.ones(1);
        using var mixer = EmaMixer.WithOwnAverages([source]);

        mixer.Backend = AuxBackend.Reference;
        mixer.Update(0.5);
        mixer.Backend = AuxBackend.Cuda;

        Refused<BackendUnavailableException>("Cuda", () => { mixer.Update(0.5); return null; });
    }

    [Fact]
    public void Decays_are_checked()
    {
        using var source = torch.ones(1);
        using var mixer = EmaMixer.WithOwnAverages([source], 2);

        Refused<ArgumentException>("1 for 2 averages", () => { mixer.Update(0.5); return null; });
        Refused<ArgumentOutOfRangeException>("decays[1]", () => { mixer.Update(0.5, -1); return null; });
        Assert.Throws<ArgumentOutOfRangeException>(() => mixer.Averages(2));
        Assert.Throws<ArgumentOutOfRangeException>(() => mixer.Averages(-1));
    }

    private static void Refused<TException>(string message, Func<object?> action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(() => action()).Message, StringComparison.Ordinal);
}
