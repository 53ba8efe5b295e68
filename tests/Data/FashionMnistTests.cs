using AuxCore.Bench.Data;

namespace AuxCore.Tests.Data;

public sealed class FashionMnistTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void The_first_images_are_the_first()
    {
        var all = FashionMnist.Load(FashionMnistSplit.Test, FashionMnistTier.Fixture);
        var first = all.First(7);

        Assert.Equal(7, first.Count);
        Assert.Equal(all.Image(6).ToArray(), first.Image(6).ToArray());
        Assert.Equal(all.Labels[..7], first.Labels);
        Assert.Same(all, all.First(all.Count));
    }

    [Fact]
    public void The_committed_excerpt_is_the_one_in_the_manifest()
    {
        var pinned = DataStore.Default.Manifest[FashionMnist.Id].Fixture;
        Assert.Equal(4, pinned.Count);
        foreach (var file in pinned)
            Assert.Equal(file.ContentSha256, Sha256File.OfGzipContent(Path.Combine(FashionMnist.FixtureFolder, file.Name)));
    }

    [Fact]
    public void The_excerpt_carries_the_notice_of_its_source()
    {
        var notice = File.ReadAllText(Path.Combine(FashionMnist.FixtureFolder, "NOTICE"));
        Assert.StartsWith(string.Join('\n', DataStore.Default.Manifest[FashionMnist.Id].Notice), notice);
    }

    [Theory]
    [InlineData(FashionMnistSplit.Train, 400)]
    [InlineData(FashionMnistSplit.Test, 100)]
    public void The_excerpt_has_the_same_number_of_each_class(FashionMnistSplit split, int perClass)
    {
        var images = FashionMnist.Load(split, FashionMnistTier.Fixture);
        Assert.Equal(Enumerable.Range(0, 10).Select(c => (byte)c), images.Labels.Distinct().Order());
        Assert.All(images.Labels.CountBy(label => label), count => Assert.Equal(perClass, count.Value));
        Assert.Equal((28, 28, 10), (images.Rows, images.Columns, images.ClassNames.Count));
        Assert.Equal($"Fashion-MNIST, fixture 4,000 + 1,000, {split}", images.Source);
    }

    // Labels that were shuffled against the images would give 0.1; the full set gives 0.677.
    [Fact]
    public void The_nearest_class_mean_tells_the_classes_apart() =>
        Assert.True(NearestClassMeanAccuracy(FashionMnistTier.Fixture) > 0.6);

    [Fact]
    public void Without_the_full_set_the_best_is_the_excerpt_and_says_so()
    {
        var best = FashionMnist.LoadBest(EmptyStore());
        Assert.Equal(FashionMnistTier.Fixture, best.Tier);
        Assert.Equal("Fashion-MNIST, fixture 4,000 + 1,000", best.Source);
        Assert.Equal((4_000, 1_000), (best.Train.Count, best.Test.Count));
    }

    [Fact]
    public void The_full_set_is_never_replaced_by_the_excerpt_when_asked_for()
    {
        var fault = Assert.Throws<DataUnavailableException>(
            () => FashionMnist.Load(FashionMnistSplit.Test, FashionMnistTier.Full, EmptyStore()));
        Assert.Contains(_folder.Path, fault.Message);
        Assert.Contains("data fetch fashion-mnist", fault.Message);
    }

    [Fact]
    public void A_damaged_cache_is_an_error_not_an_excerpt()
    {
        var store = EmptyStore();
        Directory.CreateDirectory(store.FolderOf(FashionMnist.Id));
        foreach (var file in store.Manifest[FashionMnist.Id].Files)
            File.WriteAllText(Path.Combine(store.FolderOf(FashionMnist.Id), file.Name), "not it");
        Assert.Throws<InvalidDataException>(() => FashionMnist.LoadBest(store));
    }

    [Fact]
    public void The_full_set_in_the_cache_is_the_best()
    {
        SkipWithoutFullSet();
        var best = FashionMnist.LoadBest();
        Assert.Equal(FashionMnistTier.Full, best.Tier);
        Assert.Equal("Fashion-MNIST, full 60,000 + 10,000", best.Source);
        Assert.All(best.Train.Labels.CountBy(label => label), count => Assert.Equal(6_000, count.Value));
        Assert.All(best.Test.Labels.CountBy(label => label), count => Assert.Equal(1_000, count.Value));
    }

    [Fact]
    public void The_excerpt_can_be_cut_again_from_the_full_set()
    {
        SkipWithoutFullSet();
        using var log = new StringWriter();
        var entry = DataStore.Default.Manifest[FashionMnist.Id];
        Assert.Equal(0, DataVerbs.Fixture(log, _folder.Path, new DataStore(new DataManifest([entry]), DataStore.Default.Root)));
        foreach (var file in entry.Fixture)
            Assert.Equal(file.ContentSha256, Sha256File.OfGzipContent(Path.Combine(_folder[FashionMnist.Id], file.Name)));
    }

    [Fact]
    public void An_excerpt_that_is_not_the_one_in_the_manifest_fails_the_verb()
    {
        SkipWithoutFullSet();
        var entry = DataStore.Default.Manifest[FashionMnist.Id];
        var another = entry with { Fixture = [entry.Fixture[1] with { ContentSha256 = new string('0', 64) }] };
        using var log = new StringWriter();
        Assert.Equal(1, DataVerbs.Fixture(log, _folder.Path, new DataStore(new DataManifest([another]), DataStore.Default.Root)));
        Assert.Contains("content differs from the manifest", log.ToString());
        Assert.Contains(entry.Fixture[1].ContentSha256, log.ToString());
    }

    [Fact]
    public void The_excerpt_takes_the_first_of_each_class_in_order()
    {
        var full = new LabelledImages("test", 1, 1, [10, 11, 12, 13, 14, 15], [1, 1, 0, 1, 0, 0], ["a", "b"]);
        var (images, labels) = FashionMnistFixture.FirstOfEachClass(full, perClass: 2);
        Assert.Equal<byte>([10, 11, 12, 14], images);
        Assert.Equal<byte>([1, 1, 0, 0], labels);
    }

    [Fact]
    public void A_label_outside_the_classes_is_refused()
    {
        var labels = FashionMnist.Load(FashionMnistSplit.Test, FashionMnistTier.Fixture).Labels;
        labels[17] = 10;
        WriteTest(labels, count: 1_000);
        AssertRefused("label 17 is 10, outside 0..9");
    }

    [Theory]
    [InlineData(999, 1_000, "t10k-labels-idx1-ubyte.gz: its shape is [999], not [1000]")]
    [InlineData(1_000, 999, "t10k-images-idx3-ubyte.gz: its shape is [999, 28, 28], not [1000, 28, 28]")]
    public void Files_of_another_size_are_refused(int labels, int images, string message)
    {
        WriteTest(new byte[labels], images);
        AssertRefused(message);
    }

    [Fact]
    public void Labels_and_images_must_pair_up()
    {
        var fault = Assert.Throws<InvalidDataException>(() => new LabelledImages("test", 2, 2, new byte[12], new byte[4], ["a"]));
        Assert.Equal("test: 4 labels for 3 images", fault.Message);
    }

    private static void SkipWithoutFullSet() => Assert.SkipUnless(
        DataStore.Default.Find(FashionMnist.Id) is not null,
        $"the full Fashion-MNIST is not in {DataStore.Default.Root}; `data fetch fashion-mnist` of the bench puts it there");

    private DataStore EmptyStore() => new(DataStore.Default.Manifest, _folder.Path);

    private void WriteTest(byte[] labels, int count)
    {
        IdxFile.Write(_folder[FashionMnist.LabelsName(FashionMnistSplit.Test)], [labels.Length], labels);
        IdxFile.Write(_folder[FashionMnist.ImagesName(FashionMnistSplit.Test)], [count, 28, 28], new byte[count * 784]);
    }

    private void AssertRefused(string message)
    {
        var fault = Assert.Throws<InvalidDataException>(
            () => FashionMnist.Read(FashionMnistSplit.Test, FashionMnistTier.Fixture, _folder.Path));
        Assert.Contains(message, fault.Message);
    }

    private static double NearestClassMeanAccuracy(FashionMnistTier tier)
    {
        var train = FashionMnist.Load(FashionMnistSplit.Train, tier);
        var test = FashionMnist.Load(FashionMnistSplit.Test, tier);
        var means = Enumerable.Range(0, 10).Select(label => Mean(train, label)).ToArray();
        return Enumerable.Range(0, test.Count).Average(i => Nearest(means, test.Image(i)) == test.Labels[i] ? 1.0 : 0.0);
    }

    private static double[] Mean(LabelledImages images, int label)
    {
        var mean = new double[784];
        var members = Enumerable.Range(0, images.Count).Where(i => images.Labels[i] == label).ToArray();
        foreach (var i in members)
        {
            for (var pixel = 0; pixel < mean.Length; pixel++)
                mean[pixel] += images.Image(i)[pixel] / (double)members.Length;
        }
        return mean;
    }

    private static int Nearest(double[][] means, ReadOnlySpan<byte> image)
    {
        var distances = new double[means.Length];
        for (var c = 0; c < means.Length; c++)
        {
            for (var pixel = 0; pixel < image.Length; pixel++)
                distances[c] += (means[c][pixel] - image[pixel]) * (means[c][pixel] - image[pixel]);
        }
        return Array.IndexOf(distances, distances.Min());
    }
}
