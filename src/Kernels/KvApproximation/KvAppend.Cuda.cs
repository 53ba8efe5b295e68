using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvAppend
{
    /// <summary>One launch, a warp for each head of each token (<c>native/cuda/kv_approximation/kv_append.cu</c>).</summary>
    private static unsafe void RunCuda(in KvAppendWork work, AuxDevice device, nint stream)
    {
        if (work.Tokens == 0)
            return;
        var cache = KvCuda.Describe(work.Cache);
        var frequencies = work.Rotary?.FrequenciesOf(work.RotatedElements) ?? [];
        fixed (double* radians = frequencies)
        {
            var append = new Native.KvAppend
            {
                StructSize = (uint)sizeof(Native.KvAppend),
                Tokens = work.Tokens,
                Type = work.Keys.Type,
                SlotsAreOfHeads = work.Places.SlotsOfToken > 1 ? 1u : 0,
                Query = KvCuda.Describe(work.Query),
                Keys = KvCuda.Describe(work.Keys),
                Values = KvCuda.Describe(work.Values),
                RotatedQuery = work.Rotated,
                RotatedStep = work.RotatedStep * sizeof(float),
                Sequences = work.Places.Sequences,
                Slots = work.Places.Slots,
                Positions = work.Places.Positions,
                NormEpsilon = work.NormEpsilon,
                Rotated = work.RotatedElements,
                IsInPairs = work.Rotary?.Layout == RotaryLayout.Pairs ? 1 : 0,
                Frequencies = radians,
            };
            NativeStatus.Check(
                Native.KvAppendTokens(CudaContext.Of(device.Index, nameof(KvAppend)).Handle, stream, &cache, &append), nameof(KvAppend));
        }
    }
}
