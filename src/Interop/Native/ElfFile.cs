using System.Buffers.Binary;

namespace AuxCore.Interop;

/// <summary>
/// Whether a shared library is all there. The loader maps a file that was cut short without complaint, and the process then dies of SIGBUS
/// when it touches what is missing.
/// </summary>
internal static class ElfFile
{
    private const int HeaderBytes = 64;
    private const int ProgramHeaderBytes = 56;
    private const uint Load = 1;

    /// <summary>What is wrong with a file as a 64-bit little-endian ELF file; empty where all of its parts lie within it.</summary>
    /// <exception cref="IOException">The file cannot be read.</exception>
    public static string Problem(string path)
    {
        using var file = File.OpenRead(path);
        Span<byte> header = stackalloc byte[HeaderBytes];
        if (file.ReadAtLeast(header, HeaderBytes, throwOnEndOfStream: false) < HeaderBytes)
            return $"{path}: file too short, {file.Length} bytes";
        if (!header.StartsWith("\u007fELF\u0002\u0001"u8))
            return $"{path}: not a 64-bit ELF file";

        var end = SectionTableEnd(header);
        var programHeaders = BinaryPrimitives.ReadUInt64LittleEndian(header[32..]);
        var count = BinaryPrimitives.ReadUInt16LittleEndian(header[56..]);
        Span<byte> entry = stackalloc byte[ProgramHeaderBytes];
        for (var i = 0u; i < count; i++)
        {
            var at = programHeaders + i * ProgramHeaderBytes;
            if (at > (ulong)file.Length)
                return TooShort(path, file.Length, at + ProgramHeaderBytes);
            file.Position = (long)at;
            if (file.ReadAtLeast(entry, ProgramHeaderBytes, throwOnEndOfStream: false) < ProgramHeaderBytes)
                return TooShort(path, file.Length, at + ProgramHeaderBytes);
            if (BinaryPrimitives.ReadUInt32LittleEndian(entry) != Load)
                continue;
            var (offset, bytes) = (BinaryPrimitives.ReadUInt64LittleEndian(entry[8..]),
                BinaryPrimitives.ReadUInt64LittleEndian(entry[32..]));
            end = Math.Max(end, offset + bytes);
        }

        return end > (ulong)file.Length ? TooShort(path, file.Length, end) : "";
    }

    private static ulong SectionTableEnd(ReadOnlySpan<byte> header) =>
        BinaryPrimitives.ReadUInt64LittleEndian(header[40..])
        + (ulong)BinaryPrimitives.ReadUInt16LittleEndian(header[58..]) * BinaryPrimitives.ReadUInt16LittleEndian(header[60..]);

    private static string TooShort(string path, long actual, ulong expected) =>
        $"{path}: file too short, {actual} bytes of at least {expected}; copy or install it anew";
}
