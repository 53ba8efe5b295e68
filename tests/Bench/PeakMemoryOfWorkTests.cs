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

    private static unsafe void Touch(int bytes)
    {
        var memory = (byte*)System.Runtime.InteropServices.NativeMemory.Alloc((nuint)bytes);
        new Span<byte>(memory, bytes).Fill(1);
        System.Runtime.InteropServices.NativeMemory.Free(memory);
    }
}
