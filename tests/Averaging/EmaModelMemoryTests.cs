using AuxCore.Models;

namespace AuxCore.Tests.Averaging;

/// <summary>Reads the memory of the whole process, so no other test may run beside it.</summary>
[Collection(ProcessWide.Name)]
public class EmaModelMemoryTests
{
    [Fact]
    public void A_hundred_thousand_updates_leave_memory_flat()
    {
        using var model = EmaModelTests.Network();
        using var ema = new EmaModel(model, [EmaSchedule.Constant(0.999), EmaSchedule.WarmUp()], BufferPolicy.Mix);
        for (var i = 0; i < 5000; i++)
            ema.Update();
        var (managed, native) = (GC.GetTotalMemory(forceFullCollection: true), Environment.WorkingSet);

        TensorLeaks.None(() =>
        {
            for (var i = 0; i < 100_000; i++)
                ema.Update();
        });

        // A tensor an update, or a hundred bytes of anything, would be ten times these bounds.
        Assert.InRange(GC.GetTotalMemory(forceFullCollection: true) - managed, long.MinValue, 1 << 20);
        Assert.InRange(Environment.WorkingSet - native, long.MinValue, 16 << 20);
    }
}
