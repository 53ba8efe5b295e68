using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;
using AuxCore.Bench.Data;

namespace AuxCore.Tests.Data;

public sealed class AustenNovelsTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void The_committed_excerpt_is_the_one_in_the_manifest()
    {
        foreach (var file in DataStore.Default.Manifest[AustenNovels.Id].Fixture)
            Assert.Equal(file.ContentSha256, Sha256File.OfGzipContent(Path.Combine(DataStore.ShippedFolder, AustenNovels.Id, file.Name)));
    }

    [Fact]
    public void Without_the_full_set_the_excerpt_is_taken_and_says_so()
    {
        var novels = AustenNovels.LoadBest(new(DataStore.Default.Manifest, _folder["empty"]));

        Assert.False(novels.IsFull);
        Assert.Equal("Austen, excerpt, 20,000 + 80,000 bytes (Persuasion held out)", novels.Source);
        Assert.StartsWith("EMMA\n", Encoding.ASCII.GetString(novels.Train), StringComparison.Ordinal);
        Assert.StartsWith("Persuasion\n", Encoding.ASCII.GetString(novels.HeldOut), StringComparison.Ordinal);
        Assert.All(novels.HeldOut, letter => Assert.InRange(letter, 0, 127));
    }

    [Fact]
    public void The_excerpt_can_be_cut_again_from_the_full_set()
    {
        SkipWithoutFullSet();
        using var log = new StringWriter();
        var entry = DataStore.Default.Manifest[AustenNovels.Id];
        Assert.Equal(0, DataVerbs.Fixture(log, _folder.Path, new DataStore(new DataManifest([entry]), DataStore.Default.Root)));
        foreach (var file in entry.Fixture)
            Assert.Equal(file.ContentSha256, Sha256File.OfGzipContent(Path.Combine(_folder[AustenNovels.Id], file.Name)));
    }

    [Fact]
    public void The_full_set_holds_out_one_whole_book()
    {
        SkipWithoutFullSet();
        var novels = AustenNovels.LoadBest();

        Assert.True(novels.IsFull);
        Assert.Equal(466_854, novels.HeldOut.Length);
        Assert.Equal(883_028 + 883_279 + 433_411 + 684_768 + 673_688, novels.Train.Length);
        Assert.Equal(-1, novels.Train.AsSpan().IndexOf("Wentworth"u8)); // of Persuasion alone
    }

    [Fact]
    public void Asking_for_the_full_set_where_it_is_not_says_how_to_get_it()
    {
        var error = Assert.Throws<DataUnavailableException>(
            () => AustenNovels.LoadFull(new(DataStore.Default.Manifest, _folder["empty"])));

        Assert.Contains("data fetch austen", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Character_vectors_of_both_versions_are_read(int version)
    {
        var path = Write(Record(["EMMA", "", "Zoë"], version), Record([], version));

        Assert.Equal([["EMMA", "", "Zoë"], []], RDataFile.ReadCharacterVectors(path));
    }

    [Fact]
    public void A_damaged_file_says_where_and_how()
    {
        var good = Record(["one", "two"], 3);
        Fails("record 1, at byte", "cut off", good, good[..3]);
        Fails("record 0, at byte 0", "longer than the 4 bytes", Relabelled(good, 4));
        Fails("record 0", "its length is -1", Relabelled(good, -1));
        Fails("record 0", "not in R's XDR serialisation", Packed("A\n"u8.ToArray()));
        Fails("record 0", "version 7", Record([], 7));
        Fails("record 0", "no plain character vector (flags 0x213)", Record([], 3, flags: 0x213));
        Fails("record 0", "it has -1 strings", Record([], 3, count: -1));
        Fails("record 0", "1 bytes follow the strings", Packed([.. Content(["a"], 3, 16, 1), 0]));
        Fails("record 0", "it is cut off", Record(["a"], 3, count: 2));
        Fails("record 0", "string 0 is missing", Packed([.. Content([], 3, 16, 1), .. Int(9), .. Int(-1)]));

        void Fails(string place, string fault, params byte[][] records)
        {
            var path = Write(records);
            var error = Assert.Throws<InvalidDataException>(() => RDataFile.ReadCharacterVectors(path));
            Assert.Contains(path, error.Message, StringComparison.Ordinal);
            Assert.Contains(place, error.Message, StringComparison.Ordinal);
            Assert.Contains(fault, error.Message, StringComparison.Ordinal);
        }
    }

    private static void SkipWithoutFullSet() => Assert.SkipUnless(
        DataStore.Default.Find(AustenNovels.Id) is not null,
        $"Austen's novels are not in {DataStore.Default.Root}; `data fetch {AustenNovels.Id}` of the bench puts them there");

    private string Write(params byte[][] records)
    {
        var path = _folder["Rdata.rdb"];
        File.WriteAllBytes(path, [.. records.SelectMany(record => record)]);
        return path;
    }

    private static byte[] Record(string[] strings, int version, int flags = 16, int? count = null) =>
        Packed(Content(strings, version, flags, count ?? strings.Length));

    private static byte[] Content(string[] strings, int version, int flags, int count)
    {
        List<byte> content = [.. "X\n"u8, .. Int(version), .. Int(0), .. Int(0)];
        if (version == 3)
            content.AddRange([.. Int(5), .. "UTF-8"u8]);
        content.AddRange([.. Int(flags), .. Int(count)]);
        foreach (var text in strings.Select(Encoding.UTF8.GetBytes))
            content.AddRange([.. Int(0x40009), .. Int(text.Length), .. text]);
        return [.. content];
    }

    private static byte[] Packed(byte[] content)
    {
        using var packed = new MemoryStream();
        using (var zlib = new ZLibStream(packed, CompressionLevel.Fastest, leaveOpen: true))
            zlib.Write(content);
        return [.. Int(content.Length), .. packed.ToArray()];
    }

    private static byte[] Relabelled(byte[] record, int length) => [.. Int(length), .. record[4..]];

    private static byte[] Int(int value)
    {
        var bytes = new byte[sizeof(int)];
        BinaryPrimitives.WriteInt32BigEndian(bytes, value);
        return bytes;
    }
}
