using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KeyRerotate
{
    // A kernel has the frequencies of so many elements as its parameters.
    private const int MostRotated = 256;

    /// <summary>All layers in one launch, or in few (<c>native/cuda/token_pruning/key_rerotate.cu</c>).</summary>
    private static unsafe void RunCuda(RerotateWork work, AuxDevice device, nint stream)
    {
        if (work.Rotated > MostRotated)
        {
            throw TensorArguments.Refused(
                $"options: {work.Rotated} elements are rotated; on a device there are at most {MostRotated}", "options");
        }

        var layers = new Native.KeyLayer[work.Layers.Length];
        for (var i = 0; i < layers.Length; i++)
        {
            var layer = work.Layers[i];
            layers[i] = new()
            {
                Keys = (void*)layer.Address,
                Type = layer.DType,
                Batch = checked((int)layer.Batch),
                Heads = checked((int)layer.Heads),
                BatchStep = layer.BatchStep,
                HeadStep = layer.HeadStep,
                TokenStep = layer.TokenStep,
            };
        }

        fixed (double* frequencies = work.Frequencies)
        fixed (int* rows = work.Rows)
        fixed (Native.KeyLayer* first = layers)
        {
            var batch = new Native.KeyRerotateBatch
            {
                StructSize = (uint)sizeof(Native.KeyRerotateBatch),
                Tokens = work.Tokens,
                Depth = work.Depth,
                Rotated = work.Rotated,
                IsPairs = work.Layout == RotaryLayout.Pairs ? 1u : 0,
                Rows = work.DifferenceRows,
                Differences = work.Differences,
                Frequencies = frequencies,
                RowOf = rows,
                Layers = first,
                LayerCount = layers.Length,
            };
            NativeStatus.Check(
                Native.KeyRerotate(CudaContext.Of(device.Index, nameof(KeyRerotate)).Handle, stream, &batch), nameof(KeyRerotate));
        }
    }
}
