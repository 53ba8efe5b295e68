using System.Text.RegularExpressions;

namespace AuxCore.Tests.Ilgpu;

/// <summary>
/// The PTX of a kernel as it was when somebody looked at it: a change of ILGPU, of the C# compiler or of the kernel shows as a difference
/// to review. With the environment variable <c>AUXCORE_UPDATE_SNAPSHOTS=1</c> a test writes what it has into the source tree.
/// </summary>
internal static partial class PtxSnapshot
{
    public static void Compare(string file, string ptx)
    {
#if DEBUG
        Assert.Skip("the snapshot is of a release build; the C# compiler writes other code for debugging");
#endif
        var actual = Normalise(ptx);
        if (Environment.GetEnvironmentVariable("AUXCORE_UPDATE_SNAPSHOTS") == "1" && HouseTests.Root() is { } root)
        {
            var folders = Directory.GetDirectories(Path.Combine(root, "tests")); // of the families, among others
            var known = folders.Select(folder => Path.Combine(folder, file)).FirstOrDefault(File.Exists);
            File.WriteAllText(known ?? Path.Combine(root, "tests", "Ilgpu", file), actual);
            return;
        }

        var expected = File.ReadAllText(Path.Combine(AppContext.BaseDirectory, "snapshots", file));
        Assert.Equal(expected.Split('\n'), actual.Split('\n'));
    }

    /// <summary>Without the numbers of ILGPU's nodes, which depend on what else was compiled before.</summary>
    public static string Normalise(string ptx)
    {
        var labels = new Dictionary<string, string>();
        ptx = LabelPattern().Replace(ptx.ReplaceLineEndings("\n"), match =>
        {
            if (!labels.TryGetValue(match.Value, out var label))
                labels[match.Value] = label = $"L{labels.Count}";
            return label;
        });
        return NumberPattern().Replace(ptx, "").Trim() + "\n";
    }

    [GeneratedRegex(@"\bL_\d+\b")]
    private static partial Regex LabelPattern();

    [GeneratedRegex(@"(?<=[A-Za-z]\w*)(?<!\bsm)_\d+\b")]
    private static partial Regex NumberPattern();
}
