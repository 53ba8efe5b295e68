using System.IO.Compression;
using AuxCore.Bench.Data;

namespace AuxCore.Tests.Data;

public sealed class IdxFileTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("labels", new[] { 5 })]
    [InlineData("labels.gz", new[] { 5 })]
    [InlineData("images", new[] { 2, 3, 4 })]
    [InlineData("images.gz", new[] { 2, 3, 4 })]
    public void What_is_written_is_read(string name, int[] dimensions)
    {
        var data = Enumerable.Range(0, dimensions.Aggregate(1, (a, b) => a * b)).Select(i => (byte)(i * 37)).ToArray();
        IdxFile.Write(_folder[name], dimensions, data);

        var read = IdxFile.Read(_folder[name]);

        Assert.Equal(dimensions, read.Dimensions);
        Assert.Equal(data, read.Data);
        Assert.Equal(name.EndsWith(".gz", StringComparison.Ordinal), File.ReadAllBytes(_folder[name]) is [0x1f, 0x8b, ..]);
    }

    [Fact]
    public void The_format_is_the_published_one()
    {
        IdxFile.Write(_folder["raw"], [1, 1, 2], [7, 8]);
        Assert.Equal("00000803" + "00000001" + "00000001" + "00000002" + "0708", Convert.ToHexString(File.ReadAllBytes(_folder["raw"])));
    }

    [Theory]
    [InlineData("", "cut off: 0 of 4 bytes of its magic number")]
    [InlineData("000008", "cut off: 3 of 4 bytes of its magic number")]
    [InlineData("89504E470D0A1A0A", "not an IDX file: it starts with 89504e47")]
    [InlineData("00000D0100000001", "element type 0x0d is not unsigned byte")]
    [InlineData("00000802000000010000000100", "rank 2 is neither 1 nor 3")]
    [InlineData("000008010000", "cut off: 2 of 4 bytes of its header")]
    [InlineData("0000080100000000", "dimension 0 is 0")]
    [InlineData("00000801000000020A", "cut off: 1 of 2 bytes of its data")]
    [InlineData("00000801000000020A0B0C", "it goes on after the 2 elements")]
    [InlineData("00000801FFFFFFFF", "more than 268,435,456 elements (dimension 0 is 4,294,967,295)")]
    [InlineData("00000803000010000000100000001000", "more than 268,435,456 elements (dimension 2 is 4,096)")]
    public void A_bad_file_is_named_with_its_fault(string hex, string message)
    {
        var bytes = Convert.FromHexString(hex);
        File.WriteAllBytes(_folder["raw"], bytes);
        AssertFault("raw", message);

        using (var file = File.Create(_folder["zipped"]))
        using (var stream = new GZipStream(file, CompressionLevel.Fastest))
            stream.Write(bytes);
        AssertFault("zipped", message);
    }

    [Fact]
    public void A_gzip_file_that_is_cut_off_or_damaged_is_refused()
    {
        var noise = new byte[5_000];
        new Random(1).NextBytes(noise);
        IdxFile.Write(_folder["whole.gz"], [noise.Length], noise);
        var whole = File.ReadAllBytes(_folder["whole.gz"]);

        File.WriteAllBytes(_folder["cut.gz"], whole[..(whole.Length / 2)]);
        AssertFault("cut.gz", "of 5,000 bytes of its data");

        File.WriteAllBytes(_folder["cut.gz"], whole[..^6]);
        AssertFault("cut.gz", "it is cut off");

        File.WriteAllBytes(_folder["appended.gz"], [.. whole, 1, 2, 3, 4]);
        AssertFault("appended.gz", "something was appended");

        File.WriteAllBytes(_folder["twice.gz"], [.. whole, .. whole]);
        AssertFault("twice.gz", "it goes on after the 5,000 elements");

        whole[whole.Length / 2] ^= 1;
        File.WriteAllBytes(_folder["damaged.gz"], whole);
        AssertFault("damaged.gz", "damaged gzip data");
    }

    [Fact]
    public void Only_what_can_be_read_is_written()
    {
        Assert.Throws<ArgumentException>(() => IdxFile.Write(_folder["a"], [2, 2], new byte[4]));
        Assert.Throws<ArgumentException>(() => IdxFile.Write(_folder["a"], [3], new byte[4]));
        Assert.Throws<ArgumentException>(() => IdxFile.Write(_folder["a"], [int.MaxValue, int.MaxValue, 4], new byte[4]));
        Assert.Throws<ArgumentOutOfRangeException>(() => IdxFile.Write(_folder["a"], [0], []));
        Assert.False(File.Exists(_folder["a"]));
    }

    private void AssertFault(string name, string message)
    {
        var fault = Assert.Throws<InvalidDataException>(() => IdxFile.Read(_folder[name]));
        Assert.StartsWith($"{_folder[name]}: ", fault.Message);
        Assert.Contains(message, fault.Message);
    }
}
