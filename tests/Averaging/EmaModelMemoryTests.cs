using AuxCore.Models;

namespace AuxCore.Tests.Averaging;

/// <summary>Reads the memory of the whole process, so no other test may run beside it.</summary>
[Collection(ProcessWide.Name)]
[RequiresLibtorch]
public class EmaModelMemoryTests
{
    private const int Updates = 400_000;

    [Fact]
    public void Hundreds_of_thousands_of_updates_leave_memory_flat()
    {
        using var model = EmaModelTests.Network();
        using var ema = new EmaModel(model, [EmaSchedule.Constant(0.999), EmaSchedule.WarmUp()], BufferPolicy.Mix);
        Update(Updates / 4); // until all is compiled
        var (managed, native) = (GC.GetTotalMemory(forceFullCollection: true), Environment.WorkingSet);

        TensorLeaks.None(() => Update(Updates));

        // Leaks of 8 and of 64 bytes an update. The collector takes and gives back some ten megabytes as it likes, which only the second
        // sees.
        Assert.InRange(GC.GetTotalMemory(forceFullCollection: true) - managed, long.MinValue, 8 * Updates);
        Assert.InRange(Environment.WorkingSet - native, long.MinValue, 64 * Updates);

        void Update(int count)
        {
            for (var i = 0; i < count; i++)
                ema.Update();
        }
    }
}
