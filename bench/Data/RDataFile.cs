using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;

namespace AuxCore.Bench.Data;

/// <summary>
/// Reads character vectors from the lazy-load data base of an R package (<c>Rdata.rdb</c>): records, each of them four bytes of length, big
/// end first, and a zlib stream with an object in R's XDR serialisation (R Internals, section 1.8).
/// </summary>
internal static class RDataFile
{
    private const int CharacterVector = 16, Characters = 9, HasAttributes = 0x200, LengthBytes = sizeof(int);

    /// <summary>The character vectors of all records, in their order.</summary>
    /// <exception cref="InvalidDataException">Not such a file, cut off, or with another object in it; the message says where.</exception>
    public static IReadOnlyList<string[]> ReadCharacterVectors(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        var vectors = new List<string[]>();
        for (int at = 0; at < file.Length;)
        {
            try
            {
                if (file.Length - at < LengthBytes) throw new InvalidDataException("the file is cut off");
                int length = BinaryPrimitives.ReadInt32BigEndian(file.AsSpan(at));
                (byte[] record, int packed) = Unpack(file, at + LengthBytes, length);
                vectors.Add(new Reader(record).CharacterVector());
                at += LengthBytes + packed;
            }
            catch (InvalidDataException fault)
            {
                throw new InvalidDataException($"{path}: record {vectors.Count}, at byte {at}: {fault.Message}", fault);
            }
        }

        return vectors;
    }

    // A zlib stream says itself where it ends; a byte at a time, so that it takes none of the next record's.
    private static (byte[] Record, int Packed) Unpack(byte[] file, int at, int length)
    {
        if (length < 0) throw new InvalidDataException($"its length is {length}");
        using var packed = new OneByteStream(file, at);
        using var stream = new ZLibStream(packed, CompressionMode.Decompress);
        byte[] record = new byte[length];
        int read = stream.ReadAtLeast(record, length, throwOnEndOfStream: false);
        if (read < length) throw new InvalidDataException($"it is cut off after {read} of {length} bytes");
        if (stream.ReadByte() >= 0) throw new InvalidDataException($"it is longer than the {length} bytes that it says");
        return (record, packed.Taken);
    }

    private ref struct Reader(ReadOnlySpan<byte> data)
    {
        private ReadOnlySpan<byte> _left = data;

        public string[] CharacterVector()
        {
            if (!Take(2).SequenceEqual("X\n"u8)) throw new InvalidDataException("it is not in R's XDR serialisation");
            int version = Int32();
            if (version is not (2 or 3)) throw new InvalidDataException($"it is of version {version} of the serialisation, not 2 or 3");
            Take(2 * sizeof(int)); // the versions of R that wrote it and that can read it
            if (version == 3) Take(Int32()); // the writer's encoding
            int flags = Int32();
            if ((flags & 0xFF) != RDataFile.CharacterVector || (flags & HasAttributes) != 0)
                throw new InvalidDataException($"it is no plain character vector (flags 0x{flags:x})");
            int count = Int32();
            if (count < 0 || count > _left.Length) throw new InvalidDataException($"it has {count} strings");
            string[] strings = new string[count];
            for (int i = 0; i < count; i++) strings[i] = String(i);
            if (!_left.IsEmpty) throw new InvalidDataException($"{_left.Length} bytes follow the strings");
            return strings;
        }

        private string String(int index)
        {
            int flags = Int32(), length = Int32();
            if ((flags & 0xFF) != Characters || length < 0)
                throw new InvalidDataException($"string {index} is missing (flags 0x{flags:x}, length {length})");
            return Encoding.UTF8.GetString(Take(length));
        }

        private int Int32() => BinaryPrimitives.ReadInt32BigEndian(Take(sizeof(int)));

        private ReadOnlySpan<byte> Take(int count)
        {
            if (count < 0 || count > _left.Length) throw new InvalidDataException("it is cut off");
            ReadOnlySpan<byte> taken = _left[..count];
            _left = _left[count..];
            return taken;
        }
    }

    private sealed class OneByteStream(byte[] data, int start) : MemoryStream(data, start, data.Length - start, writable: false)
    {
        public int Taken => (int)Position;

        public override int Read(byte[] buffer, int offset, int count) => base.Read(buffer, offset, Math.Min(count, 1));

        public override int Read(Span<byte> buffer) => base.Read(buffer[..Math.Min(buffer.Length, 1)]);
    }
}
