using System.Security.Cryptography;
using System.Text;
using AuxCore.Models;
using CsCheck;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Tensors;

/// <summary>What is written is what is read, and the bytes in between are the format's.</summary>
public sealed class SafetensorsTests : SafetensorsTest
{
    public static TheoryData<torch.ScalarType> Dtypes =>
    [
        torch.ScalarType.Byte, torch.ScalarType.Int8, torch.ScalarType.Int16, torch.ScalarType.Int32, torch.ScalarType.Int64,
        torch.ScalarType.Float16, torch.ScalarType.BFloat16, torch.ScalarType.Float32, torch.ScalarType.Float64, torch.ScalarType.Bool,
    ];

    [Theory]
    [MemberData(nameof(Dtypes))]
    public void Every_dtype_survives(torch.ScalarType dtype)
    {
        using var scope = torch.NewDisposeScope();
        var plain = torch.arange(0, 24).to(dtype).reshape(2, 3, 4);
        AssertRoundTrip(
            ("plain", plain), ("transposed", plain.transpose(0, 2)), ("view with an offset", plain[1]), ("strided", plain[.., 1, ..]),
            ("expanded", plain[0, 0, 1].expand(3, 5)), ("scalar", plain[1, 1, 1]), ("none", torch.empty(0, dtype: dtype)),
            ("no columns", torch.empty(new long[] { 3, 0 }, dtype)), ("", plain), ("名前 🧪 \"quoted\"\\\n", plain));
    }

    [Fact]
    public void Bits_that_arithmetic_would_change_survive()
    {
        using var scope = torch.NewDisposeScope();
        float[] odd = [float.NaN, BitConverter.UInt32BitsToSingle(0x7f800001), -0f, float.PositiveInfinity, float.Epsilon];
        AssertRoundTrip(("odd", torch.tensor(odd)), ("parameter", torch.tensor(odd).requires_grad_()));
        using var reader = SafetensorsFile.Open(FilePath);
        Assert.False(reader.Read("parameter").requires_grad);
        Assert.Equal(
            odd.Select(BitConverter.SingleToUInt32Bits),
            reader.Read("odd").data<float>().ToArray().Select(BitConverter.SingleToUInt32Bits));
    }

    [Fact]
    public void A_lazily_negated_view_is_written_by_its_values()
    {
        using var scope = torch.NewDisposeScope();
        var negated = torch.complex(torch.ones(1), torch.full(1, 2f)).conj().imag;
        Assert.True(negated.is_neg());
        SafetensorsFile.Write(FilePath, [Pair("x", negated)]);
        using var reader = SafetensorsFile.Open(FilePath);
        Assert.Equal(-2f, reader.Read("x").item<float>());
    }

    [Fact]
    public void Random_sets_of_tensors_survive()
    {
        var tensor = Gen.Select(Gen.Int[0, Dtypes.Count - 1], Gen.Long[0, 5].Array[0, 4], Gen.Bool);
        Gen.Dictionary(Gen.String[0, 6], tensor)[0, 8].Sample(
            set =>
            {
                using var scope = torch.NewDisposeScope();
                AssertRoundTrip([.. set.Where(pair => pair.Key.EnumerateRunes().All(rune => rune != Rune.ReplacementChar)).Select(pair =>
                {
                    var (dtype, shape, transpose) = pair.Value;
                    var made = torch.randint(0, 100, shape).to(Dtypes.ElementAt(dtype).Data);
                    return (pair.Key, transpose && shape.Length > 1 ? made.transpose(0, 1) : made);
                })]);
            }, iter: 100, threads: 1);
    }

