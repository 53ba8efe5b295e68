using System.Runtime.InteropServices;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Tensors;

/// <summary>Bad arguments are named before anything is written; a write that fails leaves the old file, and no other.</summary>
public sealed class SafetensorsArgumentTests : SafetensorsTest
{
    private readonly byte[] _old = [1, 2, 3];

    [Fact]
    public void Bad_tensors_are_refused_and_nothing_is_written()
    {
        using var scope = torch.NewDisposeScope();
        var good = torch.zeros(2);
        var disposed = torch.zeros(2);
        disposed.Dispose();
        Refused("tensors['x']: the tensor is disposed", Pair("a", good), Pair("x", disposed));
        Refused("tensors['x']: the tensor is null", Pair("a", good), Pair("x", null!));
        Refused("tensors['x']: the name appears twice", Pair("x", good), Pair("x", torch.ones(1)));
        Refused("tensors['__metadata__']: the name is reserved", Pair("__metadata__", good));
        Refused("tensors: a name is null", Pair(null!, good));
        Refused("is not valid Unicode", Pair("half \ud83e", good));
        Refused("tensors['x']: dtype ComplexFloat32 is none of", Pair("x", torch.complex(good, good)));
        Refused("tensors['x']: the tensor is sparse", Pair("x", torch.eye(2).to_sparse()));
        Refused("tensors['x']: the tensor is on the meta device", Pair("x", torch.zeros(2, device: torch.META)));
        Refused("exceeds 2^63 bytes", Pair("x", torch.zeros(1).expand(1L << 61)));
        var half = torch.zeros(1).expand(1L << 60);
        Refused("tensors['y']: with this tensor the file exceeds", Pair("x", half), Pair("y", half));
    }

    [Fact]
    public void Bad_metadata_are_refused_and_nothing_is_written()
    {
        Refused("metadata['auxcore.sha256']: the key is AuxCore's own", "auxcore.sha256", "x");
        Refused("metadata['k']: the value is null", "k", null!);
        Refused("metadata['k']: the value is not valid Unicode", "k", "\udc00");
        Refused("metadata: the key", "\udc00", "v");
        Refused("the format allows 100000000", "k", new string('v', 100_000_000));
    }

    [Fact]
    public void Missing_arguments_are_refused()
    {
        Assert.Throws<ArgumentException>(() => SafetensorsFile.Write("", []));
        Assert.Throws<ArgumentNullException>(() => SafetensorsFile.Write(null!, []));
        Assert.Throws<ArgumentNullException>(() => SafetensorsFile.Write(FilePath, null!));
        Assert.Throws<ArgumentNullException>(() => SafetensorsFile.Open(null!));
        SafetensorsFile.Write(FilePath, []);
        using var reader = SafetensorsFile.Open(FilePath);
        Assert.Throws<ArgumentNullException>(() => reader.Read(null!));
        Assert.Throws<ArgumentNullException>(() => reader.Contains(null!));
    }

    [Fact]
    public void ReadInto_refuses_a_destination_that_does_not_fit_and_does_not_write_it()
    {
        using var scope = torch.NewDisposeScope();
        SafetensorsFile.Write(FilePath, [Pair("x", torch.ones(2, 3))]);
        using var reader = SafetensorsFile.Open(FilePath);
        var disposed = torch.zeros(2, 3);
        disposed.Dispose();
        Refused(torch.zeros(3, 2), "Float32 [3,2] does not match the file's Float32 [2,3]");
        Refused(torch.zeros(6), "Float32 [6] does not match the file's Float32 [2,3]");
        Refused(torch.zeros(2, 3, dtype: torch.int32), "Int32 [2,3] does not match the file's Float32 [2,3]");
        Refused(torch.zeros(3, 2).T, "is not contiguous");
        Refused(torch.zeros(2, 1).expand(2, 3), "is not contiguous");
        Refused(torch.zeros(2, 3).to_sparse(), "is sparse");
        Refused(torch.zeros(2, 3, device: torch.META), "not in host memory");
        Refused(disposed, "is disposed");
        Assert.Throws<ArgumentNullException>(() => reader.ReadInto("x", null!));

        SafetensorsFile.Write(FilePath, [Pair("one", torch.ones(1))]);
        using var other = SafetensorsFile.Open(FilePath);
        var negated = torch.complex(torch.ones(1), torch.ones(1)).conj().imag;
        Assert.Contains("lazily negated", Assert.Throws<ArgumentException>(() => other.ReadInto("one", negated)).Message);

        void Refused(Tensor destination, string problem)
        {
            var e = Assert.Throws<ArgumentException>(() => reader.ReadInto("x", destination));
            Assert.Contains(problem, e.Message);
            Assert.Contains("'x'", e.Message);
            Assert.Contains(FilePath, e.Message);
            if (destination.IsInvalid || destination.is_sparse || destination.is_meta) return;
            Assert.Equal(0, destination.sum().to(torch.float64).item<double>());
        }
    }

