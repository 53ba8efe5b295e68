namespace AuxCore.Bench.Data;

/// <summary>The two halves of Fashion-MNIST.</summary>
public enum FashionMnistSplit
{
    /// <summary>To learn from.</summary>
    Train,

    /// <summary>To be measured on.</summary>
    Test,
}

/// <summary>How much of Fashion-MNIST. Accuracies on the two are not comparable.</summary>
public enum FashionMnistTier
{
    /// <summary>The committed excerpt: 4,000 + 1,000 images; there without a network.</summary>
    Fixture,

    /// <summary>The whole set: 60,000 + 10,000 images, from the cache.</summary>
    Full,
}

/// <summary>
/// Fashion-MNIST: 28 x 28 grey images of clothing in ten classes of equal size. H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a
/// Novel Image Dataset for Benchmarking Machine Learning Algorithms", arXiv:1708.07747, 2017.
/// </summary>
public sealed record FashionMnist
{
    /// <summary>Its id in the manifest.</summary>
    public const string Id = "fashion-mnist";

    /// <summary>Height and width of an image.</summary>
    public const int Side = 28;

    private FashionMnist(FashionMnistTier tier, LabelledImages train, LabelledImages test) => (Tier, Train, Test) = (tier, train, test);

    /// <summary>What the labels 0 to 9 mean.</summary>
    public static IReadOnlyList<string> ClassNames { get; } =
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

    /// <summary>How much of the set this is.</summary>
    public FashionMnistTier Tier { get; }

    /// <summary>The same in words, to be printed beside every result: <c>Fashion-MNIST, fixture 4,000 + 1,000</c>.</summary>
    public string Source => SourceOf(Tier);

    /// <summary>The training images.</summary>
    public LabelledImages Train { get; }

    /// <summary>The test images.</summary>
    public LabelledImages Test { get; }

    /// <summary>Both halves: of the full set if the cache has it, else of the committed excerpt. <see cref="Tier"/> says which.</summary>
    /// <param name="store">The cache to look into; <see cref="DataStore.Default"/> if null.</param>
    /// <exception cref="InvalidDataException">A file is damaged: that is an error, not a reason to take less data.</exception>
    public static FashionMnist LoadBest(DataStore? store = null)
    {
        store ??= DataStore.Default;
        var tier = store.Find(Id) is null ? FashionMnistTier.Fixture : FashionMnistTier.Full;
        return new FashionMnist(tier, Load(FashionMnistSplit.Train, tier, store), Load(FashionMnistSplit.Test, tier, store));
    }

    /// <summary>One half of the tier that the caller names.</summary>
    /// <param name="split">Which half.</param>
    /// <param name="tier">How much of it.</param>
    /// <param name="store">The cache that holds the full set; <see cref="DataStore.Default"/> if null.</param>
    /// <exception cref="DataUnavailableException">The full set was asked for and is not in the cache.</exception>
    /// <exception cref="InvalidDataException">A file is damaged.</exception>
    public static LabelledImages Load(FashionMnistSplit split, FashionMnistTier tier, DataStore? store = null) =>
        Read(split, tier, tier == FashionMnistTier.Full ? FullFolder(store ?? DataStore.Default) : FixtureFolder);

    /// <summary>The committed excerpt, beside the executable.</summary>
    internal static string FixtureFolder => Path.Combine(DataStore.ShippedFolder, Id);

    internal static string ImagesName(FashionMnistSplit split) => $"{Stem(split)}-images-idx3-ubyte.gz";

    internal static string LabelsName(FashionMnistSplit split) => $"{Stem(split)}-labels-idx1-ubyte.gz";

    internal static int CountOf(FashionMnistSplit split, FashionMnistTier tier) => (tier, split) switch
    {
        (FashionMnistTier.Fixture, FashionMnistSplit.Train) => 4_000,
        (FashionMnistTier.Fixture, FashionMnistSplit.Test) => 1_000,
        (FashionMnistTier.Full, FashionMnistSplit.Train) => 60_000,
        (FashionMnistTier.Full, FashionMnistSplit.Test) => 10_000,
        _ => throw new ArgumentOutOfRangeException(nameof(tier), $"there is no {split} half of a {tier} tier"),
    };

    /// <summary>Reads one half from a folder and checks that it is as large as its tier says.</summary>
    internal static LabelledImages Read(FashionMnistSplit split, FashionMnistTier tier, string folder)
    {
        var count = CountOf(split, tier);
        var images = ReadIdx(Path.Combine(folder, ImagesName(split)), [count, Side, Side]);
        var labels = ReadIdx(Path.Combine(folder, LabelsName(split)), [count]);
        return new LabelledImages($"{SourceOf(tier)}, {split}", Side, Side, images, labels, ClassNames);
    }

    private static byte[] ReadIdx(string path, int[] expected)
    {
        var file = IdxFile.Read(path);
        return file.Dimensions.SequenceEqual(expected)
            ? file.Data
            : throw new InvalidDataException(
                $"{path}: its shape is [{string.Join(", ", file.Dimensions)}], not [{string.Join(", ", expected)}]");
    }

    private static string FullFolder(DataStore store) => store.Find(Id) is not null
        ? store.FolderOf(Id)
        : throw new DataUnavailableException(
            $"the full Fashion-MNIST is not in the cache ({store.FolderOf(Id)}); `data fetch {Id}` of the bench puts it there");

    private static string SourceOf(FashionMnistTier tier) =>
        $"Fashion-MNIST, {(tier == FashionMnistTier.Full ? "full" : "fixture")} "
        + $"{CountOf(FashionMnistSplit.Train, tier):N0} + {CountOf(FashionMnistSplit.Test, tier):N0}";

    private static string Stem(FashionMnistSplit split) => split == FashionMnistSplit.Train ? "train" : "t10k";
}
