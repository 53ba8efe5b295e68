using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvPredictWrite
{
    /// <summary>
    /// A warp for each head of each token of each layer, a launch for each group of layers
    /// (<c>native/cuda/kv_approximation/kv_predict_write.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(KvAppendWork[] works, AuxDevice device, nint stream)
    {
        var first = works[0];
        if (first.Tokens == 0)
            return;
        var layers = new Native.KvPredictLayer[works.Length];
        for (var i = 0; i < layers.Length; i++)
        {
            layers[i] = new()
            {
                Cache = KvCuda.Describe(works[i].Cache),
                Keys = KvCuda.Describe(works[i].Keys),
                Values = KvCuda.Describe(works[i].Values),
            };
        }

        var frequencies = first.Rotary?.FrequenciesOf(first.RotatedElements) ?? [];
        fixed (Native.KvPredictLayer* described = layers)
        fixed (double* radians = frequencies)
        {
            var predict = new Native.KvPredict
            {
                StructSize = (uint)sizeof(Native.KvPredict),
                Tokens = first.Tokens,
                Type = first.Keys.Type,
                LayerCount = layers.Length,
                Layers = described,
                Sequences = first.Places.Sequences,
                Slots = first.Places.Slots,
                Positions = first.Places.Positions,
                NormEpsilon = first.NormEpsilon,
                Rotated = first.RotatedElements,
                IsInPairs = first.Rotary?.Layout == RotaryLayout.Pairs ? 1 : 0,
                Frequencies = radians,
            };
            NativeStatus.Check(
                Native.KvPredictWrite(CudaContext.Of(device.Index, nameof(KvPredictWrite)).Handle, stream, &predict),
                nameof(KvPredictWrite));
        }
    }
}
