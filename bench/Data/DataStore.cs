using System.Collections.Concurrent;
using System.Diagnostics;

namespace AuxCore.Bench.Data;

/// <summary>
/// The cache of fetched data sets: <c>ROOT/ID/FILE</c>, where each file has the SHA-256 that the manifest pins. Nothing is fetched
/// unless <see cref="Fetch"/> is called. Thread-safe; several processes may share a cache, as files appear in it whole.
/// </summary>
public sealed class DataStore
{
    private static readonly Lazy<DataStore> Shared = new(() =>
        new DataStore(DataManifest.Load(Path.Combine(ShippedFolder, "manifest.json")), DefaultRoot(Environment.GetEnvironmentVariable)));

    // Hashes already computed in this process; a file that changes has another key.
    private static readonly ConcurrentDictionary<(string Path, long Length, DateTime Written), string> Hashes = new();

    private readonly AptTools _apt;

    /// <summary>Opens a cache; the folder need not exist.</summary>
    public DataStore(DataManifest manifest, string root)
        : this(manifest, root, new AptTools())
    {
    }

    internal DataStore(DataManifest manifest, string root, AptTools apt)
    {
        Manifest = manifest;
        Root = Path.GetFullPath(root);
        _apt = apt;
    }

    /// <summary>The manifest shipped beside the executable, over the user's cache: <c>$AUXCORE_DATA_DIR</c>, else
    /// <c>$XDG_CACHE_HOME/auxcore/data</c>, else <c>~/.cache/auxcore/data</c>.</summary>
    public static DataStore Default => Shared.Value;

    /// <summary>The <c>data</c> folder beside the executable: the manifest and the committed excerpts.</summary>
    public static string ShippedFolder => Path.Combine(AppContext.BaseDirectory, "data");

    /// <summary>What there is to fetch.</summary>
    public DataManifest Manifest { get; }

    /// <summary>The folder of the cache.</summary>
    public string Root { get; }

    /// <summary>The files of a data set, by name, all verified; null if any of them is not in the cache.</summary>
    /// <exception cref="KeyNotFoundException">The manifest has no such data set.</exception>
    /// <exception cref="InvalidDataException">All files are there, but one is not what the manifest pins.</exception>
    public IReadOnlyDictionary<string, string>? Find(string id)
    {
        var entry = Manifest[id];
        if (!entry.Files.All(file => File.Exists(PathOf(entry, file))))
            return null;
        foreach (var file in entry.Files)
            Sha256File.Require(PathOf(entry, file), file.Sha256, HashOnce(PathOf(entry, file)));
        return entry.Files.ToDictionary(file => file.Name, file => PathOf(entry, file));
    }

    /// <summary>
    /// Fetches a data set into the cache, unless it is there already, and returns its files as <see cref="Find"/> does. Archive and
    /// members are verified before the first file enters the cache; until then the cache stays as it was. A damaged file is replaced.
    /// </summary>
    /// <param name="id">Which one.</param>
    /// <param name="log">Gets a line for each step.</param>
    /// <exception cref="KeyNotFoundException">The manifest has no such data set.</exception>
    /// <exception cref="DataUnavailableException">It could not be had; the message says why and how to supply it by hand.</exception>
    /// <exception cref="InvalidDataException">What was delivered is not what the manifest pins.</exception>
    public IReadOnlyDictionary<string, string> Fetch(string id, Action<string> log)
    {
        var entry = Manifest[id];
        if (entry.Files.All(file => IsCached(entry, file)))
        {
            log($"{id} is in the cache already: {FolderOf(id)}");
            return Find(id)!;
        }
        var work = Directory.CreateTempSubdirectory("auxcore-data-");
        try
        {
            var unpacked = entry.Kind switch
            {
                DataSetEntry.Apt => FetchByApt(entry, work, log),
                _ => throw new UnreachableException($"DataManifest let the kind '{entry.Kind}' pass"),
            };
            VerifyMembers(entry, unpacked);
            Install(entry, unpacked);
        }
        catch (DataUnavailableException cause)
        {
            throw new DataUnavailableException($"{id} could not be fetched. {cause.Message}\n{Remedy(entry)}", cause);
        }
        finally
        {
            work.Delete(recursive: true);
        }
        log($"{id}: {entry.Files.Count} files verified and put into {FolderOf(id)}");
        return Find(id)!;
    }

