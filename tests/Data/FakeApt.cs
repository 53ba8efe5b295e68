using System.Security.Cryptography;
using System.Text;
using AuxCore.Bench.Data;

namespace AuxCore.Tests.Data;

/// <summary>
/// A tiny data set with scripts in the place of apt-get and dpkg-deb: the first delivers a one-line "package", the second
/// "unpacks" two files. No test here reaches the network, and none needs Debian.
/// </summary>
internal sealed class FakeApt : IDisposable
{
    public const string Id = "tiny";
    private const string Archive = "the package";
    private readonly TempFolder _folder = new();

    public FakeApt()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "apt-get is played by a shell script");
        AptGet = Script("apt-get", $"printf '{Archive}' > tiny_1.0_all.deb; echo \"$@\" >> '{_folder["calls"]}'");
        DpkgDeb = Script("dpkg-deb", """
            mkdir -p "$3/usr/share"
            printf one > "$3/usr/share/one.gz"
            printf two > "$3/usr/share/two.gz"
            """);
    }

    public string AptGet { get; set; }

    public string DpkgDeb { get; set; }

    /// <summary>The arguments of each call of apt-get.</summary>
    public string[] Calls => File.Exists(_folder["calls"]) ? File.ReadAllLines(_folder["calls"]) : [];

    public string Root => _folder["cache"];

    public static DataManifest Manifest(string archive = Archive, string two = "two", string member = "usr/share/two.gz")
    {
        DataSetFile[] files = [new("usr/share/one.gz", Sha256("one")), new(member, Sha256(two))];
        return new([new DataSetEntry(
            Id, "Two words", DataSetEntry.Apt, "tiny", "1.0", Sha256(archive), files, Fixture: [], "MIT", ["Copyright of nobody"])]);
    }

    public static string Sha256(string text) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text)));

    public DataStore Store(DataManifest? manifest = null) => new(manifest ?? Manifest(), Root, new AptTools(AptGet, DpkgDeb));

    public string Script(string name, string body)
    {
        var path = _folder[name];
        File.WriteAllText(path, $"#!/bin/sh\n{body}\n");
        if (!OperatingSystem.IsWindows())
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        return path;
    }

    /// <summary>Puts a file into the cache by hand.</summary>
    public string Put(string name, string content)
    {
        Directory.CreateDirectory(Path.Combine(Root, Id));
        var path = Path.Combine(Root, Id, name);
        File.WriteAllText(path, content);
        return path;
    }

    public void Dispose() => _folder.Dispose();
}
