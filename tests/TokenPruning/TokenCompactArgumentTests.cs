using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.TokenPruning;

public sealed class TokenCompactArgumentTests : IDisposable
{
    private readonly Scene _scene = new([0, 4, 6], [0, 2, 3], [1, 3, 5], [-1, 0, -1, 1, -1, 2]);
    private readonly TensorView _source, _destination;

    public TokenCompactArgumentTests() =>
        (_source, _destination) = (_scene.Tensor(DType.Float32, [6, 2], 1), _scene.Tensor(DType.Float32, [3, 2], -1));

    public void Dispose()
    {
        _scene.Dispose();
        GC.SuppressFinalize(this);
    }

    [Fact]
    public void Spans_that_do_not_fit_are_named()
    {
        var (source, destination, gradient) = (new float[12], new float[6], new float[12]);
        destination.AsSpan().Fill(Scene.Untouched);
        gradient.AsSpan().Fill(Scene.Untouched);
        void Compact(int width, params int[] indices) => TokenCompact.Run<float>(source, width, indices, destination);
        void Spread(int width, params int[] slots) => TokenCompact.Backward<float>(new float[6], width, slots, gradient);

        Refused<ArgumentOutOfRangeException>("width", () => Compact(0, 1));
        Refused<ArgumentException>("source: 12 elements are not rows of 5", () => Compact(5, 1));
        Refused<ArgumentException>("destination: 6 elements are not 4 rows of 2 or more", () => Compact(2, 0, 1, 2, 3));
        Refused<ArgumentException>("destination: 6 elements are not 1 rows of 4", () => Compact(4, 0));
        Refused<ArgumentException>("indices[1] is 1", () => Compact(2, 1, 1));
        Refused<ArgumentException>("indices[2] is 0", () => Compact(2, 1, 3, 0));
        Refused<ArgumentException>("indices[0] is -1", () => Compact(2, -1));
        Refused<ArgumentException>("indices[0] is 6; those of segment 0 ascend within 0 and 5", () => Compact(2, 6));
        Refused<ArgumentException>(
            "rows.destination overlaps rows.source", () => TokenCompact.Run<float>(source, 2, [1], source.AsSpan(1, 2)));
        Refused<ArgumentOutOfRangeException>("width", () => Spread(-1, 0));
        Refused<ArgumentException>("outputGradient: 6 elements are not rows of 4", () => Spread(4, 0));
        Refused<ArgumentException>("gradient: 12 elements are not 5 rows of 2", () => Spread(2, 0, 1, 2, -1, -1));
        Refused<ArgumentException>("slots[5] is 3; those of segment 0 are -1 or within 0 and 2", () => Spread(2, 0, -1, 1, -1, 2, 3));
        Refused<ArgumentException>("slots[0] is -2", () => Spread(2, -2, -1, 1, -1, 2, 0));
        Refused<ArgumentException>(
            "overlaps", () => TokenCompact.Backward<float>(gradient.AsSpan(0, 6), 2, [0, -1, 1, -1, -1, -1], gradient));

        Assert.All([.. destination, .. gradient], value => Assert.Equal(Scene.Untouched, value));
        Assert.All(source, value => Assert.Equal(0, value));
    }

    [Fact]
    public void Tensors_that_do_not_fit_are_named()
    {
        var padded = _scene.Tensor(DType.Float32, [2, 4, 3], 1);
        var (room, narrow) = (_scene.Tensor(DType.Float32, [2, 2, 3], -1), _scene.Tensor(DType.Float32, [2, 1, 3], -1));

        Bad("tensors[1].source: missing", default, _destination);
        Bad("tensors[1]: the destination bfloat16[3, 2] on cpu is not of the source's dtype",
            _source, _scene.Tensor(DType.BFloat16, [3, 2], -1));
        Bad("tensors[1]: tokenAxis 2 is not a dimension of float32[6, 2]", TokenRows.Ragged(_source, _destination, 2));
        Bad("tensors[1]: tokenAxis -1", TokenRows.Ragged(_source, _destination, -1));
        Bad("tensors[1]: segmentAxis is not another dimension than tokenAxis 1", TokenRows.Padded(padded, room, 1, 1));
        Bad("tensors[1]: segmentAxis", TokenRows.Padded(padded, room, 3, 1));
        Bad("tensors[1]: segmentAxis", TokenRows.Padded(padded, room, -1, 1));
        Bad("does not match float32[6, 2] on cpu but for the tokens of axis 0", _source, _scene.Tensor(DType.Float32, [3, 3], -1));
        Bad("does not match", _source, _scene.Tensor(DType.Float32, [3], -1));
        Bad("has 4 segments in axis 1, not 2", TokenRows.Padded(padded, _scene.Tensor(DType.Float32, [1, 4, 3], -1), 1, 0));
        Bad("tensors[1]: 5 tokens, but the selection was made of 6", _scene.Tensor(DType.Float32, [5, 2], 1), _destination);
        Bad("tensors[1]: 7 tokens, but the selection was made of 6", _scene.Tensor(DType.Float32, [7, 2], 1), _destination);
        Bad("tensors[1]: 3 tokens, but the selection was made of 4 in a segment",
            TokenRows.Padded(_scene.Tensor(DType.Float32, [2, 3, 3], 1), room));
        Bad("tensors[1]: place for 2 kept tokens, but 3 were kept", _source, _scene.Tensor(DType.Float32, [2, 2], -1));
        Bad("tensors[1]: place for 1 kept tokens, but 2 were kept", TokenRows.Padded(padded, narrow));
        Untouched(_destination, room, narrow);
    }

