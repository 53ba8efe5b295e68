using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Microsoft.Win32.SafeHandles;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>Writes and opens files of named tensors in the safetensors format, the one of Python's <c>safetensors</c> package.</summary>
/// <remarks>
/// Format: <see href="https://github.com/huggingface/safetensors#format"/>. AuxCore adds one metadata entry, <c>auxcore.sha256</c>: the
/// SHA-256 of the whole file, as 64 lower-case hexadecimal digits, computed with <c>0</c> in the place of each of these digits. It covers
/// names, shapes and metadata as well as the data; other readers take it for metadata.
/// </remarks>
public static class SafetensorsFile
{
    // Small enough that what was hashed is still in the cache when it is written, large enough that the calls cost nothing.
    internal const int ChunkBytes = 1 << 20;

    private static readonly UTF8Encoding StrictUtf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    // As the reference writer does, escape only what JSON asks for; the header is never embedded in HTML.
    private static readonly JsonWriterOptions Json = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes tensors to a file, atomically: after any failure an existing file is as it was, and no other file is left.</summary>
    /// <remarks>
    /// The same tensors and metadata give the same bytes. Tensors that are not contiguous, or not in host memory, are copied one at a time.
    /// They must not change during the call. The file at <paramref name="path"/> is replaced, not rewritten: links to it and readers that
    /// have it open keep the old content.
    /// </remarks>
    /// <param name="path">The file to create or replace; its folder must exist.</param>
    /// <param name="tensors">Names and dense tensors of dtype F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL, of any shape.</param>
    /// <param name="metadata">Text to keep with them.</param>
    /// <exception cref="ArgumentException">
    /// Before anything is written: a name is null, repeated, <c>__metadata__</c> or not valid Unicode; a tensor is null, disposed, sparse,
    /// without memory (meta) or of another dtype; a metadata value is null, a key or value is not valid Unicode, or a key is
    /// <c>auxcore.sha256</c>; the header exceeds the format's 100 MB, or the data 2^63 bytes.
    /// </exception>
    /// <exception cref="IOException">The file cannot be written or put in place.</exception>
    /// <exception cref="UnauthorizedAccessException">The folder or the file may not be written.</exception>
    /// <exception cref="ExternalException">
    /// libtorch cannot copy a tensor that is not contiguous, or not in host memory: memory is short.
    /// </exception>
    public static void Write(
        string path, IEnumerable<KeyValuePair<string, Tensor>> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ArgumentNullException.ThrowIfNull(tensors);
        var sources = LayOut(tensors);
        byte[] head = Head(sources, metadata, out int checksumAt);
        AtomicFile.Write(path, file =>
        {
            using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            hash.AppendData(head);
            RandomAccess.Write(file, head, fileOffset: 0);
            foreach (var (tensor, entry) in sources) WriteData(file, head.Length + entry.Begin, tensor, entry.End - entry.Begin, hash);
            RandomAccess.Write(file, Encoding.ASCII.GetBytes(Convert.ToHexStringLower(hash.GetHashAndReset())), checksumAt);
        });
    }

