using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Sets of states by hashing: set t holds the observations x with ((a_t · x + b_t) mod P) mod m = 0, where P = 2¹³ − 1, m = ⌊1 / rate⌋, and
/// a_t and b_t are random. These are the hash indicators of proto-value networks (Farebrother et al. 2023, arXiv 2304.12567;
/// google-research, <c>pvn/indicator_functions.py</c>). Nothing has to be calibrated, and similar observations have nothing in common.
/// <code>
/// var sets = new HashIndicators(length: 400, tasks: 100, rate: 0.05, seed: 1);
/// using var bits = sets.Pack(observations);
/// </code>
/// </summary>
/// <remarks>Immutable, thread-safe.</remarks>
public sealed class HashIndicators
{
    private const int Prime = (1 << 13) - 1;

    private readonly int[] _factors; // [length, T]: an observation adds whole rows
    private readonly int[] _offsets;

    /// <summary>Random sets.</summary>
    /// <param name="length">How many numbers an observation has.</param>
    /// <param name="tasks">T.</param>
    /// <param name="rate">About which share of the observations a set holds, within (0, 1).</param>
    /// <param name="seed">Seeds the factors.</param>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A size is below 1, or the rate lies outside (0, 1), or asks for more bins than P has remainders.
    /// </exception>
    public HashIndicators(int length, int tasks, double rate, int seed = 0)
    {
        Sizes.RequirePositive((nameof(length), length), (nameof(tasks), tasks));
        if (!(rate is > 0 and < 1) || 1 / rate > Prime) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(rate), rate, $"A rate lies within (0, 1), and is 1 / {Prime} at least.");
        (Length, Tasks, Bins) = (length, tasks, (int)(1 / rate));
        (_factors, _offsets) = (new int[checked(length * tasks)], new int[tasks]);
        for (var i = 0; i < _factors.Length; i++)
            _factors[i] = 1 + Draw(i, 0, Prime - 1);
        for (var t = 0; t < tasks; t++)
            _offsets[t] = Draw(t, 1, Prime);

        int Draw(int at, uint purpose, int limit)
        {
            var random = (uint)Philox.Block((uint)at, 0, 0, purpose, (uint)seed).Low;
            return (int)((ulong)random * (uint)limit >> 32);
        }
    }

    /// <summary>How many numbers an observation has.</summary>
    public int Length { get; }

    /// <summary>T.</summary>
    public int Tasks { get; }

    /// <summary>m: a set holds about one in m observations.</summary>
    public int Bins { get; }

    /// <summary>Which states are in which sets, as bits.</summary>
    /// <param name="observations">
    /// [n, …] with <see cref="Length"/> numbers each: uint8, bool, or float32 that holds whole numbers within 0 and 255. On the CPU.
    /// </param>
    /// <returns>[n, <see cref="Indicators.BytesPerState"/>(T)], uint8.</returns>
    /// <exception cref="ArgumentException">Dtype, shape or a value does not fit; the message names it.</exception>
    /// <exception cref="ObjectDisposedException">The observations were disposed.</exception>
    public Tensor Pack(Tensor observations)
    {
        var bits = Hash(observations, counts: null, out var rows);
        return torch.tensor(bits, [rows, Indicators.BytesPerState(Tasks)]);
    }

    /// <summary>What the sets are like on some states: dead tasks, full ones, how large the others are.</summary>
    /// <param name="observations">As <see cref="Pack"/> takes them.</param>
    /// <inheritdoc cref="Pack" path="/exception"/>
    public IndicatorReport Inspect(Tensor observations)
    {
        var counts = new int[Tasks];
        Hash(observations, counts, out var rows);
        return IndicatorReport.Of(counts, rows);
    }

    private byte[] Hash(Tensor observations, int[]? counts, out long rows)
    {
        Batches.Require(observations, nameof(observations));
        rows = observations.shape.Length == 0 ? 0 : observations.shape[0];
        if (rows < 1 || observations.numel() != rows * Length || observations.device_type != DeviceType.CPU
            || observations.dtype is not (torch.ScalarType.Byte or torch.ScalarType.Bool or torch.ScalarType.Float32))
        {
            throw new ArgumentException(
                $"observations: {Batches.Describe(observations)} on {observations.device} is not n times {Length} of Byte, Bool or Float32 "
                + "on the CPU",
                nameof(observations));
        }

        using var scope = torch.NewDisposeScope();
        var whole = observations.to(torch.uint8);
        if (observations.dtype == torch.ScalarType.Float32 && !whole.eq(observations).all().item<bool>())
            throw new ArgumentException("observations: a value is no whole number within 0 and 255", nameof(observations));
        var values = whole.contiguous().data<byte>().ToArray();
        var bits = new byte[rows * Indicators.BytesPerState(Tasks)];
        var sums = new long[Tasks];
        for (var row = 0; row < rows; row++)
        {
            for (var t = 0; t < Tasks; t++)
                sums[t] = _offsets[t];
            for (var at = 0; at < Length; at++)
                Add(values[row * Length + at], _factors.AsSpan(at * Tasks, Tasks), sums);
            for (var t = 0; t < Tasks; t++)
            {
                if (sums[t] % Prime % Bins != 0)
                    continue;
                bits[row * Indicators.BytesPerState(Tasks) + t / 8] |= (byte)(1 << t % 8);
                if (counts is not null)
                    counts[t]++;
            }
        }

        return bits;
    }

    private static void Add(byte value, ReadOnlySpan<int> factors, Span<long> sums)
    {
        if (value == 0)
            return;
        for (var t = 0; t < factors.Length; t++)
            sums[t] += (long)value * factors[t];
    }
}
