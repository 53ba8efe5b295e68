using System.Buffers.Binary;
using System.IO.Compression;

namespace AuxCore.Bench.Data;

/// <summary>
/// An array of bytes in the IDX format of the MNIST family, of rank 1 (labels) or 3 (images, rows, columns).
/// A file is two zero bytes, the element type (8 = unsigned byte), the rank, each dimension as a big-endian u32, then the elements.
/// </summary>
public sealed class IdxFile
{
    /// <summary>The most elements that a file may claim: a header is believed before the elements have been seen.</summary>
    public const int MaxElements = 1 << 28;

    private const byte UnsignedByte = 8;

    private IdxFile(int[] dimensions, byte[] data) => (Dimensions, Data) = (dimensions, data);

    /// <summary>One or three positive sizes.</summary>
    public IReadOnlyList<int> Dimensions { get; }

    /// <summary>The elements, the last dimension running fastest.</summary>
    public byte[] Data { get; }

    /// <summary>Reads a file, gzip or raw as its first bytes say.</summary>
    /// <exception cref="InvalidDataException">It is not such a file, or is cut off, or goes on after its last element.</exception>
    public static IdxFile Read(string path)
    {
        try
        {
            using var file = File.OpenRead(path);
            var zipped = file.ReadByte() == 0x1f && file.ReadByte() == 0x8b;
            file.Position = 0;
            using Stream stream = zipped ? new GZipStream(file, CompressionMode.Decompress) : file;
            var content = Read(stream);
            if (zipped)
                CheckGzipEnd(file, HeaderBytes(content.Dimensions.Count) + content.Data.Length);
            return content;
        }
        catch (InvalidDataException fault)
        {
            throw new InvalidDataException($"{path}: {fault.Message}", fault);
        }
    }

    /// <summary>Writes a file, as gzip if its name ends in <c>.gz</c>.</summary>
    /// <exception cref="ArgumentException">These sizes and elements do not make an array that <see cref="Read(string)"/> reads.</exception>
    public static void Write(string path, ReadOnlySpan<int> dimensions, ReadOnlySpan<byte> data)
    {
        if (dimensions.Length is not (1 or 3))
            throw new ArgumentException($"rank {dimensions.Length} is neither 1 nor 3", nameof(dimensions));
        var header = new byte[HeaderBytes(dimensions.Length)];
        header[2] = UnsignedByte;
        header[3] = (byte)dimensions.Length;
        Int128 elements = 1;
        for (var i = 0; i < dimensions.Length; i++)
        {
            ArgumentOutOfRangeException.ThrowIfNegativeOrZero(dimensions[i], nameof(dimensions));
            BinaryPrimitives.WriteInt32BigEndian(header.AsSpan(4 + 4 * i), dimensions[i]);
            elements *= dimensions[i];
        }
        if (elements != data.Length || elements > MaxElements)
            throw new ArgumentException($"{data.Length} elements do not fill [{string.Join(", ", dimensions.ToArray())}]", nameof(data));

        using var file = File.Create(path);
        using Stream stream = path.EndsWith(".gz", StringComparison.Ordinal) ? new GZipStream(file, CompressionLevel.SmallestSize) : file;
        stream.Write(header);
        stream.Write(data);
    }

    private static IdxFile Read(Stream stream)
    {
        Span<byte> magic = stackalloc byte[4];
        ReadAll(stream, magic, "magic number");
        if (magic[0] != 0 || magic[1] != 0)
            throw new InvalidDataException($"not an IDX file: it starts with {Convert.ToHexStringLower(magic)}");
        if (magic[2] != UnsignedByte)
            throw new InvalidDataException($"element type 0x{magic[2]:x2} is not unsigned byte (0x08)");
        if (magic[3] is not (1 or 3))
            throw new InvalidDataException($"rank {magic[3]} is neither 1 nor 3");

        var dimensions = new int[magic[3]];
        long elements = 1;
        Span<byte> size = stackalloc byte[4];
        for (var i = 0; i < dimensions.Length; i++)
        {
            ReadAll(stream, size, "header");
            var dimension = BinaryPrimitives.ReadUInt32BigEndian(size);
            if (dimension == 0)
                throw new InvalidDataException($"dimension {i} is 0");
            if (elements * dimension > MaxElements)
                throw new InvalidDataException($"it claims more than {MaxElements:N0} elements (dimension {i} is {dimension:N0})");
            elements *= dimension;
            dimensions[i] = (int)dimension;
        }
        var data = new byte[elements];
        ReadAll(stream, data, "data");
        if (Fill(stream, stackalloc byte[1]) > 0)
            throw new InvalidDataException($"it goes on after the {elements:N0} elements that its header announces");
        return new IdxFile(dimensions, data);
    }

    private static int HeaderBytes(int rank) => 4 + 4 * rank;

    private static void ReadAll(Stream stream, Span<byte> destination, string what)
    {
        var read = Fill(stream, destination);
        if (read < destination.Length)
            throw new InvalidDataException($"cut off: {read:N0} of {destination.Length:N0} bytes of its {what}");
    }

    private static int Fill(Stream stream, Span<byte> destination)
    {
        try
        {
            return stream.ReadAtLeast(destination, destination.Length, throwOnEndOfStream: false);
        }
        catch (InvalidDataException fault)
        {
            throw new InvalidDataException($"damaged gzip data ({fault.Message})", fault);
        }
    }

    // A gzip file ends with the length of its content. GZipStream accepts a file that lacks this end, or goes on after it.
    private static void CheckGzipEnd(FileStream file, int contentLength)
    {
        Span<byte> end = stackalloc byte[4];
        file.Seek(-end.Length, SeekOrigin.End);
        file.ReadExactly(end);
        if (BinaryPrimitives.ReadInt32LittleEndian(end) != contentLength)
            throw new InvalidDataException("its end is not that of a gzip file: it is cut off, or something was appended");
    }
}
