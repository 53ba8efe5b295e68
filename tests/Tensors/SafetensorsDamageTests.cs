using System.Runtime.InteropServices;
using System.Text;
using AuxCore.Models;
using CsCheck;
using TorchSharp;

namespace AuxCore.Tests.Tensors;

/// <summary>A file that is not whole is refused, and nothing else happens.</summary>
public sealed partial class SafetensorsDamageTests : SafetensorsTest
{
    private const string Good = """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}""";

    public static TheoryData<string, int, string?, string> BadHeaders => new()
    {
        { "", 0, null, "does not begin with '{'" },
        { " {}", 0, null, "does not begin with '{'" },
        { "[]", 0, null, "does not begin with '{'" },
        { "{", 0, null, "not valid JSON" },
        { "{}x", 0, null, "not valid JSON" },
        { "{}{}", 0, null, "not valid JSON" },
        { "{}\0", 0, null, "not valid JSON" },
        { "{\"a\":{},}", 0, null, "not valid JSON" },
        { "{/**/}", 0, null, "not valid JSON" },
        { "{\"\\ud800\":{}}", 0, null, "not valid JSON" },
        { "{\"a\":{\"dtype\":\"\\udc00\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, null, "not valid JSON" },
        { "{\"a\":" + new string('[', 100) + new string(']', 100) + "}", 0, null, "not valid JSON" },
        { """{"a":1}""", 0, "a", "not an object" },
        { """{"a":{}}""", 0, "a", "'dtype' is missing or not a string" },
        { """{"a":{"dtype":5,"shape":[4],"data_offsets":[0,4]}}""", 4, "a", "'dtype' is missing or not a string" },
        { """{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}""", 4, "a", "dtype 'F8_E4M3' is none of" },
        { """{"a":{"dtype":"u8","shape":[4],"data_offsets":[0,4]}}""", 4, "a", "dtype 'u8' is none of" },
        { """{"a":{"dtype":"U8","data_offsets":[0,4]}}""", 4, "a", "'shape' is missing or not an array" },
        { """{"a":{"dtype":"U8","shape":4,"data_offsets":[0,4]}}""", 4, "a", "'shape' is missing or not an array" },
        { """{"a":{"dtype":"U8","shape":["4"],"data_offsets":[0,4]}}""", 4, "a", "'shape' holds something that is not a whole number" },
        { """{"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}""", 4, "a", "'shape' holds something that is not a whole number" },
        { """{"a":{"dtype":"U8","shape":[-2,-2],"data_offsets":[0,4]}}""", 4, "a", "'shape' holds something that is not a whole number" },
        {
            """{"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4]}}""",
            4, "a", "'shape' holds something that is not a whole number"
        },
        { """{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}""", 0, "a", "exceeds 64 bits" }, // 0 in 64 bits
        { """{"a":{"dtype":"I16","shape":[9223372036854775807],"data_offsets":[0,4]}}""", 4, "a", "exceeds 64 bits" },
        { """{"a":{"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}""", 0, "a", "exceeds 64 bits" }, // its strides
        { """{"a":{"dtype":"U8","shape":[4]}}""", 4, "a", "'data_offsets' is missing or not an array" },
        { """{"a":{"dtype":"U8","shape":[4],"data_offsets":{}}}""", 4, "a", "'data_offsets' is missing or not an array" },
        {
            """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,-4]}}""",
            4, "a", "'data_offsets' holds something that is not a whole number"
        },
        { """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0]}}""", 4, "a", "'data_offsets' is not a pair" },
        { """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}}""", 4, "a", "'data_offsets' is not a pair" },
        { """{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}""", 4, "a", "before their begin" },
        { Good, 3, "a", "beyond the file's 3 bytes" },
        { """{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,4]}}""", 4, "a", "take 4 bytes where dtype and shape ask for 3" },
        { """{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}}""", 4, "a", "take 4 bytes where dtype and shape ask for 5" },
        { """{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,4]}}""", 4, "a", "take 4 bytes where dtype and shape ask for 0" },
        { Good, 5, null, "1 bytes after the last tensor" },
        { "{}", 1, null, "1 bytes after the last tensor" },
        { """{"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}""", 4, "a", "after a hole from 0" },
        {
            """{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}""",
            4, "b", "after a hole from 1"
        },
        {
            """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}""",
            4, "b", "overlap"
        },
        {
            """{"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}""",
            4, "b", "overlap"
        },
        {
            """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"e":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}""",
            4, "e", "overlap"
        },
        {
            """{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"\u0061":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}""",
            4, "a", "the key 'a' appears twice"
        },
        { """{"a":{"dtype":"U8","shape":[4],"dtype":"I8","data_offsets":[0,4]}}""", 4, "a", "the key 'dtype' appears twice" },
        { """{"__metadata__":{},"__metadata__":{}}""", 0, "__metadata__", "appears twice" },
        { """{"__metadata__":{"k":"1","k":"2"}}""", 0, "__metadata__", "the key 'k' appears twice" },
        { """{"__metadata__":[]}""", 0, "__metadata__", "the metadata is not an object" },
        { """{"__metadata__":{"k":1}}""", 0, "k", "not a string" },
        { """{"__metadata__":{"auxcore.sha256":"00"}}""", 0, "auxcore.sha256", "not 64 hexadecimal digits" },
        {
            """{"__metadata__":{"auxcore.sha256":"0000000000000000000000000000000000000000000000000000000000000000"}}""",
            0, "auxcore.sha256", "damaged"
        },
    };

    [Theory]
    [MemberData(nameof(BadHeaders))]
    public void A_header_that_breaks_a_rule_is_refused(string header, int dataLength, string? key, string problem)
    {
        var e = Refused(Raw(header, new byte[dataLength]));
        Assert.Equal(key, e.Key);
        Assert.Contains(problem, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_header_that_is_not_UTF8_is_refused() => Assert.Contains("not UTF-8", Refused(Raw([(byte)'{', 0xff, (byte)'}'])).Message);

    [Theory]
    [InlineData(54L, "is given as 54 bytes, of which the file has 53")]
    [InlineData(100_000_000L, "of which the file has 53")]
    [InlineData(100_000_001L, "the format allows 100000000")]
    [InlineData(-1L, "the format allows 100000000")]
    [InlineData(long.MaxValue, "the format allows 100000000")]
    [InlineData(0L, "does not begin with '{'")]
    public void A_header_length_that_cannot_be_is_refused(long length, string problem)
    {
        byte[] file = Raw(Good);
        BitConverter.TryWriteBytes(file, length);
        Assert.Contains(problem, Refused(file).Message);
    }

    [Fact]
    public void A_file_without_room_for_the_header_length_is_refused() =>
        Assert.Contains("7 bytes are too short", Refused(new byte[7]).Message);

    [Fact]
    public void A_long_key_is_cut_in_the_message_only()
    {
        string key = new('k', 5000);
        var e = Refused(Raw($$"""{"{{key}}":1}"""));
        Assert.Equal(key, e.Key);
        Assert.True(e.Message.Length < 500);
    }

    [Fact]
    public void A_file_cut_anywhere_is_refused()
    {
        foreach (byte[] whole in new[] { Written(), Raw(Good, 1, 2, 3, 4) })
            for (int length = 0; length < whole.Length; length++)
                Refused(whole[..length]);
    }

    [Fact]
    public void A_flipped_bit_anywhere_is_found()
    {
        byte[] file = Written();
        string content;
        using (var reader = SafetensorsFile.Open(Put(file))) content = Content(reader);
        int checksumKey = file.AsSpan().IndexOf("auxcore.sha256"u8);
        for (int bit = 0; bit < 8 * file.Length; bit++)
        {
            byte[] damaged = [.. file];
            damaged[bit / 8] ^= (byte)(1 << bit % 8);
            Put(damaged);
            try
            {
                using var reader = SafetensorsFile.Open(FilePath);
                // The one way to pass: another name in the place of the checksum's key. Everything else is the same then.
                Assert.InRange(bit / 8, checksumKey, checksumKey + "auxcore.sha256".Length - 1);
                Assert.Equal(content, Content(reader));
                Assert.Equal("12", reader.Metadata["steps"]);
                Assert.Equal(2, reader.Metadata.Count);
            }
            catch (StateFileException)
            {
            }
        }
    }

    [Fact]
    public void Without_verification_a_damaged_file_opens_and_Verify_finds_the_damage()
    {
        byte[] file = Written();
        file[^1] ^= 1;
        Refused(file);
        using var reader = SafetensorsFile.Open(FilePath, verify: false);
        Assert.Equal("auxcore.sha256", Assert.Throws<StateFileException>(() => reader.Verify()).Key);
    }

    [Fact]
    public void Random_edits_of_a_header_are_refused_or_read()
    {
        var text = Any("0", "9", "-1", "\"", "{", "}", "[", "]", ",", ":", "U8", "F64", "\\u", "\0", "é");
        var edit = Gen.Select(Gen.Int[0, Good.Length - 1], Gen.Int[0, 3], text);
        edit.Array[1, 6].Sample(edits =>
        {
            var header = new StringBuilder(Good);
            foreach (var (at, remove, insert) in edits)
            {
                int begin = Math.Min(at, header.Length);
                header.Remove(begin, Math.Min(remove, header.Length - begin)).Insert(begin, insert);
            }

            OpenAndReadAll(Raw(header.ToString(), 1, 2, 3, 4));
        }, iter: 2000, threads: 1);
    }

    [Fact]
    public void Random_entries_are_refused_or_read()
    {
        var number = Gen.OneOf(Gen.Long[-1, 9], Gen.Const(long.MaxValue), Gen.Const(long.MinValue), Gen.Long);
        var entry = Gen.Select(
            Any("a", "b", "__metadata__", "é"), Any("U8", "I16", "F64", "BOOL", "F4"), number.Array[0, 3], number.Array[1, 3]);
        entry.Array[0, 3].Sample(
            entries => OpenAndReadAll(Raw(
                "{" + string.Join(',', entries.Select(e => Entry(e.Item1, e.Item2, e.Item3, e.Item4))) + "}", new byte[8])),
            iter: 2000, threads: 1);

        static string Entry(string name, string dtype, long[] shape, long[] offsets) =>
            $$"""
            "{{name}}":{"dtype":"{{dtype}}","shape":[{{string.Join(',', shape)}}],"data_offsets":[{{string.Join(',', offsets)}}]}
            """;
    }

    [Fact]
    public void Random_bytes_are_refused() => Gen.Byte.Array[0, 64].Sample(bytes => OpenAndReadAll(bytes), iter: 1000, threads: 1);

    [Fact]
    public void A_missing_name_is_answered_with_names_that_exist()
    {
        using var none = SafetensorsFile.Open(Put(Raw("{}")));
        Assert.Contains("no tensors", Assert.Throws<StateFileException>(() => none.Read("x")).Message);

        using var scope = torch.NewDisposeScope();
        string path = Path.Combine(Folder, "other");
        SafetensorsFile.Write(path, Enumerable.Range(0, 7).Select(i => Pair($"layer{i}", torch.zeros(1))));
        using var reader = SafetensorsFile.Open(path);
        Action[] uses =
            [() => reader.Read("x"), () => reader.ReadInto("x", torch.zeros(1)), () => reader.DType("x"), () => reader.Shape("x")];
        foreach (var use in uses)
        {
            var e = Assert.Throws<StateFileException>(use);
            Assert.Equal(("x", path), (e.Key, e.Path));
            Assert.Contains("'x': no such tensor among the file's 7: 'layer0', 'layer1', 'layer2', 'layer3', 'layer4', …", e.Message);
        }
    }

    [Fact]
    public void A_file_that_shrinks_while_open_is_noticed()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Windows does not let an open file be cut.");
        using var reader = SafetensorsFile.Open(Put(Written()));
        Assert.Equal(0, Truncate(FilePath, new FileInfo(FilePath).Length - 1));
        AssertLeavesNothing(
            () => Assert.Contains("it had", Assert.Throws<StateFileException>(() => reader.Read("b")).Message), "state.safetensors");
        Assert.Throws<StateFileException>(() => reader.Verify());
    }

    [Fact]
    public void A_file_that_cannot_be_opened_is_not_a_damaged_one()
    {
        Assert.Throws<FileNotFoundException>(() => SafetensorsFile.Open(FilePath));
        Assert.Throws<UnauthorizedAccessException>(() => SafetensorsFile.Open(Folder));
        Assert.Throws<ArgumentException>(() => SafetensorsFile.Open(""));
    }

    /// <summary>A small file with a checksum, and with an empty tensor, whose shape no size check protects.</summary>
    private byte[] Written()
    {
        using var scope = torch.NewDisposeScope();
        string path = Path.Combine(Folder, "written");
        SafetensorsFile.Write(
            path, [Pair("a", torch.tensor(new[] { 1.5f, -2f })), Pair("b", torch.tensor(new sbyte[] { 3 })), Pair("e", torch.zeros(0, 2))],
            new Dictionary<string, string> { ["steps"] = "12" });
        byte[] bytes = File.ReadAllBytes(path);
        File.Delete(path);
        return bytes;
    }

    private StateFileException Refused(byte[] file)
    {
        Put(file);
        var e = Assert.Throws<StateFileException>(() => SafetensorsFile.Open(FilePath).Dispose());
        Assert.Equal(FilePath, e.Path);
        Assert.StartsWith(FilePath, e.Message, StringComparison.Ordinal);
        return e;
    }

    /// <summary>
    /// Anything but a <see cref="StateFileException"/> fails the test; what opens must be readable and cover the data exactly.
    /// </summary>
    private void OpenAndReadAll(byte[] file)
    {
        try
        {
            using var reader = SafetensorsFile.Open(Put(file));
            using var scope = torch.NewDisposeScope();
            long bytes = reader.Names.Sum(name => Bytes(reader.Read(name)).LongLength);
            Assert.Equal(file.Length - 8 - BitConverter.ToInt64(file), bytes);
        }
        catch (StateFileException)
        {
        }
    }

    private static Gen<string> Any(params string[] choices) => Gen.Int[0, choices.Length - 1].Select(i => choices[i]);

    [LibraryImport("libc", EntryPoint = "truncate", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Truncate(string path, long length);
}
