using System.IO.Compression;
using System.Security.Cryptography;

namespace AuxCore.Bench.Data;

/// <summary>SHA-256 of files, in lower-case hexadecimal.</summary>
public static class Sha256File
{
    /// <summary>The hash of the file's bytes.</summary>
    public static string Of(string path)
    {
        using var file = File.OpenRead(path);
        return Convert.ToHexStringLower(SHA256.HashData(file));
    }

    /// <summary>The hash of what a gzip file unpacks to. It identifies the content whatever zlib packed it.</summary>
    public static string OfGzipContent(string path)
    {
        using var file = File.OpenRead(path);
        using var content = new GZipStream(file, CompressionMode.Decompress);
        return Convert.ToHexStringLower(SHA256.HashData(content));
    }

    /// <summary>Requires that the hash found is the one expected.</summary>
    /// <exception cref="InvalidDataException">It is not; the message names the file and both hashes.</exception>
    public static void Require(string path, string expected, string found)
    {
        if (found != expected)
            throw new InvalidDataException($"{path}: wrong SHA-256\n  expected {expected}\n  found    {found}");
    }
}
