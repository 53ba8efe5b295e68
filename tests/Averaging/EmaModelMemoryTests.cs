using AuxCore.Models;

namespace AuxCore.Tests.Averaging;

/// <summary>Reads the memory of the whole process, so no other test may run beside it.</summary>
[Collection(ProcessWide.Name)]
[RequiresLibtorch]
public class EmaModelMemoryTests
{
    [Fact]
    public void A_hundred_thousand_updates_leave_memory_flat()
    {
        using var model = EmaModelTests.Network();
        using var ema = new EmaModel(model, [EmaSchedule.Constant(0.999), EmaSchedule.WarmUp()], BufferPolicy.Mix);
        for (var i = 0; i < 200_000; i++) // until the garbage collector has touched all that it allots itself between collections
            ema.Update();
        var (managed, native) = (GC.GetTotalMemory(forceFullCollection: true), Environment.WorkingSet);

        TensorLeaks.None(() =>
        {
            for (var i = 0; i < 100_000; i++)
                ema.Update();
        });

        // A hundred leaked bytes an update would be more.
        Assert.InRange(GC.GetTotalMemory(forceFullCollection: true) - managed, long.MinValue, 1 << 20);
        Assert.InRange(Environment.WorkingSet - native, long.MinValue, 8 << 20);
    }
}
