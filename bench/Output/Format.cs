using System.Globalization;
using AuxCore.Bench.Measurement;

namespace AuxCore.Bench.Output;

/// <summary>Figures as people read them: three digits, in the unit that suits.</summary>
internal static class Format
{
    /// <summary>What stands for a figure that was not measured.</summary>
    public const string Missing = "–";

    public static string Number(double value, string format) => value.ToString(format, CultureInfo.InvariantCulture);

    /// <summary>Three significant digits: 1.23, 12.3, 123.</summary>
    public static string Digits(double value) => Number(value, Math.Abs(value) switch { >= 100 => "0", >= 10 => "0.0", _ => "0.00" });

    /// <summary>A time given in microseconds.</summary>
    public static string Time(double microseconds) => microseconds switch
    {
        >= 1e6 => $"{Digits(microseconds / 1e6)} s",
        >= 1e3 => $"{Digits(microseconds / 1e3)} ms",
        >= 1 => $"{Digits(microseconds)} us",
        _ => $"{Digits(microseconds * 1e3)} ns",
    };

    public static string Percent(double? fraction) => fraction is { } value ? $"{Number(value * 100, "0")} %" : Missing;

    public static string Error(double? error) => error switch
    {
        null => Missing,
        0 => "0",
        >= 0.01 => Digits(error.Value),
        _ => Number(error.Value, "0.0e+0"),
    };

    public static string Rate(double? gigabytesPerSecond) => gigabytesPerSecond is { } value ? Digits(value) : Missing;

    /// <summary>A ratio with its quartiles: <c>1.23x [1.10–1.31]</c>.</summary>
    public static string Ratio(Quartiles ratio) => $"{Digits(ratio.Median)}x [{Digits(ratio.Q1)}–{Digits(ratio.Q3)}]";
}
