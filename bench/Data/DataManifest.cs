using System.Text.Json;
using System.Text.RegularExpressions;

namespace AuxCore.Bench.Data;

/// <summary>
/// <c>data/manifest.json</c>: which data sets there are, and exactly which bytes each one is. Every file is pinned by its
/// SHA-256, so a data set is either the one that results were reported on, or an error.
/// </summary>
public sealed partial record DataManifest(IReadOnlyList<DataSetEntry> DataSets)
{
    // Strict: a property that is unknown, missing, null or given twice is an error, as a misspelt pin must not go unnoticed.
    private static readonly JsonSerializerOptions Json =
        new(JsonSerializerOptions.Strict) { PropertyNamingPolicy = JsonNamingPolicy.CamelCase };

    /// <summary>The entry with that id.</summary>
    /// <exception cref="KeyNotFoundException">There is none; the message lists those that there are.</exception>
    public DataSetEntry this[string id] => DataSets.FirstOrDefault(entry => entry.Id == id)
        ?? throw new KeyNotFoundException(
            $"no data set is called '{id}'; there are: {string.Join(", ", DataSets.Select(entry => entry.Id))}");

    /// <summary>Reads and validates a manifest.</summary>
    /// <exception cref="InvalidDataException">It is not a valid manifest; the message names the file, the place and the fault.</exception>
    public static DataManifest Load(string path) => Parse(File.ReadAllText(path), path);

    /// <inheritdoc cref="Load"/>
    /// <param name="json">The text of a manifest.</param>
    /// <param name="path">Where the text is from, for messages.</param>
    public static DataManifest Parse(string json, string path)
    {
        try
        {
            var manifest = JsonSerializer.Deserialize<DataManifest>(json, Json) ?? throw new JsonException("the manifest is null");
            manifest.Validate();
            return manifest;
        }
        catch (JsonException fault)
        {
            throw new InvalidDataException($"{path}: {fault.Message}", fault);
        }
    }

    private void Validate()
    {
        for (var i = 0; i < DataSets.Count; i++)
            Validate(DataSets[i], $"dataSets[{i}]");
        Unique(DataSets, entry => entry.Id, "dataSets", "id");
    }

    private static void Validate(DataSetEntry? entry, string at)
    {
        Require(entry is not null, at, "is null");
        Require(IdPattern.IsMatch(entry!.Id), $"{at}.id", $"'{entry.Id}' must be lower-case letters, digits and dashes");
        at = $"{at} ({entry.Id})";
        Require(entry.Title.Length > 0, $"{at}.title", "is empty");
        Require(entry.Kind == DataSetEntry.Apt, $"{at}.kind", $"'{entry.Kind}' is not a known kind; there are: {DataSetEntry.Apt}");
        // A name or version that starts with a dash, or holds a slash, would mean something else to apt-get.
        Require(AptNamePattern.IsMatch(entry.Package), $"{at}.package", $"'{entry.Package}' is not a Debian package name");
        Require(AptVersionPattern.IsMatch(entry.Version), $"{at}.version", $"'{entry.Version}' is not a Debian version");
        RequireSha256(entry.ArchiveSha256, $"{at}.archiveSha256");
        Require(entry.Licence.Length > 0, $"{at}.licence", "is empty");
        Require(entry.Notice.Any(line => !string.IsNullOrWhiteSpace(line)), $"{at}.notice", "is empty");
        Require(entry.Files.Count > 0, $"{at}.files", "is empty");
        for (var i = 0; i < entry.Files.Count; i++)
            Validate(entry.Files[i], $"{at}.files[{i}]");
        Unique(entry.Files, file => file.Name, $"{at}.files", "file name");
        for (var i = 0; i < entry.Fixture.Count; i++)
            Validate(entry.Fixture[i], $"{at}.fixture[{i}]");
        Unique(entry.Fixture, file => file.Name, $"{at}.fixture", "file name");
    }