    [Fact]
    public void The_bytes_of_a_file_are_these()
    {
        using var scope = torch.NewDisposeScope();
        SafetensorsFile.Write(
            FilePath,
            [
                Pair("flag", torch.tensor(true)),
                Pair("b", torch.tensor(new short[] { 1, -2, 3 })),
                Pair("a", torch.tensor(new short[] { 4 })),
                Pair("wide", torch.tensor(new long[,] { { 5 }, { 6 } })), Pair("w", torch.tensor(new[] { 1f, -2f })),
            ],
            new Dictionary<string, string> { ["z"] = "é", ["format"] = "pt" });

        string header = """
            {"__metadata__":{"auxcore.sha256":"0000000000000000000000000000000000000000000000000000000000000000","format":"pt","z":"é"},
            "wide":{"dtype":"I64","shape":[2,1],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[2],"data_offsets":[16,24]},
            "a":{"dtype":"I16","shape":[1],"data_offsets":[24,26]},"b":{"dtype":"I16","shape":[3],"data_offsets":[26,32]},
            "flag":{"dtype":"BOOL","shape":[],"data_offsets":[32,33]}}
            """.ReplaceLineEndings("");
        header += new string(' ', -Encoding.UTF8.GetByteCount(header) & 7);
        byte[] expected = Raw(
            header,
            5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0,
            4, 0, 1, 0, 0xfe, 0xff, 3, 0, 1);
        string digest = Convert.ToHexStringLower(SHA256.HashData(expected));
        Encoding.ASCII.GetBytes(digest).CopyTo(expected, expected.AsSpan().IndexOf("0000000000000000"u8));
        Assert.Equal(expected, File.ReadAllBytes(FilePath));
    }

    // The two files are, byte for byte, what the reference implementation's tests expect of its writer
    // (test_serialization_forced_alignement and test_empty in safetensors/src/tensor.rs).
    [Fact]
    public void Files_of_the_reference_writer_are_read()
    {
        Put(Raw(
            """{"attn0":{"dtype":"F32","shape":[1,1,2,3],"data_offsets":[0,24]}}       """,
            0, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 0, 0, 0x40, 0x40, 0, 0, 0x80, 0x40, 0, 0, 0xa0, 0x40));
        using (var reader = SafetensorsFile.Open(FilePath))
        {
            using var tensor = reader.Read("attn0");
            Assert.Equal([1, 1, 2, 3], tensor.shape);
            Assert.Equal([0f, 1f, 2f, 3f, 4f, 5f], tensor.data<float>().ToArray());
            Assert.Empty(reader.Metadata);
            Assert.False(reader.Verify());
        }

        Put(Raw("""{"__metadata__":{"framework":"pt"}}     """));
        using var empty = SafetensorsFile.Open(FilePath);
        Assert.Empty(empty.Names);
        Assert.Equal("pt", Assert.Single(empty.Metadata).Value);
    }

    [Theory]
    [InlineData("{}", "")]
    [InlineData("{}      ", "")]
    [InlineData("""{"__metadata__":{}}""", "")]
    // Keys in any order.
    [InlineData("""{"b":{"data_offsets":[1,2],"shape":[1],"dtype":"I8"},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}""", "a,b")]
    [InlineData(
        """{"e":{"dtype":"F64","shape":[9,0],"data_offsets":[2,2]},"\u0061":{"dtype":"I16","shape":[1],"data_offsets":[0,2],"more":[]}}""",
        "a,e")]
    public void Unusual_but_valid_headers_are_read(string header, string names)
    {
        Put(Raw(header, new byte[2 * Math.Sign(names.Length)]));
        using var reader = SafetensorsFile.Open(FilePath);
        Assert.Equal(names, string.Join(',', reader.Names));
        Assert.Equal(names.Length == 0 ? "" : names, string.Join(',', Content(reader).Split('\n').Select(line => line.Split(' ')[0])));
    }

    [Fact]
    public void Metadata_survive_and_the_checksum_is_not_among_them()
    {
        var metadata = new Dictionary<string, string> { ["steps"] = "12", ["名前"] = "値 🧪 \"\\\u0001\n", [""] = "" };
        SafetensorsFile.Write(FilePath, [], metadata);
        using (var reader = SafetensorsFile.Open(FilePath))
        {
            Assert.Empty(reader.Names);
            Assert.Equal(metadata, new Dictionary<string, string>(reader.Metadata));
            Assert.True(reader.Verify());
            SafetensorsFile.Write(FilePath, [], reader.Metadata); // what was read can be written again, over the open file
        }

        using var again = SafetensorsFile.Open(FilePath);
        Assert.Equal(metadata, new Dictionary<string, string>(again.Metadata));
    }

