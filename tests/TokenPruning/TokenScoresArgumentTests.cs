using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.TokenPruning;

public sealed class TokenScoresArgumentTests : IDisposable
{
    private readonly Scene _scene = new([0], [0], [], null);
    private readonly ScoreTensors _good;

    public TokenScoresArgumentTests() => _good = new()
    {
        Queries = _scene.Tensor(DType.Float32, [2, 4, 3, 5], 1),
        Keys = _scene.Tensor(DType.Float32, [2, 2, 6, 5], 2),
        LogSumExp = _scene.Tensor(DType.Float32, [2, 4, 3], 3),
        HeadWeights = _scene.Tensor(DType.Float32, [4], 4),
        Scores = _scene.Tensor(DType.Float32, [2, 6], -1),
    };

    public void Dispose()
    {
        _scene.Dispose();
        GC.SuppressFinalize(this);
    }

    [Fact]
    public unsafe void Tensors_that_do_not_fit_are_named()
    {
        Bad("Queries: float32[5] on cpu, Keys", _good with { Queries = Floats(5) });
        Bad("both are of rank 4", _good with { Keys = Floats(2, 6, 5) });
        Bad("both are float32, bfloat16 or float16", _good with { Keys = _scene.Tensor(DType.BFloat16, [2, 2, 6, 5], 1) });
        Bad("both are float32", _good with
        {
            Queries = _scene.Tensor(DType.Int32, [2, 4, 3, 5], 1),
            Keys = _scene.Tensor(DType.Int32, [2, 2, 6, 5], 1),
        });
        Bad("Keys: float32[1, 2, 6, 5] on cpu does not match the batch and depth", _good with { Keys = Floats(1, 2, 6, 5) });
        Bad("does not match the batch and depth", _good with { Keys = Floats(2, 2, 6, 4) });
        Bad("the heads are no multiple", _good with { Keys = Floats(2, 3, 6, 5) });
        Bad("the heads are no multiple", _good with { Keys = Floats(2, 0, 6, 5) });
        Bad("or there are none", _good with { Queries = Floats(2, 4, 3, 0), Keys = Floats(2, 2, 6, 0) });
        Bad("Scores: float32[2, 5]", _good with { Scores = Floats(2, 5) });
        Bad("Scores: int32[1]", _good with { Scores = _scene.Integers(1) });
        Bad("LogSumExp: float32[4]", _good with { LogSumExp = _good.HeadWeights });
        Bad("HeadWeights: float32[2, 4, 3]", _good with { HeadWeights = _good.LogSumExp });
        Bad("Queries: 7 rows, but 6 keys", _good with { Queries = Floats(2, 4, 7, 5), LogSumExp = default }, causal: true);
        Bad("Lengths: int32[3]", _good with { Lengths = _scene.Integers(1, 2, 3) });
        Bad("Lengths: float32[4]", _good with { Lengths = _good.HeadWeights });
        Bad("Lengths[1] is 7; it is within 0 and 6", _good with { Lengths = _scene.Integers(6, 7) });
        Bad("Lengths[0] is -1", _good with { Lengths = _scene.Integers(-1, 6) });
        Bad("Lengths[1] is 2; it is within 0 and 6, and with a causal mask no less than the 3 rows",
            _good with { Lengths = _scene.Integers(3, 2) }, causal: true);
        var keys = (void*)_good.Keys.Address;
        Bad("Keys: float32[2, 2, 6, 5] on cpu with strides [60, 30, 1, 6]; the elements of a head must lie side by side",
            _good with { Keys = TensorView.FromPointer(keys, DType.Float32, [2, 2, 6, 5], [60, 30, 1, 6]) });
        Bad("Keys: float32[2, 2, 6, 5] on cpu with strides [60, 30, -5, 1] has a negative stride",
            _good with { Keys = TensorView.FromPointer(keys, DType.Float32, [2, 2, 6, 5], [60, 30, -5, 1]) });
        Bad("Queries: float32[2, 4, 3, 5] on cuda:0, but the scores are on cpu",
            _good with { Queries = TensorView.FromPointer(keys, DType.Float32, [2, 4, 3, 5], device: new(AuxDeviceKind.Cuda)) });
        Bad("Scores overlaps Keys", _good with { Scores = TensorView.FromPointer(keys, DType.Float32, [2, 6]) });
        var sums = (void*)_good.LogSumExp.Address;
        Bad("Scores overlaps LogSumExp", _good with { Scores = TensorView.FromPointer(sums, DType.Float32, [2, 6]) });
        foreach (var scale in (double[])[double.NaN, double.PositiveInfinity])
            Refused<ArgumentOutOfRangeException>("A scale is finite", () => TokenScores.Run(_good, scale: scale));
        Assert.All(Scene.Read(_good.Scores), score => Assert.Equal(Scene.Untouched, score));
    }

    [Fact]
    public void Spans_that_do_not_fit_are_named()
    {
        Refused<ArgumentOutOfRangeException>("queryHeads", () => Run(4, 4, 0, 1, 2, 2));
        Refused<ArgumentOutOfRangeException>("keyHeads", () => Run(4, 4, 1, 0, 2, 2));
        Refused<ArgumentOutOfRangeException>("depth", () => Run(4, 4, 1, 1, 0, 2));
        Refused<ArgumentException>("queries: 5 elements do not match shape [1, 2, 2]", () => Run(5, 4, 1, 1, 2, 2));
        Refused<ArgumentException>("keys: 5 elements do not match shape [1, 2, 2]", () => Run(4, 5, 1, 1, 2, 2));
        Refused<ArgumentException>("scores: 3 elements do not match shape [2]", () => Run(4, 4, 1, 1, 2, 3));
        Refused<ArgumentException>("no multiple", () => Run(4, 8, 1, 2, 2, 2));

        static void Run(int queries, int keys, int queryHeads, int keyHeads, int depth, int scores) =>
            TokenScores.Run(new float[queries], new float[keys], queryHeads, keyHeads, depth, new float[scores]);
    }

    [Fact]
    public void Backends_that_are_not_there_give_their_reason()
    {
        foreach (var backend in (AuxBackend[])[AuxBackend.Ilgpu])
        {
            Assert.False(TokenScores.IsSupported(backend, out var reason));
            Refused<BackendUnavailableException>(reason, () => TokenScores.Run(_good, backend: backend));
        }
    }

    private TensorView Floats(params long[] shape) => _scene.Tensor(DType.Float32, shape, 1);

    private static void Bad(string message, ScoreTensors tensors, bool causal = false) =>
        Refused<ArgumentException>(message, () => TokenScores.Run(tensors, causal));

    private static void Refused<TException>(string message, Action action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
}
