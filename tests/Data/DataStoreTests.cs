using AuxCore.Bench.Data;

namespace AuxCore.Tests.Data;

// A script that is being written while another test starts a process cannot be run (ETXTBSY), so these take turns.
[Collection(nameof(FakeApt))]
public sealed class DataStoreTests : IDisposable
{
    private readonly FakeApt _apt = new();
    private readonly List<string> _log = [];

    public void Dispose() => _apt.Dispose();

    [Fact]
    public void An_empty_cache_finds_nothing() => Assert.Null(_apt.Store().Find(FakeApt.Id));

    [Fact]
    public void A_fetched_data_set_is_found_with_its_notice()
    {
        var fetched = _apt.Store().Fetch(FakeApt.Id, _log.Add);

        Assert.Equal("one", File.ReadAllText(fetched["one.gz"]));
        Assert.Equal(fetched, _apt.Store().Find(FakeApt.Id));
        var folder = _apt.Store().FolderOf(FakeApt.Id);
        Assert.Equal("Copyright of nobody\n", File.ReadAllText(Path.Combine(folder, "NOTICE")));
        Assert.Equal(["NOTICE", "one.gz", "two.gz"], Directory.GetFiles(folder).Select(Path.GetFileName).Order());
        Assert.Equal(["-q download tiny=1.0"], _apt.Calls);
        Assert.Contains(folder, _log[^1]);
    }

    [Fact]
    public void What_is_cached_is_not_fetched_again()
    {
        _apt.Store().Fetch(FakeApt.Id, _log.Add);
        _apt.Store().Fetch(FakeApt.Id, _log.Add);
        Assert.Single(_apt.Calls);
    }

    [Fact]
    public void Half_a_data_set_is_none_and_fetch_completes_it()
    {
        _apt.Put("one.gz", "one");
        Assert.Null(_apt.Store().Find(FakeApt.Id));
        Assert.Equal(2, _apt.Store().Fetch(FakeApt.Id, _log.Add).Count);
    }

    [Fact]
    public void Files_put_there_by_hand_are_found()
    {
        _apt.Put("one.gz", "one");
        _apt.Put("two.gz", "two");
        Assert.Equal(2, _apt.Store().Find(FakeApt.Id)!.Count);
    }

    [Fact]
    public void A_damaged_file_is_an_error_that_deletes_nothing_and_fetch_replaces_it()
    {
        _apt.Put("one.gz", "one");
        var path = _apt.Put("two.gz", "damaged");

        var fault = Assert.Throws<InvalidDataException>(() => _apt.Store().Find(FakeApt.Id));

        Assert.Contains(path, fault.Message);
        Assert.Contains($"expected {FakeApt.Sha256("two")}", fault.Message);
        Assert.Contains($"found    {FakeApt.Sha256("damaged")}", fault.Message);
        Assert.Equal("damaged", File.ReadAllText(path));
        Assert.Equal("two", File.ReadAllText(_apt.Store().Fetch(FakeApt.Id, _log.Add)["two.gz"]));
    }

    [Fact]
    public void Damage_after_a_check_is_seen_by_the_next_check()
    {
        var path = _apt.Store().Fetch(FakeApt.Id, _log.Add)["two.gz"];
        File.WriteAllText(path, "2");
        Assert.Throws<InvalidDataException>(() => _apt.Store().Find(FakeApt.Id));
    }

    [Fact]
    public void A_wrong_archive_leaves_the_cache_as_it_was()
    {
        var before = _apt.Put("one.gz", "what was there");

        var fault = Assert.Throws<InvalidDataException>(() => _apt.Store(FakeApt.Manifest(archive: "another")).Fetch(FakeApt.Id, _log.Add));

        Assert.Contains("tiny_1.0_all.deb", fault.Message);
        Assert.Contains($"expected {FakeApt.Sha256("another")}", fault.Message);
        Assert.Contains($"found    {FakeApt.Sha256("the package")}", fault.Message);
        AssertOnly(before, "what was there");
    }

    [Fact]
    public void A_wrong_member_leaves_the_cache_as_it_was()
    {
        var before = _apt.Put("one.gz", "what was there");
        // The first member is right: it must not enter the cache either.
        var fault = Assert.Throws<InvalidDataException>(() => _apt.Store(FakeApt.Manifest(two: "2")).Fetch(FakeApt.Id, _log.Add));
        Assert.Contains("usr/share/two.gz", fault.Message);
        AssertOnly(before, "what was there");
    }

