using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Whether each of B states is in each of T sets: the rewards of T auxiliary tasks. Either from features and thresholds,
/// r = 1[feature + threshold &gt; 0], or from packed bits. A NaN feature or threshold makes r NaN, so that it shows in the loss.
/// </summary>
/// <remarks>Made by <see cref="IndicatorCalibration"/>, or by hand. Lengths are checked by the op that takes it.</remarks>
public readonly ref struct Indicators
{
    private Indicators(
        ReadOnlySpan<float> features, ReadOnlySpan<BFloat16> narrow, ReadOnlySpan<float> thresholds, ReadOnlySpan<byte> bits,
        IndicatorKind kind)
    {
        Features = features;
        NarrowFeatures = narrow;
        Thresholds = thresholds;
        Bits = bits;
        Kind = kind;
    }

    /// <summary>From features: r[b, t] = 1 where features[b, t] + thresholds[t] &gt; 0.</summary>
    /// <param name="features">[B, T], row-major.</param>
    /// <param name="thresholds">[T].</param>
    public static Indicators Threshold(ReadOnlySpan<float> features, ReadOnlySpan<float> thresholds) =>
        new(features, default, thresholds, default, IndicatorKind.Threshold);

    /// <inheritdoc cref="Threshold(ReadOnlySpan{float}, ReadOnlySpan{float})"/>
    public static Indicators Threshold(ReadOnlySpan<BFloat16> features, ReadOnlySpan<float> thresholds) =>
        new(default, features, thresholds, default, IndicatorKind.NarrowThreshold);

    /// <summary>
    /// From bits: r[b, t] is bit t mod 8 of byte t / 8 of row b; of a row's last byte, the bits behind task T − 1 are ignored.
    /// </summary>
    /// <param name="bits">[B, <see cref="BytesPerState"/>(T)], row-major.</param>
    public static Indicators Packed(ReadOnlySpan<byte> bits) => new(default, default, default, bits, IndicatorKind.Bits);

    /// <summary>Bytes that a state's packed indicators take: one bit a task, rounded up; 13 for 100 tasks.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Fewer than one task.</exception>
    public static int BytesPerState(int tasks)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(tasks, 1);
        return (int)(((long)tasks + 7) / 8);
    }

    private const string Parameter = "indicators"; // every op calls it so

    internal ReadOnlySpan<float> Features { get; }

    internal ReadOnlySpan<BFloat16> NarrowFeatures { get; }

    internal ReadOnlySpan<float> Thresholds { get; }

    internal ReadOnlySpan<byte> Bits { get; }

    internal IndicatorKind Kind { get; }

    /// <summary>Of features, or uint8 for bits.</summary>
    internal DType ElementType => Kind switch
    {
        IndicatorKind.Threshold => DType.Float32,
        IndicatorKind.NarrowThreshold => DType.BFloat16,
        _ => DType.UInt8,
    };

    /// <summary>Of the three pinned spans, the one that holds what the indicators are made of.</summary>
    internal unsafe void* Pick(float* features, BFloat16* narrow, byte* bits) => Kind switch
    {
        IndicatorKind.Threshold => features,
        IndicatorKind.NarrowThreshold => narrow,
        _ => bits,
    };

    /// <summary>Refuses features and thresholds that are NaN or infinite.</summary>
    internal unsafe void RefuseNonFinite(int rows, int tasks)
    {
        fixed (float* features = Features, thresholds = Thresholds)
        fixed (BFloat16* narrow = NarrowFeatures)
        {
            if (Kind == IndicatorKind.Threshold)
                NonFinite.Refuse(features, DType.Float32, rows, tasks, "indicators.features");
            if (Kind == IndicatorKind.NarrowThreshold)
                NonFinite.Refuse(narrow, DType.BFloat16, rows, tasks, "indicators.features");
            NonFinite.Refuse(thresholds, Thresholds.Length, "indicators.thresholds");
        }
    }

    /// <summary>Refuses lengths that do not fit.</summary>
    internal void Check(int rows, int tasks)
    {
        switch (Kind)
        {
            case IndicatorKind.Threshold:
                TensorArguments.RequireLength("indicators.features", Features.Length, rows, tasks, Parameter);
                break;
            case IndicatorKind.NarrowThreshold:
                TensorArguments.RequireLength("indicators.features", NarrowFeatures.Length, rows, tasks, Parameter);
                break;
            case IndicatorKind.Bits:
                TensorArguments.RequireLength("indicators.bits", Bits.Length, rows, BytesPerState(tasks), Parameter);
                return;
            default:
                throw TensorArguments.Refused("indicators: made by neither Threshold nor Packed", Parameter);
        }

        TensorArguments.RequireLength("indicators.thresholds", Thresholds.Length, tasks, Parameter);
    }
}

/// <summary>What indicators are made of.</summary>
internal enum IndicatorKind
{
    None,
    Threshold,
    NarrowThreshold,
    Bits,
}

/// <summary><see cref="Indicators"/> in memory of any framework, on the host or on a device.</summary>
public readonly struct IndicatorViews
{
    private IndicatorViews(in TensorView data, in TensorView thresholds, bool isPacked) =>
        (Data, Thresholds, IsPacked, IsGiven) = (data, thresholds, isPacked, true);

    /// <summary>From features: r[b, t] = 1 where features[b, t] + thresholds[t] &gt; 0.</summary>
    /// <param name="features">[B, T], float32 or bfloat16, contiguous.</param>
    /// <param name="thresholds">[T], float32, contiguous.</param>
    public static IndicatorViews Threshold(in TensorView features, in TensorView thresholds) => new(features, thresholds, isPacked: false);

    /// <summary>From bits, as <see cref="Indicators.Packed"/> has them.</summary>
    /// <param name="bits">[B, <see cref="Indicators.BytesPerState"/>(T)], uint8, contiguous.</param>
    public static IndicatorViews Packed(in TensorView bits) => new(bits, default, isPacked: true);

    private const string Parameter = "indicators"; // every op calls it so

    internal TensorView Data { get; }

    internal TensorView Thresholds { get; }

    internal bool IsPacked { get; }

    internal bool IsGiven { get; }

    internal void KeepAlive() => TensorArguments.KeepAlive(Data.Owner, Thresholds.Owner);

    internal void Check(long rows, long tasks, AuxDevice device)
    {
        if (!IsGiven)
            throw TensorArguments.Refused("indicators: made by neither Threshold nor Packed", Parameter);
        if (IsPacked)
        {
            TensorArguments.Require(Data, "indicators.bits", [DType.UInt8], [rows, (tasks + 7) / 8], device, Parameter);
            return;
        }

        TensorArguments.Require(Data, "indicators.features", [DType.Float32, DType.BFloat16], [rows, tasks], device, Parameter);
        TensorArguments.Require(Thresholds, "indicators.thresholds", [DType.Float32], [tasks], device, Parameter);
    }
}
