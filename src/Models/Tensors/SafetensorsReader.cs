using System.Buffers.Binary;
using System.Security.Cryptography;
using Microsoft.Win32.SafeHandles;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>An open file of tensors, made by <see cref="SafetensorsFile.Open"/>. Reading is thread-safe.</summary>
public sealed class SafetensorsReader : IDisposable
{
    private readonly string _path;
    private readonly SafeFileHandle _file;
    private readonly long _length;
    private readonly long _dataStart;
    private readonly SafetensorsHeader _header;
    private readonly Dictionary<string, SafetensorsEntry> _entries;

    internal SafetensorsReader(string path)
    {
        _path = path;
        _file = File.OpenHandle(path);
        try
        {
            _length = RandomAccess.GetLength(_file);
            byte[] json = ReadHeader();
            _dataStart = SafetensorsHeader.LengthBytes + json.Length;
            _header = SafetensorsHeader.Parse(path, json, _length - _dataStart);
            _entries = _header.Entries.ToDictionary(entry => entry.Name, StringComparer.Ordinal);
            Names = [.. _header.Entries.Select(entry => entry.Name)];
        }
        catch
        {
            _file.Dispose();
            throw;
        }
    }

    /// <summary>The tensors' names, in the order of their data in the file.</summary>
    public IReadOnlyList<string> Names { get; }

    /// <summary>The text that the writer kept with the tensors; AuxCore's checksum is not part of it.</summary>
    public IReadOnlyDictionary<string, string> Metadata => _header.Metadata;

    /// <summary>Whether the file has a tensor of this name.</summary>
    /// <exception cref="ArgumentNullException"><paramref name="name"/> is null.</exception>
    public bool Contains(string name) => _entries.ContainsKey(name);

    /// <summary>A tensor's element type.</summary>
    /// <exception cref="StateFileException">The file has no tensor of this name.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="name"/> is null.</exception>
    public torch.ScalarType DType(string name) => Find(name).Dtype.Type;

    /// <summary>A tensor's shape; a new array each time.</summary>
    /// <exception cref="StateFileException">The file has no tensor of this name.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="name"/> is null.</exception>
    public long[] Shape(string name) => [.. Find(name).Shape];

    /// <summary>Reads the whole file and compares it with its checksum.</summary>
    /// <returns>True if they match; false if the file has no checksum, as those of other writers.</returns>
    /// <exception cref="StateFileException">They differ: the file is damaged.</exception>
    /// <exception cref="IOException">The file cannot be read.</exception>
    /// <exception cref="ObjectDisposedException">The reader is disposed.</exception>
    public bool Verify()
    {
        ObjectDisposedException.ThrowIf(_file.IsClosed, this);
        if (_header.Checksum is null) return false;
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        long checksumAt = SafetensorsHeader.LengthBytes + _header.ChecksumAt;
        Hash(hash, 0, checksumAt);
        hash.AppendData(SafetensorsHeader.NoChecksum);
        Hash(hash, checksumAt + SafetensorsHeader.NoChecksum.Length, _length);
        string found = Convert.ToHexStringLower(hash.GetHashAndReset());
        if (found != _header.Checksum)
            throw Bad(SafetensorsHeader.ChecksumKey, $"the file is damaged: its SHA-256 is {found}, not {_header.Checksum}");
        return true;
    }

