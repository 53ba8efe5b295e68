using AuxCore.Models;
using TorchSharp;
using static AuxCore.Tests.Averaging.EmaModelTests;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Averaging;

[RequiresLibtorch]
public sealed class EmaLayoutTests : IDisposable
{
    private readonly string _path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());
    private readonly TorchSharp.Modules.Sequential _model;

    public EmaLayoutTests()
    {
        RequiresLibtorchAttribute.OrSkip();
        _model = Network();
    }

    public void Dispose()
    {
        File.Delete(_path);
        _model.Dispose();
    }

    [Theory]
    [InlineData("")]
    [InlineData("module.")]
    [InlineData("module.module.")]
    public void Timms_dictionaries_are_taken_over_with_or_without_the_wrapper(string prefix)
    {
        using var scope = torch.NewDisposeScope();
        using var ema = new EmaModel(_model, [EmaSchedule.Constant(0.9), EmaSchedule.Constant(0.99)]);
        ema.Update();
        var untouched = State(ema, 0);
        var state = Foreign(prefix, torch.float64);

        ema.Load(state, EmaLayout.Timm, average: 1);

        foreach (var (name, value) in ema.StateDict(1))
            Assert.Equal(Values(state[prefix + name]), Values(value));
        Assert.Equal(untouched.Where(entry => !entry.Key.StartsWith("1.", StringComparison.Ordinal)),
            State(ema, 0).Where(entry => !entry.Key.StartsWith("1.", StringComparison.Ordinal)));
        Assert.Equal(1, ema.Step);
        ema.Load(state, EmaLayout.Timm, average: 1, step: 700);
        Assert.Equal(700, ema.Step);
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(5, 7)]
    public void A_mean_by_swa_utils_goes_on_where_it_was(int every, long startAfter)
    {
        using var scope = torch.NewDisposeScope();
        using var ema = new EmaModel(
            _model, EmaSchedule.Mean(), new EmaOptions { Every = every, StartAfter = startAfter, Buffers = BufferPolicy.Mix });
        var state = Foreign("module.", torch.float32);
        state["n_averaged"] = torch.tensor(3L);

        ema.Load(state, EmaLayout.SwaUtils);
        Assert.Equal(3, ema.Updates);
        for (var step = 0; step < every; step++)
            ema.Update();

        // AveragedModel's own rule: average + (parameter − average)/(n + 1)
        Assert.Equal(4, ema.Updates);
        foreach (var (name, parameter) in _model.named_parameters())
        {
            var expected = Values(state["module." + name]).Zip(Values(parameter), (average, p) => average + (p - average) / 4).ToArray();
            Assert.All(Values(ema.StateDict()[name]).Zip(expected), pair => Assert.Equal(pair.Second, pair.First, 1e-5));
        }

        state["n_averaged"] = torch.tensor(0, torch.int32);
        ema.Load(state, EmaLayout.SwaUtils);
        Assert.Equal((0, 0), (ema.Step, ema.Updates));
    }

    [Theory]
    [InlineData(EmaLayout.Timm, BufferPolicy.Copy)]
    [InlineData(EmaLayout.Timm, BufferPolicy.Skip)]
    [InlineData(EmaLayout.SwaUtils, BufferPolicy.Mix)]
    public void What_is_written_in_a_layout_is_complete_and_comes_back(EmaLayout layout, BufferPolicy policy)
    {
        using var scope = torch.NewDisposeScope();
        using var ema = new EmaModel(_model, EmaSchedule.Constant(0.9), policy);
        using var back = new EmaModel(_model, EmaSchedule.Constant(0.9), policy);
        for (var step = 0; step < 3; step++)
        {
            Perturb(_model, step);
            ema.Update();
        }

        ema.Save(_path, layout);
        back.Load(_path, layout);

        Assert.Equal(State(ema), State(back));
        Assert.Equal(layout == EmaLayout.SwaUtils ? 3 : 0, back.Step);
        using var file = SafetensorsFile.Open(_path);
        var names = _model.state_dict().Keys.Select(name => layout == EmaLayout.SwaUtils ? "module." + name : name)
            .Concat(layout == EmaLayout.SwaUtils ? ["n_averaged"] : []);
        Assert.Equal(names.Order(StringComparer.Ordinal), file.Names.Order(StringComparer.Ordinal));
        if (layout == EmaLayout.SwaUtils)
            Assert.Equal(3L, file.Read("n_averaged").item<long>());
        else
            Assert.Equal(Bytes(_model.get_buffer("1.running_var")!), Bytes(file.Read("1.running_var"))); // also where it is skipped
    }

    [Fact]
    public void Tied_parameters_are_written_under_both_names_and_read_from_the_first()
    {
        using var scope = torch.NewDisposeScope();
        var model = new Tied();
        using var ema = new EmaModel(model, EmaSchedule.Constant(0.5));
        using (torch.no_grad())
            model.first.fill_(1f);
        ema.Update();

        var state = ema.StateDict(EmaLayout.Timm);

        Assert.Equal(["first", "second"], state.Keys.Order());
        Assert.All(state.Values, value => Assert.Equal(Enumerable.Repeat(0.5, 6), Values(value)));
        ema.Load(state, EmaLayout.Timm);
    }

    [Fact]
    public void Dictionaries_that_do_not_fit_are_refused_by_name_and_nothing_changes()
    {
        using var scope = torch.NewDisposeScope();
        using var ema = new EmaModel(_model, EmaSchedule.Constant(0.9));
        ema.Update();
        var before = State(ema);
        var disposed = torch.zeros(4);
        disposed.Dispose();

        Refused("state: '0.weight' is missing", EmaLayout.Timm, _ => new());
        Refused("state: '3.bias' is missing", EmaLayout.Timm, state => { state.Remove("3.bias"); return state; });
        Refused("'module.0.weight' is missing", EmaLayout.SwaUtils, state => state);
        Refused("'n_averaged' is missing", EmaLayout.SwaUtils, _ => Foreign("module.", torch.float32));
        Refused("'extra' is not part of this model", EmaLayout.Timm, state => { state["extra"] = torch.zeros(1); return state; });
        Refused("'n_averaged' is not part of this model", EmaLayout.Timm,
            state => { state["n_averaged"] = torch.tensor(1L); return state; });
        Refused("state['0.bias']: shape [5] does not match [4]", EmaLayout.Timm,
            state => { state["0.bias"] = torch.zeros(5); return state; });
        Refused("state['0.bias']: Int64 does not become Float32", EmaLayout.Timm,
            state => { state["0.bias"] = torch.zeros(4, torch.int64); return state; });
        Refused("state['0.bias']: the tensor is null or disposed", EmaLayout.Timm, state => { state["0.bias"] = disposed; return state; });
        Refused("state['0.bias']: the tensor is null or disposed", EmaLayout.Timm, state => { state["0.bias"] = null!; return state; });
        foreach (var count in (Tensor[])[torch.tensor(-1L), torch.tensor(long.MaxValue), torch.tensor(1.5), torch.zeros(2, torch.int64)])
        {
            Refused("state['n_averaged'] is not one count", EmaLayout.SwaUtils, _ =>
            {
                var state = Foreign("module.", torch.float32);
                state["n_averaged"] = count;
                return state;
            });
        }

        using (var never = new EmaModel(_model, EmaSchedule.Mean(), new EmaOptions { StartAfter = long.MaxValue }))
        {
            var state = Foreign("module.", torch.float32);
            state["n_averaged"] = torch.tensor(2L);
            var far = Assert.Throws<ArgumentException>(() => never.Load(state, EmaLayout.SwaUtils));
            Assert.Contains("out of reach", far.Message, StringComparison.Ordinal);
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => ema.Load(Foreign("", torch.float32), (EmaLayout)9));
        Assert.Throws<ArgumentOutOfRangeException>(() => ema.Load(Foreign("", torch.float32), EmaLayout.Timm, average: 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => ema.Load(Foreign("", torch.float32), EmaLayout.Timm, step: -1));
        Assert.Throws<ArgumentOutOfRangeException>(() => ema.StateDict((EmaLayout)9));
        Assert.Throws<ArgumentOutOfRangeException>(() => ema.StateDict(EmaLayout.Timm, 1));
        Assert.Throws<ArgumentNullException>(() => ema.Load((IReadOnlyDictionary<string, Tensor>)null!, EmaLayout.Timm));
        using (ema.Swap())
        {
            Assert.Throws<InvalidOperationException>(() => ema.Load(Foreign("", torch.float32), EmaLayout.Timm));
            Assert.Throws<InvalidOperationException>(() => ema.StateDict(EmaLayout.Timm));
            Assert.Throws<InvalidOperationException>(() => ema.Save(_path, EmaLayout.Timm));
        }

        SafetensorsFile.Write(_path, [KeyValuePair.Create("0.weight", torch.zeros(4, 5))]);
        var error = Assert.Throws<StateFileException>(() => ema.Load(_path, EmaLayout.Timm));
        Assert.Contains("is missing", error.Message, StringComparison.Ordinal);
        Assert.Equal(before, State(ema));
        Assert.Equal(1, ema.Step);

        void Refused(string message, EmaLayout layout, Func<Dictionary<string, Tensor>, Dictionary<string, Tensor>> change) =>
            Assert.Contains(
                message, Assert.Throws<ArgumentException>(() => ema.Load(change(Foreign("", torch.float32)), layout)).Message,
                StringComparison.Ordinal);
    }

    [Fact]
    public void Layouts_leak_no_tensor()
    {
        TensorLeaks.None(() =>
        {
            using var ema = new EmaModel(_model, EmaSchedule.Mean());
            ema.Update();
            ema.Save(_path, EmaLayout.SwaUtils);
            ema.Load(_path, EmaLayout.SwaUtils);
            ema.StateDict(EmaLayout.SwaUtils)["n_averaged"].Dispose();
        });
    }

    private Dictionary<string, Tensor> Foreign(string prefix, torch.ScalarType type) => _model.state_dict().ToDictionary(
        entry => prefix + entry.Key,
        entry => entry.Value.is_floating_point() ? torch.randn(entry.Value.shape).to(type) : torch.full_like(entry.Value, 12));

    private static Dictionary<string, byte[]> State(EmaModel ema, int average = 0) =>
        ema.StateDict(average).ToDictionary(entry => entry.Key, entry => Bytes(entry.Value));
}
