using System.Numerics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class ForwardBackwardLoss
{
    // Below this many multiplications a thread, waking it is not worth the while.
    private const long MinimumWorkPerThread = 4 << 20;

    private static void RunCpu(in FbWork work)
    {
        switch (work.DType)
        {
            case DType.Float32:
                RunCpu<float, float>(work);
                break;
            case DType.BFloat16:
                RunCpu<BFloat16, float>(work);
                break;
            default:
                RunCpu<double, double>(work);
                break;
        }
    }

    private static void RunCpu<TIn, T>(in FbWork work)
        where TIn : unmanaged
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        switch (CpuSimd.ProductWidth)
        {
            case SimdWidth.Bits512:
                RunCpu<TIn, T, Lanes512<T>, Lanes512<double>>(work);
                break;
            case SimdWidth.Bits256:
                RunCpu<TIn, T, Lanes256<T>, Lanes256<double>>(work);
                break;
            case SimdWidth.Bits128:
                RunCpu<TIn, T, Lanes128<T>, Lanes128<double>>(work);
                break;
            default:
                RunCpu<TIn, T, Lanes1<T>, Lanes1<double>>(work);
                break;
        }
    }

    private static void RunCpu<TIn, T, TLanes, TDouble>(in FbWork work)
        where TIn : unmanaged
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
        where TDouble : struct, ILanes<TDouble, double>
    {
        if (work.Options.IsGram)
            GramForm<TIn, T, TLanes, TDouble>.Run(work);
        else
            TiledForm<TIn, T, TLanes, TDouble>.Run(work);
    }
}
