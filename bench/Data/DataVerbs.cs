namespace AuxCore.Bench.Data;

/// <summary>What the <c>data</c> command does. Each verb prints lines of at most 100 columns, long paths and names apart.</summary>
public static class DataVerbs
{
    private const int Columns = 100;

    private static readonly (string Id, Action<DataStore, string> Make)[] Fixtures =
        [(FashionMnist.Id, FashionMnistFixture.MakeFixture), (AustenNovels.Id, AustenNovels.MakeFixture)];

    /// <summary>Prints each data set: what it is, its licence, where it is from, whether it is in the cache.</summary>
    public static void List(TextWriter log, DataStore? store = null)
    {
        store ??= DataStore.Default;
        Print(log, $"Data sets; the cache is {store.Root}");
        foreach (var entry in store.Manifest.DataSets)
        {
            log.WriteLine();
            Print(log, $"{entry.Id}: {entry.Title}");
            Print(log, $"  licence  {entry.Licence}");
            Print(log, $"  source   {entry.Kind} package {entry.Package} {entry.Version}");
            Print(log, $"  full     {StateOf(store, entry)}");
            if (entry.Fixture.Count > 0)
                Print(log, $"  excerpt  {Path.Combine(DataStore.ShippedFolder, entry.Id)}");
        }
    }

    /// <summary>Fetches one data set, or with null all of them.</summary>
    /// <returns>0, or 1 if any could not be had; the others are fetched all the same.</returns>
    public static int Fetch(string? id, TextWriter log, DataStore? store = null)
    {
        store ??= DataStore.Default;
        var ids = id is null ? store.Manifest.DataSets.Select(entry => entry.Id) : [id];
        return ids.Select(each => Try(log, () => store.Fetch(each, line => Print(log, line)))).Max();
    }

    /// <summary>Makes the committed excerpts again, and says whether they are still those in the manifest.</summary>
    /// <param name="log">Where to print.</param>
    /// <param name="folder">Where to put them, a folder each; null for <c>data</c> of the checkout around the current folder.</param>
    /// <param name="store">The cache that holds the full sets.</param>
    /// <returns>0 if the excerpts were made and are those in the manifest, else 1.</returns>
    public static int Fixture(TextWriter log, string? folder = null, DataStore? store = null)
    {
        store ??= DataStore.Default;
        var same = true;
        var made = Try(log, () =>
        {
            folder ??= CheckoutFolder();
            foreach (var (id, make) in Fixtures.Where(fixture => store.Manifest.DataSets.Any(entry => entry.Id == fixture.Id)))
            {
                var into = Path.Combine(folder, id);
                make(store, into);
                Print(log, $"made {into}");
                foreach (var file in store.Manifest[id].Fixture)
                    same &= Compare(file, into, log);
            }
        });
        return made == 0 && same ? 0 : 1;
    }

    private static bool Compare(FixtureFile file, string folder, TextWriter log)
    {
        var found = Sha256File.OfGzipContent(Path.Combine(folder, file.Name));
        var same = found == file.ContentSha256;
        Print(log, $"  {file.Name}: {(same ? "content as in the manifest" : "content differs from the manifest; its SHA-256 is now")}");
        if (!same)
            Print(log, $"    {found}");
        return same;
    }

    private static string StateOf(DataStore store, DataSetEntry entry)
    {
        try
        {
            return store.Find(entry.Id) is null
                ? $"not in the cache; `data fetch {entry.Id}` gets it"
                : $"in the cache, {entry.Files.Count} files, SHA-256 verified";
        }
        catch (InvalidDataException fault)
        {
            // Indented, so that the hashes do not look like properties of the data set.
            return $"damaged; `data fetch {entry.Id}` replaces it\n{fault.Message}".Replace("\n", "\n           ");
        }
    }

    private static string CheckoutFolder()
    {
        for (var folder = new DirectoryInfo(Environment.CurrentDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "Core.sln")))
                return Path.Combine(folder.FullName, "data");
        }
        throw new DirectoryNotFoundException(
            $"{Environment.CurrentDirectory} is not in a checkout of AuxCore: name a folder for the excerpts");
    }

    private static int Try(TextWriter log, Action action)
    {
        try
        {
            action();
            return 0;
        }
        catch (Exception fault) when (fault
            is DataUnavailableException or InvalidDataException or KeyNotFoundException or IOException or UnauthorizedAccessException)
        {
            Print(log, $"error: {fault.Message}");
            return 1;
        }
    }

    // Breaks long lines between words and indents what follows a little more, so that lists stay lists.
    private static void Print(TextWriter log, string text)
    {
        foreach (var line in text.Split('\n'))
        {
            var indent = line.Length - line.TrimStart().Length;
            var printed = line[..indent];
            foreach (var word in line[indent..].Split(' '))
            {
                if (printed.Length > indent && printed.Length + 1 + word.Length > Columns)
                {
                    log.WriteLine(printed);
                    indent = line.Length - line.TrimStart().Length + 2;
                    printed = new string(' ', indent);
                }
                printed += printed.Length > indent ? $" {word}" : word;
            }
            log.WriteLine(printed);
        }
    }
}
