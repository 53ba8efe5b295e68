using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Unicode;

namespace AuxCore.Models;

/// <summary>A tensor in the header of a safetensors file; offsets count from the start of the data.</summary>
internal sealed record SafetensorsEntry(string Name, SafetensorsDtype Dtype, long[] Shape, long Begin, long End);

/// <summary>The parsed and fully checked header of a safetensors file.</summary>
internal sealed class SafetensorsHeader
{
    /// <summary>The longest header that the reference reader accepts.</summary>
    public const int LengthLimit = 100_000_000;

    /// <summary>The bytes before the header: its length, 64 bits, little-endian.</summary>
    public const int LengthBytes = sizeof(ulong);

    public const string MetadataKey = "__metadata__";

    /// <summary>The metadata key under which AuxCore keeps the checksum.</summary>
    public const string ChecksumKey = "auxcore.sha256";

    /// <summary>The digits of the checksum while it is being computed: the checksum covers the place where it stands.</summary>
    public static ReadOnlySpan<byte> NoChecksum => "0000000000000000000000000000000000000000000000000000000000000000"u8;

    private const string Operation = "SafetensorsFile.Open";
    private readonly string _path;

    private SafetensorsHeader(string path) => _path = path;

    /// <summary>The tensors, in the order of their data.</summary>
    public List<SafetensorsEntry> Entries { get; } = [];

    /// <summary>The metadata, without the checksum.</summary>
    public Dictionary<string, string> Metadata { get; } = new(StringComparer.Ordinal);

    /// <summary>The checksum in lower-case hexadecimal digits, where the file has one.</summary>
    public string? Checksum { get; private set; }

    /// <summary>Where in the header the checksum's digits stand.</summary>
    public int ChecksumAt { get; private set; }

    /// <summary>Parses a header and checks it against the length of the data that follows it.</summary>
    /// <exception cref="StateFileException">A rule of the format is broken.</exception>
    public static SafetensorsHeader Parse(string path, ReadOnlyMemory<byte> json, long dataLength)
    {
        var header = new SafetensorsHeader(path);
        if (json.IsEmpty || json.Span[0] != '{') throw header.Bad(null, "the header does not begin with '{'");
        if (!Utf8.IsValid(json.Span)) throw header.Bad(null, "the header is not UTF-8");
        try
        {
            using var document = JsonDocument.Parse(json);
            foreach (var (name, value) in header.Members(null, document.RootElement))
            {
                if (name == MetadataKey) header.AddMetadata(value, json.Span);
                else header.Entries.Add(header.ParseEntry(name, value, dataLength));
            }
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException) // the latter: an escaped half of a surrogate pair
        {
            throw header.Bad(null, $"the header is not valid JSON: {e.Message}", e);
        }

        header.CheckLayout(dataLength);
        return header;
    }

    private void AddMetadata(JsonElement metadata, ReadOnlySpan<byte> json)
    {
        if (metadata.ValueKind != JsonValueKind.Object) throw Bad(MetadataKey, "the metadata is not an object");
        foreach (var (key, value) in Members(MetadataKey, metadata))
        {
            if (value.ValueKind != JsonValueKind.String) throw Bad(key, "the metadata value is not a string");
            string text = value.GetString()!;
            if (key != ChecksumKey)
            {
                Metadata.Add(key, text);
                continue;
            }

            var digits = JsonMarshal.GetRawUtf8Value(value)[1..^1];
            if (digits.Length != NoChecksum.Length) throw Bad(key, $"the checksum is not {NoChecksum.Length} hexadecimal digits");
            json.Overlaps(digits, out int at);
            (Checksum, ChecksumAt) = (text, at);
        }
    }

    private SafetensorsEntry ParseEntry(string name, JsonElement entry, long dataLength)
    {
        if (entry.ValueKind != JsonValueKind.Object) throw Bad(name, "the entry is not an object");
        var members = Members(name, entry); // members other than these three are allowed, as in the reference reader

        if (!members.TryGetValue("dtype", out var dtypeName) || dtypeName.ValueKind != JsonValueKind.String)
            throw Bad(name, "'dtype' is missing or not a string");
        var dtype = SafetensorsDtype.Find(dtypeName.GetString())
            ?? throw Bad(name, $"dtype '{StateFileException.Shown(dtypeName.GetString()!)}' is none of {SafetensorsDtype.Names}");

        long[] shape = Numbers(name, members, "shape");
        if (!dtype.TryByteCount(shape, out long bytes)) throw Bad(name, "the shape exceeds 64 bits");

        if (Numbers(name, members, "data_offsets") is not [long begin, long end]) throw Bad(name, "'data_offsets' is not a pair");
        if (begin > end) throw Bad(name, $"the data end at {end}, before their begin at {begin}");
        if (end > dataLength) throw Bad(name, $"the data end at {end}, beyond the file's {dataLength} bytes of data");
        if (end - begin != bytes) throw Bad(name, $"the data take {end - begin} bytes where dtype and shape ask for {bytes}");
        return new(name, dtype, shape, begin, end);
    }

    private long[] Numbers(string name, Dictionary<string, JsonElement> members, string member)
    {
        if (!members.TryGetValue(member, out var array) || array.ValueKind != JsonValueKind.Array)
            throw Bad(name, $"'{member}' is missing or not an array");
        return [.. array.EnumerateArray().Select(number =>
            number.ValueKind == JsonValueKind.Number && number.TryGetUInt64(out ulong value) && value <= long.MaxValue
                ? (long)value
                : throw Bad(name, $"'{member}' holds something that is not a whole number from 0 to 2^63 - 1"))];
    }

    // JSON parsers differ in which of two equal keys they keep; a file must mean the same to all of them.
    private Dictionary<string, JsonElement> Members(string? key, JsonElement json)
    {
        var members = new Dictionary<string, JsonElement>(StringComparer.Ordinal);
        foreach (var member in json.EnumerateObject())
            if (!members.TryAdd(member.Name, member.Value))
                throw Bad(key ?? member.Name, $"the key '{StateFileException.Shown(member.Name)}' appears twice");
        return members;
    }

    private void CheckLayout(long dataLength)
    {
        Entries.Sort((a, b) => (a.Begin, a.End, a.Name).CompareTo((b.Begin, b.End, b.Name)));
        long covered = 0;
        foreach (var entry in Entries)
        {
            if (entry.Begin < covered) throw Bad(entry.Name, $"the data begin at {entry.Begin} and overlap others, which end at {covered}");
            if (entry.Begin > covered) throw Bad(entry.Name, $"the data begin at {entry.Begin} after a hole from {covered}");
            covered = entry.End;
        }

        if (covered != dataLength) throw Bad(null, $"{dataLength - covered} bytes after the last tensor belong to none");
    }

    private StateFileException Bad(string? key, string problem, Exception? cause = null) => new(Operation, _path, key, problem, cause);
}