    [Fact]
    public void The_reader_answers_what_it_holds()
    {
        using var scope = torch.NewDisposeScope();
        AssertRoundTrip(("a", torch.zeros(2, 3)), ("b", torch.zeros(1, dtype: torch.int64)));
        var reader = SafetensorsFile.Open(FilePath);
        Assert.Equal(["b", "a"], reader.Names);
        Assert.True(reader.Contains("a"));
        Assert.False(reader.Contains("A"));
        Assert.Equal(torch.ScalarType.Float32, reader.DType("a"));
        reader.Shape("a")[0] = 99;
        Assert.Equal([2, 3], reader.Shape("a"));
        reader.Dispose();
        Assert.Throws<ObjectDisposedException>(() => reader.Read("a"));
        Assert.Throws<ObjectDisposedException>(() => reader.Verify());
    }

    [Fact]
    public void ReadInto_fills_a_view_and_nothing_beside_it()
    {
        using var scope = torch.NewDisposeScope();
        SafetensorsFile.Write(FilePath, [Pair("x", torch.tensor(new[] { 1f, 2f }))]);
        using var reader = SafetensorsFile.Open(FilePath);
        var whole = torch.full(4, 9f).requires_grad_();
        reader.ReadInto("x", whole[1..3]);
        Assert.Equal([9f, 1f, 2f, 9f], whole.detach().data<float>().ToArray());
    }

    [Fact]
    public void Tensors_larger_than_a_chunk_survive()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        AssertRoundTrip(
            ("large", torch.randint(0, 256, 3 * SafetensorsFile.ChunkBytes + 5, torch.uint8)),
            ("exact", torch.randint(0, 256, SafetensorsFile.ChunkBytes, torch.uint8)));
    }

    [Fact]
    public void Threads_may_share_a_reader()
    {
        using var scope = torch.NewDisposeScope();
        SafetensorsFile.Write(FilePath, Enumerable.Range(0, 8).Select(i => Pair($"{i}", torch.full(10_000, i))));
        using var reader = SafetensorsFile.Open(FilePath);
        Parallel.For(0, 64, i =>
        {
            using var tensor = reader.Read($"{i % 8}");
            Assert.All(tensor.data<long>().ToArray(), value => Assert.Equal(i % 8, value));
        });
    }

    [Fact]
    public void No_tensor_is_left_behind_and_Read_joins_the_callers_scope()
    {
        using var scope = torch.NewDisposeScope();
        var (transposed, destination) = (torch.ones(3, 4).T, torch.empty(4, 3));
        AssertLeavesNothing(() => SafetensorsFile.Write(FilePath, [Pair("x", transposed)]), "state.safetensors");
        using var reader = SafetensorsFile.Open(FilePath);
        AssertLeavesNothing(() => reader.ReadInto("x", destination), "state.safetensors");
        Tensor read;
        using (torch.NewDisposeScope()) read = reader.Read("x");
        Assert.True(read.IsInvalid);
    }

    [Fact]
    public void Addresses_come_from_the_library_that_TorchSharp_uses()
    {
        using var scope = torch.NewDisposeScope();
        var whole = torch.arange(10, dtype: torch.float32);
        nint begin = TorchNative.THSTensor_data(whole.Handle);
        Assert.Equal(begin + 3 * sizeof(float), TorchNative.THSTensor_data(whole[3..].Handle));
        unsafe
        {
            ((float*)begin)[9] = -1f;
        }

        Assert.Equal(-1f, whole[9].item<float>());
        if (!OperatingSystem.IsLinux()) return;
        var mapped = File.ReadLines("/proc/self/maps").Where(line => line.Contains("LibTorchSharp.so"));
        Assert.Single(mapped.Select(line => line[line.IndexOf('/')..]).Distinct());
    }

    private void AssertRoundTrip(params (string Name, Tensor Tensor)[] tensors)
    {
        SafetensorsFile.Write(FilePath, tensors.Select(pair => Pair(pair.Name, pair.Tensor)));
        using var reader = SafetensorsFile.Open(FilePath);
        Assert.True(reader.Verify());
        Assert.Equal(tensors.Select(pair => pair.Name).Order(StringComparer.Ordinal), reader.Names.Order(StringComparer.Ordinal));
        foreach (var (name, tensor) in tensors)
        {
            Assert.Equal(tensor.shape, reader.Shape(name));
            Assert.Equal(tensor.dtype, reader.DType(name));
            AssertSame(tensor.detach(), reader.Read(name));
            var destination = torch.ones(tensor.shape, dtype: tensor.dtype);
            reader.ReadInto(name, destination);
            AssertSame(tensor.detach(), destination);
        }
    }
}
