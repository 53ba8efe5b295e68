namespace AuxCore.Bench.Data;

/// <summary>How the committed excerpt of Fashion-MNIST was made, and how to make it again.</summary>
public static class FashionMnistFixture
{
    /// <summary>Cuts the excerpt from the full set in the cache and writes its four files into <paramref name="folder"/>.</summary>
    /// <remarks>The content is the same everywhere; the gzip bytes depend on the zlib that packs them.</remarks>
    /// <exception cref="DataUnavailableException">The full set is not in the cache.</exception>
    public static void MakeFixture(DataStore store, string folder)
    {
        Directory.CreateDirectory(folder);
        foreach (var split in Enum.GetValues<FashionMnistSplit>())
        {
            var full = FashionMnist.Load(split, FashionMnistTier.Full, store);
            var perClass = FashionMnist.CountOf(split, FashionMnistTier.Fixture) / full.ClassNames.Count;
            var (images, labels) = FirstOfEachClass(full, perClass);
            IdxFile.Write(Path.Combine(folder, FashionMnist.ImagesName(split)), [labels.Length, full.Rows, full.Columns], images);
            IdxFile.Write(Path.Combine(folder, FashionMnist.LabelsName(split)), [labels.Length], labels);
        }
    }

    /// <summary>The first <paramref name="perClass"/> images of each class, all of them in their original order.</summary>
    internal static (byte[] Images, byte[] Labels) FirstOfEachClass(LabelledImages full, int perClass)
    {
        var taken = new int[full.ClassNames.Count];
        var kept = Enumerable.Range(0, full.Count).Where(i => taken[full.Labels[i]]++ < perClass).ToArray();
        var images = new byte[kept.Length * full.Rows * full.Columns];
        for (var i = 0; i < kept.Length; i++)
            full.Image(kept[i]).CopyTo(images.AsSpan(i * full.Rows * full.Columns));
        return (images, Array.ConvertAll(kept, i => full.Labels[i]));
    }
}