    [Fact]
    public void A_write_that_fails_midway_leaves_the_old_file()
    {
        using var scope = torch.NewDisposeScope();
        Put(_old);
        // "a" is written; then the copy that makes "b" contiguous asks for more memory than there are addresses.
        var (a, b) = (torch.zeros(5, dtype: torch.int64), torch.zeros(1).expand(1L << 50));
        AssertLeavesNothing(
            () => Assert.Throws<ExternalException>(() => SafetensorsFile.Write(FilePath, [Pair("a", a), Pair("b", b)])),
            "state.safetensors");
        Assert.Equal(_old, File.ReadAllBytes(FilePath));
    }

    [Fact]
    public void A_file_is_replaced_only_after_all_was_written()
    {
        Put(_old);
        var e = Assert.Throws<InvalidDataException>(() => AtomicFile.Write(FilePath, file =>
        {
            RandomAccess.Write(file, [9, 9], 0);
            Assert.Equal(_old, File.ReadAllBytes(FilePath));
            string beside = Assert.Single(Directory.GetFiles(Folder), path => path != FilePath);
            Assert.StartsWith(FilePath, beside, StringComparison.Ordinal);
            throw new InvalidDataException("stop");
        }));
        Assert.Equal("stop", e.Message);
        Assert.Equal(_old, File.ReadAllBytes(FilePath));
        Assert.Single(Directory.GetFiles(Folder));
    }

    [Fact]
    public void A_longer_file_is_replaced_by_a_shorter_one()
    {
        Put(new byte[100_000]);
        SafetensorsFile.Write(FilePath, []);
        AssertLeavesNothing(() => SafetensorsFile.Open(FilePath).Dispose(), "state.safetensors");
    }

    [Fact]
    public void A_target_that_is_a_folder_or_lies_in_none_leaves_nothing()
    {
        Directory.CreateDirectory(FilePath);
        string inside = Path.Combine(FilePath, "kept");
        File.WriteAllBytes(inside, _old);
        using var tensor = torch.ones(3);
        AssertLeavesNothing(
            () => Assert.ThrowsAny<SystemException>(() => SafetensorsFile.Write(FilePath, [Pair("x", tensor)])), "state.safetensors");
        Assert.Equal(_old, File.ReadAllBytes(inside));
        AssertLeavesNothing(
            () => Assert.Throws<DirectoryNotFoundException>(
                () => SafetensorsFile.Write(Path.Combine(Folder, "missing", "x"), [Pair("x", tensor)])),
            "state.safetensors");
    }

    private void Refused(string problem, params KeyValuePair<string, Tensor>[] tensors) =>
        Refused(problem, () => SafetensorsFile.Write(FilePath, tensors));

    private void Refused(string problem, string key, string value) =>
        Refused(problem, () => SafetensorsFile.Write(FilePath, [], new Dictionary<string, string> { [key] = value }));

    private void Refused(string problem, Action write)
    {
        Put(_old);
        var stamp = File.GetLastWriteTimeUtc(FilePath);
        AssertLeavesNothing(() => Assert.Contains(problem, Assert.Throws<ArgumentException>(write).Message), "state.safetensors");
        Assert.Equal(_old, File.ReadAllBytes(FilePath));
        Assert.Equal(stamp, File.GetLastWriteTimeUtc(FilePath));
    }
}