    [Fact]
    public void A_missing_member_leaves_the_cache_as_it_was()
    {
        var before = _apt.Put("one.gz", "what was there");
        var store = _apt.Store(FakeApt.Manifest(member: "usr/lib/two.gz"));
        var fault = Assert.Throws<InvalidDataException>(() => store.Fetch(FakeApt.Id, _log.Add));
        Assert.Contains("tiny 1.0 has no member usr/lib/two.gz", fault.Message);
        AssertOnly(before, "what was there");
    }

    [Fact]
    public void Without_a_network_the_message_says_what_happened_and_what_to_do()
    {
        _apt.AptGet = _apt.Script("failing", """
            for i in 1 2 3 4 5; do echo "E: line $i" >&2; done
            echo 'E: Temporary failure resolving' >&2
            exit 100
            """);

        var fault = Assert.Throws<DataUnavailableException>(() => _apt.Store().Fetch(FakeApt.Id, _log.Add));

        Assert.Contains("download tiny=1.0` failed with exit code 100", fault.Message);
        Assert.Contains("E: Temporary failure resolving", fault.Message);
        Assert.DoesNotContain("E: line 1\n", fault.Message);
        Assert.Contains("Run `apt-get update` and fetch again", fault.Message);
        Assert.Contains(_apt.Store().FolderOf(FakeApt.Id), fault.Message);
        Assert.Contains($"{FakeApt.Sha256("one")}  one.gz", fault.Message);
        Assert.False(Directory.Exists(_apt.Root));
    }

    [Fact]
    public void Without_apt_get_the_message_says_so()
    {
        _apt.AptGet = "auxcore-no-such-apt-get";
        var fault = Assert.Throws<DataUnavailableException>(() => _apt.Store().Fetch(FakeApt.Id, _log.Add));
        Assert.Contains("`auxcore-no-such-apt-get` could not be started", fault.Message);
        Assert.Contains("by hand", fault.Message);
    }

    [Fact]
    public void Without_dpkg_deb_the_message_says_so()
    {
        _apt.DpkgDeb = "auxcore-no-such-dpkg-deb";
        var fault = Assert.Throws<DataUnavailableException>(() => _apt.Store().Fetch(FakeApt.Id, _log.Add));
        Assert.Contains("`auxcore-no-such-dpkg-deb` could not be started", fault.Message);
    }

    [Fact]
    public void Success_without_a_package_is_a_failure()
    {
        _apt.AptGet = _apt.Script("idle", "exit 0");
        var fault = Assert.Throws<DataUnavailableException>(() => _apt.Store().Fetch(FakeApt.Id, _log.Add));
        Assert.Contains("left no package file", fault.Message);
    }

    [Fact]
    public void An_unknown_id_lists_those_that_there_are()
    {
        Assert.Contains("there are: tiny", Assert.Throws<KeyNotFoundException>(() => _apt.Store().Find("huge")).Message);
        Assert.Contains("there are: tiny", Assert.Throws<KeyNotFoundException>(() => _apt.Store().Fetch("huge", _log.Add)).Message);
    }

    [Fact]
    public void The_cache_folder_follows_the_environment()
    {
        Assert.Equal("/d", DataStore.DefaultRoot(Environment(("AUXCORE_DATA_DIR", "/d"), ("XDG_CACHE_HOME", "/x"))));
        Assert.Equal("/x/auxcore/data", DataStore.DefaultRoot(Environment(("XDG_CACHE_HOME", "/x"))));
        Assert.EndsWith("/.cache/auxcore/data", DataStore.DefaultRoot(Environment(("XDG_CACHE_HOME", "relative"))));
        Assert.EndsWith("/.cache/auxcore/data", DataStore.DefaultRoot(Environment(("AUXCORE_DATA_DIR", ""))));
    }

    private static Func<string, string?> Environment(params (string Name, string Value)[] variables) =>
        name => variables.FirstOrDefault(variable => variable.Name == name).Value;

    private void AssertOnly(string path, string content)
    {
        Assert.Equal([path], Directory.GetFiles(_apt.Root, "*", SearchOption.AllDirectories));
        Assert.Equal(content, File.ReadAllText(path));
    }
}