    [Fact]
    public unsafe void Memory_that_is_shared_strided_or_elsewhere_is_named()
    {
        var wide = _scene.Tensor(DType.Float32, [6, 4], 1);
        var strided = TensorView.FromPointer((void*)wide.Address, DType.Float32, [6, 2], [4, 2]);
        var expanded = TensorView.FromPointer((void*)_destination.Address, DType.Float32, [3, 2], [0, 1]);
        var backwards = TensorView.FromPointer((float*)_source.Address + 10, DType.Float32, [6, 2], [-2, 1]);
        var far = TensorView.FromPointer((void*)4096, DType.Float32, [6, 2], device: new(AuxDeviceKind.Cuda));
        var within = TensorView.FromPointer((float*)_source.Address + 2, DType.Float32, [3, 2]);
        var heads = _scene.Tensor(DType.Float32, [2, 6, 3], 1);
        var turned = TensorView.FromPointer((void*)heads.Address, DType.Float32, [2, 6, 3], [3, 6, 1]);

        Bad("tensors[1].source: float32[6, 2] on cpu with strides [4, 2]; a token's row must be dense", strided, _destination);
        Bad("tensors[1].destination: float32[3, 2] on cpu with strides [0, 1] has elements that share memory", _source, expanded);
        Bad("has a negative stride", backwards, _destination);
        Bad("tensors[1].source: float32[6, 2] on cuda:0, but the selection is on cpu", far, _destination);
        Bad("tensors[1].destination overlaps tensors[0].destination", _source, _destination);
        Bad("tensors[1].destination overlaps tensors[0].source", _source, within);
        Bad("tensors[1].destination overlaps tensors[1].source", TokenRows.Ragged(heads, turned, 1)); // the same memory, another order
        Refused<ArgumentException>("tensors[0].destination overlaps tensors[0].source", () => TokenCompact.Backward(
            [TokenRows.Ragged(_source, _source)], _scene.Segments, _scene.Selection));
        Untouched(_destination);
        Assert.Equal(1, Scene.Read(_source)[0]);
    }

    [Fact]
    public void A_selection_of_other_segments_is_refused()
    {
        SelectionViews good = _scene.Selection;

        BadSelection("selection.Offsets: int32[2]", good with { Offsets = _scene.Integers(0, 3) });
        BadSelection("offsets[2] is 1, below 2", good with { Offsets = _scene.Integers(0, 2, 1) });
        BadSelection("offsets[0] is 1", good with { Offsets = _scene.Integers(1, 2, 3) });
        BadSelection("offsets: 3 tokens kept of segment 1, which has 2", good with { Offsets = _scene.Integers(0, 0, 3) });
        BadSelection("selection.Indices: int32[2], but 3 tokens were kept", good with { Indices = _scene.Integers(1, 3) });
        BadSelection("indices[2] is 3; those of segment 1 ascend within 4 and 5", good with { Indices = _scene.Integers(1, 2, 3) });
        BadSelection("selection.Indices: float32", good with { Indices = _scene.Tensor(DType.Float32, [3], 1) });
        Refused<ArgumentException>("selection.Slots: int32[5], but there are 6 tokens", () => TokenCompact.Backward(
            [TokenRows.Ragged(_destination, _source)], _scene.Segments, good with { Slots = _scene.Integers(-1, 0, -1, 1, -1) }));
        Refused<ArgumentException>("slots[5] is 1; those of segment 1 are -1 or within 2 and 2", () => TokenCompact.Backward(
            [TokenRows.Ragged(_destination, _source)], _scene.Segments, good with { Slots = _scene.Integers(-1, 0, -1, 1, -1, 1) }));
        Refused<ArgumentException>("segments: int32[0]", () => TokenCompact.Run([], _scene.Integers(), good));
        Refused<ArgumentException>("segments: float32", () => TokenCompact.Run([], _scene.Tensor(DType.Float32, [3], 1), good));
        Refused<ArgumentException>("selection.Slots", () => TokenCompact.Backward([], _scene.Segments, good with { Slots = default }));
        Untouched(_destination);
        TokenCompact.Run([], _scene.Segments, good);

        void BadSelection(string message, SelectionViews bad) => Refused<ArgumentException>(
            message, () => TokenCompact.Run([TokenRows.Ragged(_source, _destination)], _scene.Segments, bad));
    }

    [Fact]
    public void Devices_do_not_run_on_host_memory()
    {
        foreach (var backend in (AuxBackend[])[AuxBackend.Cuda, AuxBackend.Ilgpu])
        {
            Refused<BackendUnavailableException>(
                "TokenCompact", () => TokenCompact.Run<float>(new float[4], 2, [1], new float[2], backend));
        }
    }

    private void Bad(string message, in TensorView source, in TensorView destination) =>
        Bad(message, TokenRows.Ragged(source, destination));

    // The first tensor is good, the second bad: neither is written.
    private void Bad(string message, TokenRows bad) => Refused<ArgumentException>(message, () => TokenCompact.Run(
        [TokenRows.Ragged(_source, _destination), bad], _scene.Segments, _scene.Selection));

    private static void Untouched(params TensorView[] views) =>
        Assert.All(views, view => Assert.All(Scene.Read(view), value => Assert.Equal(Scene.Untouched, value)));

    private static void Refused<TException>(string message, Action action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
}
