using AuxCore.Bench.Data;

namespace AuxCore.Tests.Data;

[Collection(nameof(FakeApt))]
public sealed class DataVerbsTests : IDisposable
{
    private readonly FakeApt _apt = new();
    private readonly StringWriter _log = new();

    public void Dispose()
    {
        _apt.Dispose();
        _log.Dispose();
    }

    [Fact]
    public void List_says_what_there_is_and_whether_it_is_here()
    {
        DataVerbs.List(_log, _apt.Store());
        Assert.Contains("tiny: Two words", _log.ToString());
        Assert.Contains("licence  MIT", _log.ToString());
        Assert.Contains("apt package tiny 1.0", _log.ToString());
        Assert.Contains("not in the cache; `data fetch tiny` gets it", _log.ToString());
    }

    [Fact]
    public void List_tells_a_verified_set_from_a_damaged_one()
    {
        _apt.Store().Fetch(FakeApt.Id, _ => { });
        DataVerbs.List(_log, _apt.Store());
        Assert.Contains("in the cache, 2 files, SHA-256 verified", _log.ToString());

        _apt.Put("one.gz", "damaged");
        DataVerbs.List(_log, _apt.Store());
        Assert.Contains("damaged; `data fetch tiny` replaces it", _log.ToString());
    }

    [Theory]
    [InlineData(FakeApt.Id)]
    [InlineData(null)]
    public void Fetch_fetches_one_or_all(string? id)
    {
        Assert.Equal(0, DataVerbs.Fetch(id, _log, _apt.Store()));
        Assert.NotNull(_apt.Store().Find(FakeApt.Id));
        Assert.Contains("2 files verified", _log.ToString());
    }

    [Fact]
    public void Failures_are_exit_codes_with_a_message_that_fits_the_screen()
    {
        Assert.Equal(1, DataVerbs.Fetch(FakeApt.Id, _log, _apt.Store(FakeApt.Manifest(archive: "another"))));
        var words = string.Join(' ', Enumerable.Repeat("unreachable", 30)) + $" {new string('x', 120)} after it";
        _apt.AptGet = _apt.Script("failing", $"echo 'E: {words}' >&2; exit 100");

        Assert.Equal(1, DataVerbs.Fetch(FakeApt.Id, _log, _apt.Store()));
        Assert.Equal(1, DataVerbs.Fetch("huge", _log, _apt.Store()));

        var lines = _log.ToString().Split('\n');
        Assert.Contains($"  expected {FakeApt.Sha256("another")}", lines);
        Assert.Contains(lines, line => line.StartsWith("error: tiny could not be fetched", StringComparison.Ordinal));
        Assert.Contains(lines, line => line.StartsWith("error: no data set is called 'huge'", StringComparison.Ordinal));
        Assert.All(lines, line => Assert.True(line.Length <= 100 || !line.Trim().Contains(' '), line));
        Assert.Equal(30, lines.Sum(line => line.Split("unreachable").Length - 1));
    }

    [Fact]
    public void Fixture_needs_the_full_set()
    {
        using var folder = new TempFolder();
        var store = new DataStore(DataStore.Default.Manifest, folder["cache"]);
        Assert.Equal(1, DataVerbs.Fixture(_log, folder["fixture"], store));
        Assert.Contains("is not in the cache", _log.ToString());
    }
}