    private static void Validate(DataSetFile? file, string at)
    {
        Require(file is not null, at, "is null");
        Require(file!.Member.Split('/').All(FileNamePattern.IsMatch), $"{at}.member", $"'{file.Member}' is not a plain relative path");
        RequireSha256(file.Sha256, $"{at}.sha256");
    }

    private static void Validate(FixtureFile? file, string at)
    {
        Require(file is not null, at, "is null");
        Require(FileNamePattern.IsMatch(file!.Name), $"{at}.name", $"'{file.Name}' is not a plain file name");
        RequireSha256(file.ContentSha256, $"{at}.contentSha256");
    }

    private static void Unique<T>(IEnumerable<T> items, Func<T, string> key, string at, string what)
    {
        if (items.GroupBy(key).FirstOrDefault(group => group.Count() > 1) is { } twice)
            throw new JsonException($"{at}: the {what} '{twice.Key}' is there twice");
    }

    private static void RequireSha256(string value, string at) =>
        Require(Sha256Pattern.IsMatch(value), at, $"'{value}' is not a SHA-256 (64 lower-case hexadecimal digits)");

    private static void Require(bool holds, string at, string fault)
    {
        if (!holds)
            throw new JsonException($"{at}: {fault}");
    }

    [GeneratedRegex(@"^[a-z0-9][a-z0-9-]*\z")]
    private static partial Regex IdPattern { get; }

    [GeneratedRegex(@"^[a-z0-9][a-z0-9+.-]+\z")]
    private static partial Regex AptNamePattern { get; }

    [GeneratedRegex(@"^[0-9][A-Za-z0-9.+:~-]*\z")]
    private static partial Regex AptVersionPattern { get; }

    [GeneratedRegex(@"^[A-Za-z0-9][A-Za-z0-9._-]*\z")]
    private static partial Regex FileNamePattern { get; }

    [GeneratedRegex(@"^[0-9a-f]{64}\z")]
    private static partial Regex Sha256Pattern { get; }
}

/// <summary>One data set: the archive that it comes in, its files there, and its licence.</summary>
/// <param name="Id">Its name here; also the name of its folder in the cache and under <c>data/</c>.</param>
/// <param name="Title">What it is, in a line.</param>
/// <param name="Kind">Which client fetches the archive: <see cref="Apt"/>.</param>
/// <param name="Package">The package's name, as that client spells it.</param>
/// <param name="Version">The one version that will do.</param>
/// <param name="ArchiveSha256">SHA-256 of the package file.</param>
/// <param name="Files">The members of the archive that the cache keeps.</param>
/// <param name="Fixture">The files of the excerpt committed under <c>data/ID</c>; empty where there is none.</param>
/// <param name="Licence">SPDX identifier.</param>
/// <param name="Notice">The notice that goes with every copy, line by line.</param>
public sealed record DataSetEntry(
    string Id,
    string Title,
    string Kind,
    string Package,
    string Version,
    string ArchiveSha256,
    IReadOnlyList<DataSetFile> Files,
    IReadOnlyList<FixtureFile> Fixture,
    string Licence,
    IReadOnlyList<string> Notice)
{
    /// <summary>The <see cref="Kind"/> of a Debian package: fetched by apt-get, unpacked by dpkg-deb, never installed.</summary>
    public const string Apt = "apt";
}

/// <summary>A file of a data set.</summary>
/// <param name="Member">Its path in the archive, without a leading <c>./</c>.</param>
/// <param name="Sha256">SHA-256 of the file as it lies in the archive.</param>
public sealed record DataSetFile(string Member, string Sha256)
{
    /// <summary>Its name in the cache.</summary>
    public string Name => Member[(Member.LastIndexOf('/') + 1)..];
}

/// <summary>A gzip file of a committed excerpt.</summary>
/// <param name="Name">Its name under <c>data/ID</c>.</param>
/// <param name="ContentSha256">SHA-256 of what it unpacks to.</param>
public sealed record FixtureFile(string Name, string ContentSha256);
