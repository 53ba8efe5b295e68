using System.Text.Json.Nodes;
using AuxCore.Bench.Data;

namespace AuxCore.Tests.Data;

public class DataManifestTests
{
    private static readonly string Shipped = Path.Combine(DataStore.ShippedFolder, "manifest.json");

    [Fact]
    public void The_shipped_manifest_pins_fashion_mnist()
    {
        var entry = DataManifest.Load(Shipped)["fashion-mnist"];
        Assert.Equal("39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0", entry.ArchiveSha256);
        Assert.Equal(4, entry.Files.Count);
        Assert.Equal("train-images-idx3-ubyte.gz", entry.Files[0].Name);
        Assert.Contains(entry.Notice, line => line.Contains("Zalando SE"));
    }

    // Each case edits the shipped entry at a path and expects a message that names the place and the fault.
    [Theory]
    [InlineData("id", "../up", "dataSets[0].id: '../up'")]
    [InlineData("title", "", "title: is empty")]
    [InlineData("kind", "npm", "kind: 'npm' is not a known kind; there are: apt")]
    [InlineData("package", "--option", "package: '--option' is not a Debian package name")]
    [InlineData("version", "-1", "version: '-1' is not a Debian version")]
    [InlineData("archiveSha256", "39E1", "archiveSha256: '39E1' is not a SHA-256")]
    [InlineData("licence", "", "licence: is empty")]
    [InlineData("notice", "[]", "notice: is empty")]
    [InlineData("files", "[]", "files: is empty")]
    [InlineData("files/0", "null", "files[0]: is null")]
    [InlineData("files/0/member", "../../etc/passwd", "files[0].member: '../../etc/passwd' is not a plain relative path")]
    [InlineData("files/0/member", "/etc/passwd", "files[0].member: '/etc/passwd' is not a plain relative path")]
    [InlineData("files/1/member", "other/train-images-idx3-ubyte.gz", "the file name 'train-images-idx3-ubyte.gz' is there twice")]
    [InlineData("files/1/sha256", "", "files[1].sha256: '' is not a SHA-256")]
    [InlineData("fixture/0", "null", "fixture[0]: is null")]
    [InlineData("fixture/0/name", "a/b", "fixture[0].name: 'a/b' is not a plain file name")]
    [InlineData("fixture/1/name", "train-images-idx3-ubyte.gz", "the file name 'train-images-idx3-ubyte.gz' is there twice")]
    [InlineData("fixture/0/contentSha256", "0", "fixture[0].contentSha256: '0' is not a SHA-256")]
    [InlineData("licence", "null", "licence")]
    [InlineData("mirror", "elsewhere", "'mirror' could not be mapped")]
    public void A_fault_is_named_with_its_place(string path, string value, string message)
    {
        var manifest = JsonNode.Parse(File.ReadAllText(Shipped))!;
        Set(manifest["dataSets"]![0]!, path.Split('/'), value is "null" or "[]" ? JsonNode.Parse(value) : JsonValue.Create(value));
        AssertFault(manifest.ToJsonString(), message);
    }

    [Theory]
    [InlineData("", "JSON")]
    [InlineData("null", "the manifest is null")]
    [InlineData("{}", "dataSets")]
    [InlineData("""{"dataSets":[null]}""", "dataSets[0]: is null")]
    [InlineData("""{"dataSets":[{"id":"a"}]}""", "missing required properties")]
    [InlineData("""{"dataSets":[],"dataSets":[]}""", "Duplicate")]
    public void What_is_not_a_manifest_is_refused(string json, string message) => AssertFault(json, message);

    [Fact]
    public void An_id_given_twice_is_refused()
    {
        var manifest = JsonNode.Parse(File.ReadAllText(Shipped))!;
        manifest["dataSets"]!.AsArray().Add(manifest["dataSets"]![0]!.DeepClone());
        AssertFault(manifest.ToJsonString(), "the id 'fashion-mnist' is there twice");
    }

    private static void Set(JsonNode at, string[] path, JsonNode? value)
    {
        foreach (var step in path[..^1])
            at = Child(at, step);
        if (at is JsonArray array)
            array[int.Parse(path[^1])] = value;
        else
            at[path[^1]] = value;
    }

    private static JsonNode Child(JsonNode at, string step) => at is JsonArray array ? array[int.Parse(step)]! : at[step]!;

    private static void AssertFault(string json, string message)
    {
        var fault = Assert.Throws<InvalidDataException>(() => DataManifest.Parse(json, "the/manifest.json"));
        Assert.StartsWith("the/manifest.json: ", fault.Message);
        Assert.Contains(message, fault.Message);
    }
}