    /// <summary>Reads a tensor into new host memory. It joins the caller's dispose scope.</summary>
    /// <exception cref="StateFileException">The file has no tensor of this name, or became shorter since it was opened.</exception>
    /// <exception cref="ArgumentNullException"><paramref name="name"/> is null.</exception>
    /// <exception cref="IOException">The file cannot be read.</exception>
    /// <exception cref="ObjectDisposedException">The reader is disposed.</exception>
    public Tensor Read(string name)
    {
        var entry = Find(name);
        var tensor = torch.empty(entry.Shape, entry.Dtype.Type, torch.CPU);
        try
        {
            ReadData(entry, tensor);
            return tensor;
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
    }

    /// <summary>Reads a tensor straight into the memory of another one.</summary>
    /// <remarks>
    /// Autograd does not see this write: what it saved of <paramref name="destination"/> for a backward pass is overwritten without a
    /// complaint, and a leaf that requires gradients is written all the same. After an <see cref="IOException"/>, or if the file became
    /// shorter since it was opened, the destination's content is undefined.
    /// </remarks>
    /// <param name="name">The tensor's name.</param>
    /// <param name="destination">A contiguous tensor in host memory, of the same shape and dtype.</param>
    /// <exception cref="StateFileException">The file has no tensor of this name, or became shorter since it was opened.</exception>
    /// <exception cref="ArgumentException">
    /// <paramref name="destination"/> is of another shape or dtype, or is disposed, sparse, not contiguous, lazily negated
    /// or not in host memory.
    /// </exception>
    /// <exception cref="ArgumentNullException">An argument is null.</exception>
    /// <exception cref="IOException">The file cannot be read.</exception>
    /// <exception cref="ObjectDisposedException">The reader is disposed.</exception>
    public void ReadInto(string name, Tensor destination)
    {
        var entry = Find(name);
        ArgumentNullException.ThrowIfNull(destination);
        if (destination.IsInvalid) throw Unfit("is disposed");
        long[] shape = destination.shape;
        var dtype = destination.dtype;
        if (dtype != entry.Dtype.Type || !shape.AsSpan().SequenceEqual(entry.Shape))
            throw Unfit(
                $"{dtype} [{string.Join(',', shape)}] does not match the file's {entry.Dtype.Type} [{string.Join(',', entry.Shape)}]");
        if (destination.device_type != DeviceType.CPU) throw Unfit($"is on {destination.device}, not in host memory");
        if (destination.is_sparse) throw Unfit("is sparse");
        if (!destination.is_contiguous()) throw Unfit("is not contiguous");
        if (destination.is_neg()) throw Unfit("is a lazily negated view; pass its resolve_neg()");
        ReadData(entry, destination);

        ArgumentException Unfit(string problem) =>
            new($"destination for '{StateFileException.Shown(name)}' of {_path}: {problem}", nameof(destination));
    }

    /// <summary>Closes the file. Tensors that were read stay.</summary>
    public void Dispose() => _file.Dispose();

    private byte[] ReadHeader()
    {
        Span<byte> prefix = stackalloc byte[SafetensorsHeader.LengthBytes];
        if (_length < prefix.Length) throw Bad(null, $"{_length} bytes are too short for a safetensors file");
        Fill(prefix, 0);
        ulong length = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        if (length > SafetensorsHeader.LengthLimit)
            throw Bad(null, $"the header's length is given as {length} bytes; the format allows {SafetensorsHeader.LengthLimit}");
        if (length > (ulong)(_length - prefix.Length))
            throw Bad(null, $"the header's length is given as {length} bytes, of which the file has {_length - prefix.Length}");
        byte[] json = new byte[length];
        Fill(json, prefix.Length);
        return json;
    }

    private unsafe void ReadData(SafetensorsEntry entry, Tensor tensor)
    {
        ObjectDisposedException.ThrowIf(_file.IsClosed, this); // also where there is no byte to read
        TorchVersion.Require();
        byte* data = (byte*)TorchNative.THSTensor_data(tensor.Handle);
        long bytes = entry.End - entry.Begin;
        for (long done = 0; done < bytes; done += SafetensorsFile.ChunkBytes)
            Fill(new Span<byte>(data + done, (int)Math.Min(SafetensorsFile.ChunkBytes, bytes - done)), _dataStart + entry.Begin + done);
        GC.KeepAlive(tensor);
    }

    private void Hash(IncrementalHash hash, long begin, long end)
    {
        byte[] buffer = new byte[Math.Min(SafetensorsFile.ChunkBytes, end - begin)];
        for (long at = begin; at < end; at += buffer.Length)
        {
            var chunk = buffer.AsSpan(0, (int)Math.Min(buffer.Length, end - at));
            Fill(chunk, at);
            hash.AppendData(chunk);
        }
    }

    private void Fill(Span<byte> destination, long offset)
    {
        while (!destination.IsEmpty)
        {
            int read = RandomAccess.Read(_file, destination, offset);
            if (read == 0) throw Bad(null, $"the file ends at byte {offset}; it had {_length} when it was opened");
            destination = destination[read..];
            offset += read;
        }
    }

    private SafetensorsEntry Find(string name)
    {
        if (_entries.TryGetValue(name, out var entry)) return entry;
        string some = string.Join(", ", Names.Take(5).Select(existing => $"'{StateFileException.Shown(existing)}'"));
        string more = Names.Count > 5 ? ", …" : "";
        throw Bad(name, Names.Count == 0 ? "the file has no tensors" : $"no such tensor among the file's {Names.Count}: {some}{more}");
    }

    private StateFileException Bad(string? key, string problem) => new(nameof(SafetensorsReader), _path, key, problem);
}
