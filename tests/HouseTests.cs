using System.Reflection;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;

namespace AuxCore.Tests;

/// <summary>The rules of docs/architecture.md that a program can check.</summary>
public class HouseTests
{
    public static TheoryData<string> Ops => [.. OpTypes.Select(type => type.Name)];

    private static IEnumerable<Type> OpTypes => typeof(EmaUpdate).Assembly.GetTypes().Where(type => SupportOf(type) is not null);

    [Fact]
    public void There_are_ops() => Assert.NotEmpty(OpTypes);

    [Theory]
    [MemberData(nameof(Ops))]
    public void A_support_table_covers_every_backend_and_gives_reasons(string op)
    {
        var support = SupportOf(OpTypes.Single(type => type.Name == op))!;

        Assert.Equal(op, support.Op);
        Assert.Null(support.WhyNot(AuxBackend.Reference));
        Assert.Null(support.WhyNot(AuxBackend.Cpu));
        foreach (var backend in Enum.GetValues<AuxBackend>().Where(backend => backend != AuxBackend.Auto))
            Assert.True(support.WhyNot(backend) is null or { Length: > 10 }, $"{op} on {backend}: an empty cell has a reason");
    }

    [Theory]
    [MemberData(nameof(Ops))]
    public void An_op_has_reference_tests_tolerance_benchmark_and_a_row_in_the_readme(string op)
    {
        var root = Root();
        Assert.SkipWhen(root is null, "the sources are not beside the tests (they run from an archive)");

        string[] files = [.. Directory.EnumerateFiles(root, "*.cs", SearchOption.AllDirectories).Select(path => Path.GetFileName(path))];

        Assert.Contains($"{op}.Reference.cs", files);
        Assert.Contains($"{op}.Cpu.cs", files);
        Assert.Contains($"{op}Tests.cs", files);
        Assert.Contains($"{op}Benchmarks.cs", files);
        Assert.Contains(typeof(Tolerances).GetFields(), field => field.Name.StartsWith(op, StringComparison.Ordinal));
        Assert.Contains($"`{op}`", File.ReadAllText(Path.Combine(root, "README.md")), StringComparison.Ordinal);
    }

    [Fact]
    public void Tests_that_name_TorchSharp_are_marked()
    {
        var root = Root();
        Assert.SkipWhen(root is null, "the sources are not beside the tests (they run from an archive)");

        var marked = typeof(RequiresLibtorchAttribute);
        var unmarked = typeof(HouseTests).Assembly.GetTypes()
            .Where(type => type.Name.EndsWith("Tests", StringComparison.Ordinal) && !type.IsDefined(marked, inherit: true));
        foreach (var type in unmarked)
        {
            var files = Directory.EnumerateFiles(Path.Combine(root, "tests"), $"{type.Name}.cs", SearchOption.AllDirectories);
            foreach (var text in files.Select(File.ReadAllText).Where(text => text.Contains("using TorchSharp;", StringComparison.Ordinal)))
                Assert.True(
                    text.Contains("RequiresLibtorch", StringComparison.Ordinal), // on a method, or asked by the constructor
                    $"{type.Name} uses TorchSharp: mark it [RequiresLibtorch], or its tests that call libtorch");
        }
    }

    [Fact]
    public void Dependencies_run_one_way()
    {
        Assert.DoesNotContain(References(typeof(AuxRuntime)), name => name.StartsWith("AuxCore", StringComparison.Ordinal));
        Assert.DoesNotContain(References(typeof(EmaUpdate)), name => name is "TorchSharp" or "AuxCore.Models");
        foreach (var type in (Type[])[typeof(AuxRuntime), typeof(EmaModel)])
            Assert.DoesNotContain(References(type), name => name.StartsWith("ILGPU", StringComparison.Ordinal));
        Assert.Contains("ILGPU", References(typeof(EmaUpdate)));
        Assert.Contains("TorchSharp", References(typeof(EmaModel)));
    }

    internal static string? Root()
    {
        for (var folder = new DirectoryInfo(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "Core.sln")))
                return folder.FullName;
        }

        return null;
    }

    private static OpSupport? SupportOf(Type type) =>
        type.GetField("Support", BindingFlags.Static | BindingFlags.NonPublic | BindingFlags.DeclaredOnly)?.GetValue(null) as OpSupport;

    private static IEnumerable<string> References(Type type) => type.Assembly.GetReferencedAssemblies().Select(name => name.Name!);
}
