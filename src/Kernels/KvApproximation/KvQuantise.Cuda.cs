using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvQuantise
{
    /// <summary>One launch (<c>native/cuda/kv_approximation/kv_quantise.cu</c>); float32 is copied.</summary>
    private static unsafe void RunCuda(in KvQuantiseWork work, AuxDevice device, nint stream)
    {
        var elements = new Native.KvElements
        {
            StructSize = (uint)sizeof(Native.KvElements),
            Format = (int)work.Format,
            Count = work.Count,
            Scale = work.Scale,
            Elements = work.Elements,
            Stored = work.Bytes,
        };
        var context = CudaContext.Of(device.Index, nameof(KvQuantise)).Handle;
        NativeStatus.Check(
            work.IsRestore ? Native.KvDequantise(context, stream, &elements) : Native.KvQuantise(context, stream, &elements),
            nameof(KvQuantise));
    }
}
