using AuxCore.Bench.Experiments;
using AuxCore.Tests.Data;

namespace AuxCore.Tests.Bench;

public class ExperimentJournalTests
{
    [Fact]
    public void What_was_finished_is_not_done_again()
    {
        using var folder = new TempFolder();
        var first = Open(folder, "4 steps");
        Assert.Equal([1.5, double.MaxValue], first.Part("a", () => [1.5, double.MaxValue]));
        Assert.Throws<OperationCanceledException>(() => first.Part("b", () => throw new OperationCanceledException()));

        var second = Open(folder, "4 steps");

        Assert.Equal(1, second.Count);
        Assert.Equal([1.5, double.MaxValue], second.Part("a", () => throw new InvalidOperationException("done again")));
        Assert.Equal([2], second.Part("b", () => [2]));
        Assert.Equal(2, Open(folder, "4 steps").Count);
    }

    [Fact]
    public void Parts_of_other_settings_or_builds_are_not_taken()
    {
        using var folder = new TempFolder();
        Open(folder, "4 steps").Part("a", () => [1]);

        Assert.Equal(0, Open(folder, "5 steps").Count);
        Assert.Equal(0, Open(folder, "4 steps", "another").Count);
        Assert.Equal(0, new ExperimentJournal("test", "4 steps", folder.Path).Count);
        Assert.Equal([2], Open(folder, "5 steps").Part("a", () => [2]));
        Assert.Equal(0, Open(folder, "4 steps").Count); // the file is that of the other settings now
    }

    [Fact]
    public void A_complete_experiment_begins_anew()
    {
        using var folder = new TempFolder();
        var journal = Open(folder, "4 steps");
        journal.Part("a", () => [1]);

        journal.Complete();

        Assert.Equal(0, journal.Count);
        Assert.Equal(0, Open(folder, "4 steps").Count);
        journal.Complete(); // also without a file
    }

    [Theory]
    [InlineData("")]
    [InlineData("{")]
    [InlineData("null")]
    [InlineData("{\"Version\":null,\"Parts\":null}")]
    public void A_file_of_something_else_is_left_out(string content)
    {
        using var folder = new TempFolder();
        File.WriteAllText(Path.Combine(folder.Path, "test.partial.json"), content);

        Assert.Equal([3], Open(folder, "4 steps").Part("a", () => [3]));
        Assert.Equal(1, Open(folder, "4 steps").Count);
    }

    private static ExperimentJournal Open(TempFolder folder, string settings, string build = "this") =>
        new("test", settings, folder.Path, build);
}