    /// <summary>Opens a file of tensors and checks its header completely; the tensors are read one by one, when asked for.</summary>
    /// <param name="path">The file.</param>
    /// <param name="verify">
    /// Whether to read the whole file once and compare its checksum. Files of other writers have none and are opened without this check.
    /// </param>
    /// <exception cref="StateFileException">
    /// The file is not in the safetensors format, breaks one of its rules, has a dtype that libtorch lacks, or does not match its checksum.
    /// </exception>
    /// <exception cref="ArgumentException"><paramref name="path"/> is null or empty.</exception>
    /// <exception cref="IOException">The file does not exist or cannot be read.</exception>
    /// <exception cref="UnauthorizedAccessException">The file may not be read, or is a folder.</exception>
    public static SafetensorsReader Open(string path, bool verify = true)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        var reader = new SafetensorsReader(path);
        try
        {
            if (verify) reader.Verify();
            return reader;
        }
        catch
        {
            reader.Dispose();
            throw;
        }
    }

    private static List<(Tensor Tensor, SafetensorsEntry Entry)> LayOut(IEnumerable<KeyValuePair<string, Tensor>> tensors)
    {
        var names = new HashSet<string>(StringComparer.Ordinal);
        var sources = new List<(Tensor Tensor, SafetensorsEntry Entry)>();
        foreach (var (name, tensor) in tensors)
        {
            if (name is null) throw new ArgumentException("tensors: a name is null", nameof(tensors));
            RequireUnicode(name, $"tensors: the name '{name}'", nameof(tensors));
            if (name == SafetensorsHeader.MetadataKey) throw Bad("the name is reserved by the format");
            if (!names.Add(name)) throw Bad("the name appears twice");
            if (tensor is null) throw Bad("the tensor is null");
            if (tensor.IsInvalid) throw Bad("the tensor is disposed");
            if (tensor.is_sparse) throw Bad("the tensor is sparse");
            if (tensor.is_meta) throw Bad("the tensor is on the meta device and has no data");
            var dtype = SafetensorsDtype.Find(tensor.dtype) ?? throw Bad($"dtype {tensor.dtype} is none of {SafetensorsDtype.Names}");
            long[] shape = tensor.shape;
            if (!dtype.TryByteCount(shape, out long bytes)) throw Bad($"shape [{string.Join(',', shape)}] exceeds 2^63 bytes");
            sources.Add((tensor, new(name, dtype, shape, Begin: 0, End: bytes)));

            ArgumentException Bad(string problem) => new($"tensors['{name}']: {problem}", nameof(tensors));
        }

        sources.Sort((a, b) =>
            a.Entry.Dtype == b.Entry.Dtype ? string.CompareOrdinal(a.Entry.Name, b.Entry.Name) : a.Entry.Dtype.Rank - b.Entry.Dtype.Rank);
        long end = 0;
        for (int i = 0; i < sources.Count; i++)
        {
            var (tensor, entry) = sources[i];
            if (entry.End > long.MaxValue - SafetensorsHeader.LengthLimit - end)
                throw new ArgumentException($"tensors['{entry.Name}']: with this tensor the file exceeds 2^63 bytes", nameof(tensors));
            sources[i] = (tensor, entry with { Begin = end, End = end += entry.End });
        }

        return sources;
    }

    private static byte[] Head(
        List<(Tensor Tensor, SafetensorsEntry Entry)> sources, IReadOnlyDictionary<string, string>? metadata, out int checksumAt)
    {
        using var head = new MemoryStream();
        head.Write(stackalloc byte[SafetensorsHeader.LengthBytes]);
        using (var json = new Utf8JsonWriter(head, Json))
        {
            json.WriteStartObject();
            json.WriteStartObject(SafetensorsHeader.MetadataKey);
            json.WritePropertyName(SafetensorsHeader.ChecksumKey);
            checksumAt = SafetensorsHeader.LengthBytes + (int)(json.BytesCommitted + json.BytesPending) + 1; // past the quotation mark
            json.WriteStringValue(SafetensorsHeader.NoChecksum);
            foreach (var (key, value) in (metadata ?? new Dictionary<string, string>()).OrderBy(pair => pair.Key, StringComparer.Ordinal))
            {
                if (key == SafetensorsHeader.ChecksumKey)
                    throw new ArgumentException($"metadata['{key}']: the key is AuxCore's own", nameof(metadata));
                if (value is null) throw new ArgumentException($"metadata['{key}']: the value is null", nameof(metadata));
                RequireUnicode(key, $"metadata: the key '{key}'", nameof(metadata));
                RequireUnicode(value, $"metadata['{key}']: the value", nameof(metadata));
                json.WriteString(key, value);
            }

            json.WriteEndObject();
            foreach (var (_, entry) in sources) WriteEntry(json, entry);
            json.WriteEndObject();
        }

        while (head.Length % SafetensorsHeader.LengthBytes != 0) head.WriteByte((byte)' '); // aligns the data
        long length = head.Length - SafetensorsHeader.LengthBytes;
        if (length > SafetensorsHeader.LengthLimit)
            throw new ArgumentException(
                $"names and metadata make a header of {length} bytes; the format allows {SafetensorsHeader.LengthLimit}");
        byte[] bytes = head.ToArray();
        BinaryPrimitives.WriteInt64LittleEndian(bytes, length);
        return bytes;
    }

    private static void WriteEntry(Utf8JsonWriter json, SafetensorsEntry entry)
    {
        json.WriteStartObject(entry.Name);
        json.WriteString("dtype", entry.Dtype.Name);
        json.WriteStartArray("shape");
        foreach (long extent in entry.Shape) json.WriteNumberValue(extent);
        json.WriteEndArray();
        json.WriteStartArray("data_offsets");
        json.WriteNumberValue(entry.Begin);
        json.WriteNumberValue(entry.End);
        json.WriteEndArray();
        json.WriteEndObject();
    }

    private static unsafe void WriteData(SafeFileHandle file, long offset, Tensor tensor, long bytes, IncrementalHash hash)
    {
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        var dense = tensor.cpu().resolve_neg().contiguous(); // each returns its argument's memory where there is nothing to do
        TorchVersion.Require();
        byte* data = (byte*)TorchNative.THSTensor_data(dense.Handle);
        for (long done = 0; done < bytes; done += ChunkBytes)
        {
            var chunk = new ReadOnlySpan<byte>(data + done, (int)Math.Min(ChunkBytes, bytes - done));
            hash.AppendData(chunk);
            RandomAccess.Write(file, chunk, offset + done);
        }

        GC.KeepAlive(dense);
    }

    private static void RequireUnicode(string text, string what, string parameter)
    {
        try
        {
            StrictUtf8.GetByteCount(text);
        }
        catch (EncoderFallbackException e)
        {
            throw new ArgumentException($"{what} is not valid Unicode: {e.Message}", parameter);
        }
    }
}
