using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using AuxCore.Bench.Measurement;

namespace AuxCore.Tests.Bench;

[Collection(ProcessWide.Name)]
public class PeakMemoryOfWorkTests
{
    private const int Bytes = 96 << 20;

    [Fact]
    public void Memory_that_is_given_back_before_the_end_counts()
    {
        Assert.SkipUnless(PeakMemory.IsAvailable, "peak memory is read from Linux's /proc");

        var large = PeakMemory.Of(() => Touch(Bytes))!.Value;
        var none = PeakMemory.Of(() => { })!.Value;

        Assert.InRange(large, Bytes * 0.9, Bytes * 1.5);
        Assert.InRange(none, 0, Bytes * 0.5);
    }

    [Fact]
    public void Memory_that_finalizers_give_back_is_not_missing_afterwards()
    {
        Assert.SkipUnless(PeakMemory.IsAvailable, "peak memory is read from Linux's /proc");
        Abandon();

        var peak = PeakMemory.Of(() =>
        {
            Thread.Sleep(4 * Abandoned.Delay); // by then any finalizer is through
            Touch(Bytes);
        })!.Value;

        Assert.InRange(peak, Bytes * 0.9, Bytes * 1.5);
    }

    private static unsafe void Touch(int bytes) => NativeMemory.Free(Filled(bytes));

    private static unsafe void* Filled(int bytes)
    {
        var memory = NativeMemory.Alloc((nuint)bytes);
        new Span<byte>(memory, bytes).Fill(1);
        return memory;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Abandon() => _ = new Abandoned();

    /// <summary>Native memory that a finalizer gives back, in its own time.</summary>
    private sealed unsafe class Abandoned
    {
        public const int Delay = 50; // ms

        private readonly void* _memory = Filled(Bytes);

        ~Abandoned()
        {
            Thread.Sleep(Delay);
            NativeMemory.Free(_memory);
        }
    }
}
