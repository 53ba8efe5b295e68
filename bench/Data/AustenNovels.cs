using System.IO.Compression;
using System.Text;

namespace AuxCore.Bench.Data;

/// <summary>
/// Jane Austen's six novels as bytes, to train small language models on. Five are to learn from; <see cref="HeldOutTitle"/> is kept for
/// measurement as a whole. The texts are out of copyright; they come from the R package janeaustenr (J. Silge, MIT).
/// </summary>
public sealed record AustenNovels
{
    /// <summary>Its id in the manifest.</summary>
    public const string Id = "austen";

    /// <summary>The first line of the book that is not learnt from.</summary>
    public const string HeldOutTitle = "Persuasion";

    internal const string TrainName = "train.txt.gz", HeldOutName = "held-out.txt.gz";

    private const int Books = 6, TrainExcerpt = 20_000, HeldOutExcerpt = 80_000;

    private AustenNovels(bool isFull, byte[] train, byte[] heldOut) => (IsFull, Train, HeldOut) = (isFull, train, heldOut);

    /// <summary>Whether these are the whole novels; otherwise the committed excerpt of them.</summary>
    public bool IsFull { get; }

    /// <summary>What to learn from: ASCII, lines parted by line feeds.</summary>
    public byte[] Train { get; }

    /// <summary>What to be measured on.</summary>
    public byte[] HeldOut { get; }

    /// <summary>The same in words, to be printed beside every result.</summary>
    public string Source =>
        $"Austen, {(IsFull ? "full" : "excerpt")}, {Train.Length:N0} + {HeldOut.Length:N0} bytes ({HeldOutTitle} held out)";

    /// <summary>The novels if the cache has them, else the committed excerpt. <see cref="IsFull"/> says which.</summary>
    /// <param name="store">The cache to look into; <see cref="DataStore.Default"/> if null.</param>
    /// <exception cref="InvalidDataException">A file is damaged: that is an error, not a reason to take less data.</exception>
    public static AustenNovels LoadBest(DataStore? store = null)
    {
        store ??= DataStore.Default;
        return store.Find(Id) is null ? Excerpt(Path.Combine(DataStore.ShippedFolder, Id)) : LoadFull(store);
    }

    /// <summary>The whole novels.</summary>
    /// <exception cref="DataUnavailableException">They are not in the cache.</exception>
    /// <exception cref="InvalidDataException">A file is damaged.</exception>
    public static AustenNovels LoadFull(DataStore store)
    {
        if (store.Find(Id) is not { } files)
        {
            throw new DataUnavailableException(
                $"Austen's novels are not in the cache ({store.FolderOf(Id)}); `data fetch {Id}` of the bench puts them there");
        }

        string path = files.Values.Single();
        List<string[]> books = [.. RDataFile.ReadCharacterVectors(path)];
        string[] heldOut = books.Find(book => book is [HeldOutTitle, ..])
            ?? throw new InvalidDataException($"{path}: none of its {books.Count} books begins with '{HeldOutTitle}'");
        if (books.Count != Books) throw new InvalidDataException($"{path}: it has {books.Count} books, not {Books}");
        books.Remove(heldOut);
        return new(true, Bytes([.. books.SelectMany(book => book)]), Bytes(heldOut));
    }

    /// <summary>Cuts the excerpt from the novels in the cache: the beginnings of what is learnt from and of the other book.</summary>
    internal static void MakeFixture(DataStore store, string folder)
    {
        Directory.CreateDirectory(folder);
        AustenNovels full = LoadFull(store);
        WriteGzip(Path.Combine(folder, TrainName), full.Train.AsSpan(0, TrainExcerpt));
        WriteGzip(Path.Combine(folder, HeldOutName), full.HeldOut.AsSpan(0, HeldOutExcerpt));
    }

    private static AustenNovels Excerpt(string folder) =>
        new(false, ReadGzip(Path.Combine(folder, TrainName)), ReadGzip(Path.Combine(folder, HeldOutName)));

    // Two letters of the whole are not ASCII; they become question marks, so that a byte is a character.
    private static byte[] Bytes(string[] lines) => Encoding.ASCII.GetBytes(string.Join('\n', lines) + "\n");

    private static void WriteGzip(string path, ReadOnlySpan<byte> content)
    {
        using var stream = new GZipStream(File.Create(path), CompressionLevel.SmallestSize);
        stream.Write(content);
    }

    private static byte[] ReadGzip(string path)
    {
        using var stream = new GZipStream(File.OpenRead(path), CompressionMode.Decompress);
        using var content = new MemoryStream();
        stream.CopyTo(content);
        return content.ToArray();
    }
}