    /// <summary>Where the files of a data set lie in the cache.</summary>
    public string FolderOf(string id) => Path.Combine(Root, id);

    /// <summary>The cache folder that an environment asks for.</summary>
    internal static string DefaultRoot(Func<string, string?> environment)
    {
        if (environment("AUXCORE_DATA_DIR") is { Length: > 0 } root)
            return root;
        // The XDG base directory specification has relative values ignored.
        if (environment("XDG_CACHE_HOME") is { Length: > 0 } cache && Path.IsPathFullyQualified(cache))
            return Path.Combine(cache, "auxcore", "data");
        return Environment.GetFolderPath(Environment.SpecialFolder.UserProfile) is { Length: > 0 } home
            ? Path.Combine(home, ".cache", "auxcore", "data")
            : throw new DataUnavailableException("this user has no home folder to keep data in: set AUXCORE_DATA_DIR to a folder");
    }

    private string FetchByApt(DataSetEntry entry, DirectoryInfo work, Action<string> log)
    {
        log($"downloading the Debian package {entry.Package} {entry.Version}");
        var archive = _apt.Download(entry.Package, entry.Version, work.CreateSubdirectory("archive").FullName);
        Sha256File.Require(archive, entry.ArchiveSha256, Sha256File.Of(archive));
        log("its SHA-256 is the pinned one; unpacking");
        var unpacked = work.CreateSubdirectory("unpacked").FullName;
        _apt.Unpack(archive, unpacked);
        return unpacked;
    }

    private static void VerifyMembers(DataSetEntry entry, string unpacked)
    {
        foreach (var file in entry.Files)
        {
            var path = Path.Combine(unpacked, file.Member);
            if (!File.Exists(path))
                throw new InvalidDataException($"{entry.Package} {entry.Version} has no member {file.Member}");
            Sha256File.Require(path, file.Sha256, Sha256File.Of(path));
        }
    }

    private void Install(DataSetEntry entry, string unpacked)
    {
        var folder = Directory.CreateDirectory(FolderOf(entry.Id)).FullName;
        Place(Path.Combine(folder, "NOTICE"), path => File.WriteAllLines(path, entry.Notice));
        foreach (var file in entry.Files)
            Place(PathOf(entry, file), path => File.Copy(Path.Combine(unpacked, file.Member), path));
    }

    // Written under another name in the same folder and renamed, so that no reader ever sees half a file.
    private static void Place(string path, Action<string> write)
    {
        var partial = $"{path}.{Guid.NewGuid():N}.partial";
        try
        {
            write(partial);
            File.Move(partial, path, overwrite: true);
        }
        finally
        {
            File.Delete(partial);
        }
    }

    private string Remedy(DataSetEntry entry) =>
        $"Run `apt-get update` and fetch again. Where there is no apt-get, or it no longer has version {entry.Version}, "
        + $"put these files (SHA-256, name) by hand into {FolderOf(entry.Id)}:\n"
        + string.Join('\n', entry.Files.Select(file => $"  {file.Sha256}  {file.Name}"));

    private bool IsCached(DataSetEntry entry, DataSetFile file) =>
        File.Exists(PathOf(entry, file)) && HashOnce(PathOf(entry, file)) == file.Sha256;

    private string PathOf(DataSetEntry entry, DataSetFile file) => Path.Combine(FolderOf(entry.Id), file.Name);

    private static string HashOnce(string path)
    {
        var info = new FileInfo(path);
        return Hashes.GetOrAdd((path, info.Length, info.LastWriteTimeUtc), key => Sha256File.Of(key.Path));
    }
}
