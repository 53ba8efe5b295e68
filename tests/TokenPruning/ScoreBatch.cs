using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.TokenPruning;

/// <summary>Random queries and keys, as views [B, H, L, d] of memory [B, L, H, d] with gaps, and the formula in double.</summary>
internal sealed unsafe class ScoreBatch : IDisposable
{
    private const int Gap = 3;

    private readonly Scene _scene = new([0], [0], [], null);
    private readonly (int Batch, int QueryHeads, int KeyHeads, int Rows, int Tokens, int Depth) _shape;
    private readonly float[] _weights;
    private readonly double[][] _softmaxes, _causal; // of [b, head, row]

    public ScoreBatch((int Batch, int QueryHeads, int KeyHeads, int Rows, int Tokens, int Depth) shape, DType type, int seed)
    {
        _shape = shape;
        var random = new Random(seed);
        Queries = Interleaved(shape.QueryHeads, shape.Rows, type, random);
        Keys = Interleaved(shape.KeyHeads, shape.Tokens, type, random);
        _weights = [.. Enumerable.Range(0, shape.QueryHeads).Select(_ => (float)random.NextDouble())];
        (_softmaxes, _causal) = (Softmaxes(causal: false, out LogSumExp), Softmaxes(causal: true, out CausalLogSumExp));
    }

    public TensorView Queries { get; }

    public TensorView Keys { get; }

    private readonly float[] LogSumExp, CausalLogSumExp;

    public float[] Score(Runner runner, bool causal, bool given, bool weighted)
    {
        var scores = new float[_shape.Batch * _shape.Tokens + 1];
        scores[^1] = Scene.Untouched;
        fixed (float* s = scores, w = _weights, l = causal ? CausalLogSumExp : LogSumExp)
        {
            var tensors = new ScoreTensors
            {
                Queries = Queries,
                Keys = Keys,
                LogSumExp = given ? TensorView.FromPointer(l, DType.Float32, [_shape.Batch, _shape.QueryHeads, _shape.Rows]) : default,
                HeadWeights = weighted ? TensorView.FromPointer(w, DType.Float32, [_shape.QueryHeads]) : default,
                Scores = TensorView.FromPointer(s, DType.Float32, [_shape.Batch, _shape.Tokens]),
            };
            runner.Run(backend => TokenScores.Run(tensors, causal, backend: backend));
        }

        Assert.Equal(Scene.Untouched, scores[^1]);
        return scores[..^1];
    }

    /// <summary>The same on a device, in memory with the same gaps.</summary>
    public float[] ScoreOnDevice(bool causal, bool given, bool weighted, byte fill = 0x7f)
    {
        using var devices = new Devices();
        var bytes = TokenScores.WorkspaceBytes(_shape.Batch, _shape.QueryHeads, _shape.KeyHeads, _shape.Rows, _shape.Tokens);
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(bytes));
        workspace.FillBytes(fill);
        var tensors = new ScoreTensors
        {
            Queries = Copied(devices, Queries),
            Keys = Copied(devices, Keys),
            LogSumExp = given
                ? devices.Add(causal ? CausalLogSumExp : LogSumExp, _shape.Batch, _shape.QueryHeads, _shape.Rows) : default,
            HeadWeights = weighted ? devices.Add(_weights) : default,
            Scores = devices.Add(new float[_shape.Batch * _shape.Tokens], _shape.Batch, _shape.Tokens),
            Workspace = bytes == 0 ? default : workspace.View(bytes),
        };
        TokenScores.Run(tensors, causal);
        devices.CheckMargins();
        return Devices.Read<float>(tensors.Scores);
    }

    public double[] Expected(bool causal, bool weighted)
    {
        var scores = new double[_shape.Batch * _shape.Tokens];
        for (var i = 0; i < _softmaxes.Length; i++)
        {
            var (b, head) = (i / (_shape.QueryHeads * _shape.Rows), i / _shape.Rows % _shape.QueryHeads);
            var weight = weighted ? _weights[head] : 1.0 / (_shape.QueryHeads * _shape.Rows);
            for (var j = 0; j < _shape.Tokens; j++)
                scores[b * _shape.Tokens + j] += weight * (causal ? _causal : _softmaxes)[i][j];
        }

        return scores;
    }

    public void Dispose() => _scene.Dispose();

    private static TensorView Copied(Devices devices, in TensorView view)
    {
        var size = view.DType.Size();
        var bytes = new ReadOnlySpan<byte>((void*)view.Address, (int)CompactItem.Extent(view));
        var memory = devices.Keep(DeviceBuffer.CopyOf(bytes));
        Assert.Equal(0, bytes.Length % size);
        return TensorView.FromPointer((void*)memory.Address, view.DType, view.Shape, view.Strides(), memory.Device, memory);
    }

    private TensorView Interleaved(int heads, int rows, DType type, Random random)
    {
        var memory = _scene.Tensor(type, [_shape.Batch, rows, heads, _shape.Depth + Gap], -1);
        for (var i = 0; i < memory.ElementCount; i++)
        {
            var value = i % (_shape.Depth + Gap) < _shape.Depth ? (float)(random.NextDouble() * 4 - 2) : float.NaN; // gaps are not read
            ReferenceFormat.Store((void*)memory.Address, type, i, value);
        }

        var strides = memory.Strides();
        return TensorView.FromPointer(
            (void*)memory.Address, type, [_shape.Batch, heads, rows, _shape.Depth], [strides[0], strides[2], strides[1], 1]);
    }

    private double[][] Softmaxes(bool causal, out float[] logSumExp)
    {
        var (queries, keys) = (Scene.Read(Queries), Scene.Read(Keys));
        var all = new double[_shape.Batch * _shape.QueryHeads * _shape.Rows][];
        logSumExp = new float[all.Length];
        for (var i = 0; i < all.Length; i++)
        {
            var (b, head, row) = (i / (_shape.QueryHeads * _shape.Rows), i / _shape.Rows % _shape.QueryHeads, i % _shape.Rows);
            var keyHead = head * _shape.KeyHeads / _shape.QueryHeads;
            all[i] = new double[_shape.Tokens];
            for (var j = 0; j < _shape.Tokens; j++)
            {
                var dot = 0.0;
                for (var k = 0; k < _shape.Depth; k++)
                {
                    dot += (double)queries[i * _shape.Depth + k]
                        * keys[((b * _shape.KeyHeads + keyHead) * _shape.Tokens + j) * _shape.Depth + k];
                }

                var hidden = causal && j > _shape.Tokens - _shape.Rows + row;
                all[i][j] = hidden ? 0 : Math.Exp(dot / Math.Sqrt(_shape.Depth));
            }

            var sum = all[i].Sum();
            logSumExp[i] = (float)Math.Log(sum);
            all[i] = [.. all[i].Select(value => value / sum)];
        }

        return all;
    }
}
