using System.Numerics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class InfoNceLoss
{
    // Below this many multiplications a thread, waking it is not worth the while.
    private const long MinimumWorkPerThread = 4 << 20;

    private static void RunCpu(in InfoNceWork work)
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

    private static void RunCpu<TIn, T>(in InfoNceWork work)
        where TIn : unmanaged
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        switch (CpuSimd.ProductWidth)
        {
            case SimdWidth.Bits512:
                RunCpu<TIn, T, Lanes512<T>>(work);
                break;
            case SimdWidth.Bits256:
                RunCpu<TIn, T, Lanes256<T>>(work);
                break;
            case SimdWidth.Bits128:
                RunCpu<TIn, T, Lanes128<T>>(work);
                break;
            default:
                RunCpu<TIn, T, Lanes1<T>>(work);
                break;
        }
    }

    private static void RunCpu<TIn, T, TLanes>(in InfoNceWork work)
        where TIn : unmanaged
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        switch (work.Options.Similarity)
        {
            case InfoNceSimilarity.Dot:
                InfoNceStrips<TIn, T, TLanes, DotLogit<T, TLanes>>.Run(work);
                break;
            case InfoNceSimilarity.Cosine:
                InfoNceStrips<TIn, T, TLanes, CosineLogit<T, TLanes>>.Run(work);
                break;
            case InfoNceSimilarity.NegativeSquaredDistance:
                InfoNceStrips<TIn, T, TLanes, SquaredDistanceLogit<T, TLanes>>.Run(work);
                break;
            default:
                InfoNceStrips<TIn, T, TLanes, DistanceLogit<T, TLanes>>.Run(work);
                break;
        }
    }

    /// <summary>
    /// A logit from the dot product of a lane's vector and a row's, and what of a logit's slope goes into the gradients. Of the two vectors
    /// come one number each: squared norms where the logit is a distance, the reciprocal of the row's norm where it is a cosine, whose
    /// lanes are normalised already.
    /// </summary>
    private interface ILogit<T, TLanes>
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        static abstract TLanes Logit(TLanes dot, TLanes lane, TLanes row, in LogitScale<T, TLanes> scale);

        /// <summary>w such that φ gets Σ w ψ and ψ gets Σ w φ, or, for distances, Σ w (ψ − φ) and Σ w (φ − ψ).</summary>
        static abstract TLanes Weight(TLanes slope, TLanes logit, TLanes row, in LogitScale<T, TLanes> scale);
    }

    /// <summary>The constants of an <see cref="ILogit{T, TLanes}"/>: 1 / temperature, its negative, the offset of a distance.</summary>
    private readonly struct LogitScale<T, TLanes>(InfoNceOptions options)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        public TLanes Zero { get; } = TLanes.Broadcast(T.Zero);

        public TLanes Minus2 { get; } = TLanes.Broadcast(-T.One - T.One);

        public TLanes Scale { get; } = TLanes.Broadcast(T.CreateTruncating(1 / options.Temperature));

        public TLanes MinusScale { get; } = TLanes.Broadcast(T.CreateTruncating(-1 / options.Temperature));

        public TLanes MinusScaleSquared { get; } = TLanes.Broadcast(T.CreateTruncating(-1 / (options.Temperature * options.Temperature)));

        public TLanes TwiceScale { get; } = TLanes.Broadcast(T.CreateTruncating(2 / options.Temperature));

        public TLanes Offset { get; } = TLanes.Broadcast(T.CreateTruncating(options.DistanceOffset));
    }

    private readonly struct DotLogit<T, TLanes> : ILogit<T, TLanes>
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        public static TLanes Logit(TLanes dot, TLanes lane, TLanes row, in LogitScale<T, TLanes> scale) => dot * scale.Scale;

        public static TLanes Weight(TLanes slope, TLanes logit, TLanes row, in LogitScale<T, TLanes> scale) => slope * scale.Scale;
    }

    private readonly struct CosineLogit<T, TLanes> : ILogit<T, TLanes>
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        public static TLanes Logit(TLanes dot, TLanes lane, TLanes row, in LogitScale<T, TLanes> scale) => dot * row * scale.Scale;

        public static TLanes Weight(TLanes slope, TLanes logit, TLanes row, in LogitScale<T, TLanes> scale) => slope * row * scale.Scale;
    }

    private readonly struct SquaredDistanceLogit<T, TLanes> : ILogit<T, TLanes>
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        public static TLanes Logit(TLanes dot, TLanes lane, TLanes row, in LogitScale<T, TLanes> scale) =>
            TLanes.Max(TLanes.MultiplyAdd(dot, scale.Minus2, lane + row), scale.Zero) * scale.MinusScale;

        public static TLanes Weight(TLanes slope, TLanes logit, TLanes row, in LogitScale<T, TLanes> scale) => slope * scale.TwiceScale;
    }

    private readonly struct DistanceLogit<T, TLanes> : ILogit<T, TLanes>
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
        where TLanes : struct, ILanes<TLanes, T>
    {
        public static TLanes Logit(TLanes dot, TLanes lane, TLanes row, in LogitScale<T, TLanes> scale) =>
            TLanes.Sqrt(TLanes.Max(TLanes.MultiplyAdd(dot, scale.Minus2, lane + row), scale.Zero) + scale.Offset) * scale.MinusScale;

        public static TLanes Weight(TLanes slope, TLanes logit, TLanes row, in LogitScale<T, TLanes> scale) =>
            TLanes.ZeroWhereZero(slope * scale.MinusScaleSquared / logit, logit);
    }
}
