using System.Buffers.Binary;
using System.Text;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Tensors;

/// <summary>A folder of its own for each test, and files built byte by byte.</summary>
[RequiresLibtorch]
public abstract class SafetensorsTest : IDisposable
{
    protected string Folder { get; } = Directory.CreateTempSubdirectory("auxcore-safetensors-").FullName;

    protected string FilePath => Path.Combine(Folder, "state.safetensors");

    public void Dispose()
    {
        Directory.Delete(Folder, recursive: true);
        GC.SuppressFinalize(this);
    }

    protected static byte[] Raw(byte[] header, params byte[] data)
    {
        byte[] length = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
        return [.. length, .. header, .. data];
    }

    protected static byte[] Raw(string header, params byte[] data) => Raw(Encoding.UTF8.GetBytes(header), data);

    protected string Put(byte[] content)
    {
        File.WriteAllBytes(FilePath, content);
        return FilePath;
    }

    protected static KeyValuePair<string, Tensor> Pair(string name, Tensor tensor) => new(name, tensor);

    /// <summary>The memory of a contiguous tensor.</summary>
    protected static unsafe byte[] Bytes(Tensor tensor)
    {
        Assert.True(tensor.is_contiguous());
        nint address = TorchNative.THSTensor_data(tensor.Handle);
        byte[] bytes = new ReadOnlySpan<byte>((void*)address, (int)(tensor.numel() * tensor.element_size())).ToArray();
        GC.KeepAlive(tensor);
        return bytes;
    }

    protected static void AssertSame(Tensor expected, Tensor actual)
    {
        Assert.Equal(expected.dtype, actual.dtype);
        Assert.Equal(expected.shape, actual.shape);
        using var dense = expected.contiguous();
        Assert.Equal(Bytes(dense), Bytes(actual));
    }

    /// <summary>Reads all that a file holds: name, dtype, shape and bytes of each tensor, in text.</summary>
    protected static string Content(SafetensorsReader reader)
    {
        using var scope = torch.NewDisposeScope();
        return string.Join('\n', reader.Names.Select(name =>
            $"{name} {reader.DType(name)} [{string.Join(',', reader.Shape(name))}] {Convert.ToHexString(Bytes(reader.Read(name)))}"));
    }

    /// <summary>Runs an action and asserts that it created no tensor that outlives it and no file but <paramref name="files"/>.</summary>
    protected void AssertLeavesNothing(Action action, params string[] files)
    {
        var statistics = DisposeScopeManager.Statistics;
        long before = statistics.ThreadTotalLiveCount;
        action();
        Assert.Equal(before, statistics.ThreadTotalLiveCount);
        Assert.Equal(files, Directory.GetFileSystemEntries(Folder).Select(Path.GetFileName));
    }
}
