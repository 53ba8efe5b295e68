using AuxCore.Bench.Experiments;

namespace AuxCore.Tests.Bench;

public sealed class FinishedRunsTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("auxcore").FullName;

    private string FilePath => Path.Combine(_folder, "unfinished", "x.json");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void What_was_computed_is_taken_from_the_file_and_forgotten_at_the_end()
    {
        Assert.Equal([1.5, 2], new FinishedRuns(FilePath, "x, 500 steps").Get("arm, seed 1", () => [1.5, 2]));

        var resumed = new FinishedRuns(FilePath, "x, 500 steps");
        Assert.Equal(1, resumed.Count);
        Assert.Equal([1.5, 2], resumed.Get("arm, seed 1", () => throw new InvalidOperationException("computed twice")));
        Assert.Equal([3], resumed.Get("arm, seed 2", () => [3]));
        Assert.Equal(0, new FinishedRuns(FilePath, "x, 600 steps").Count); // other settings

        resumed.Forget();
        Assert.Equal(0, new FinishedRuns(FilePath, "x, 500 steps").Count);
    }

    [Theory]
    [InlineData("")]
    [InlineData("{\"of\":\"x\"")]
    [InlineData("[1]")]
    [InlineData("{\"of\":\"x\"}")]
    public void A_file_that_is_no_such_file_counts_as_none(string text)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(FilePath)!);
        File.WriteAllText(FilePath, text);

        var runs = new FinishedRuns(FilePath, "x");

        Assert.Equal(0, runs.Count);
        Assert.Equal([4], runs.Get("a", () => [4]));
        Assert.Equal(1, new FinishedRuns(FilePath, "x").Count);
    }

    [Fact]
    public void Without_a_file_nothing_is_kept()
    {
        var runs = new FinishedRuns(null, "x");
        Assert.Equal([1], runs.Get("a", () => [1]));
        runs.Forget();
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder));
    }
}
