using AuxCore.Bench.Workloads;

namespace AuxCore.Tests.Bench;

public class ClassIncrementalTests
{
    [Fact]
    public void Last_accuracy_and_forgetting_are_those_of_a_table_by_hand()
    {
        var measured = new ClassIncremental();
        measured.Add([90]);
        Assert.Equal((90, 0), (measured.LastAccuracy, measured.Forgetting));
        measured.Add([95, 80]);
        measured.Add([60, 70, 50]);

        Assert.Equal(60, measured.LastAccuracy, 1e-12);
        Assert.Equal((95 - 60 + (80 - 70)) / 2.0, measured.Forgetting, 1e-12); // the best before, not the first
        Assert.Throws<ArgumentException>(() => measured.Add([1, 2]));
    }

    [Fact]
    public void An_order_has_every_class_once_and_depends_on_the_seed_alone()
    {
        Assert.Equal(Enumerable.Range(0, 10), ClassIncremental.Order(10, 3).Order());
        Assert.Equal(ClassIncremental.Order(10, 3), ClassIncremental.Order(10, 3));
        Assert.NotEqual(ClassIncremental.Order(10, 3), ClassIncremental.Order(10, 4));
    }
}
