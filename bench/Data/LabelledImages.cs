namespace AuxCore.Bench.Data;

/// <summary>Grey images of one size with a class each.</summary>
public sealed record LabelledImages
{
    /// <summary>Takes the arrays over without a copy.</summary>
    /// <exception cref="InvalidDataException">There is not one label, naming one of the classes, for each image.</exception>
    public LabelledImages(string source, int rows, int columns, byte[] images, byte[] labels, IReadOnlyList<string> classNames)
    {
        if ((long)labels.Length * rows * columns != images.Length)
            throw new InvalidDataException($"{source}: {labels.Length:N0} labels for {images.Length / (rows * columns):N0} images");
        var foreign = Array.FindIndex(labels, label => label >= classNames.Count);
        if (foreign >= 0)
            throw new InvalidDataException($"{source}: label {foreign} is {labels[foreign]}, outside 0..{classNames.Count - 1}");
        (Source, Rows, Columns, Images, Labels, ClassNames) = (source, rows, columns, images, labels, classNames);
    }

    /// <summary>Which data this is, to be printed beside every result made from it.</summary>
    public string Source { get; }

    /// <summary>The height of an image.</summary>
    public int Rows { get; }

    /// <summary>The width of an image.</summary>
    public int Columns { get; }

    /// <summary>How many images there are.</summary>
    public int Count => Labels.Length;

    /// <summary>The pixels, [<see cref="Count"/>, <see cref="Rows"/>, <see cref="Columns"/>], 0 to 255.</summary>
    public byte[] Images { get; }

    /// <summary>The class of each image, an index into <see cref="ClassNames"/>.</summary>
    public byte[] Labels { get; }

    /// <summary>What the classes show.</summary>
    public IReadOnlyList<string> ClassNames { get; }

    /// <summary>The first images, at most <paramref name="count"/>.</summary>
    public LabelledImages First(int count) => count >= Count
        ? this
        : new($"{Source}, the first {count:N0}", Rows, Columns, Images[..(count * Rows * Columns)], Labels[..count], ClassNames);

    /// <summary>The pixels of one image.</summary>
    public ReadOnlySpan<byte> Image(int index) => Images.AsSpan(index * Rows * Columns, Rows * Columns);
}
