using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using TorchSharp;

namespace AuxCore.Tests;

/// <summary>
/// TorchSharp loads on systems older than its native library asks for, because build/AuxCore.Models.targets puts a copy with one weak
/// requirement into the output folder. What is checked here is that file and its original.
/// </summary>
[RequiresLibtorch]
public class TorchSharpLoadTests
{
    private const string Library = "libLibTorchSharp.so";
    private const string Version = "GLIBCXX_3.4.32";

    [Fact]
    public void Multiplies_matrices()
    {
        using var scope = torch.NewDisposeScope();
        var product = torch.tensor(new float[,] { { 1, 2 }, { 3, 4 } }).matmul(torch.tensor(new float[,] { { 5 }, { 6 } }));
        Assert.Equal([17f, 39f], product.data<float>().ToArray());
    }

    [Fact]
    public void Output_folder_has_the_weakened_library()
    {
        var needs = VersionNeeds(InOutput(Library));
        Assert.True(Assert.Single(needs, need => need.Version == Version).IsWeak);
        Assert.All(needs, need => Assert.True(need.Version == Version || !need.IsWeak, $"{need.Version} is weak too"));
    }

    [Fact]
    public void Package_cache_keeps_the_original()
    {
        var original = InPackage(Library);
        Assert.False(Assert.Single(VersionNeeds(original), need => need.Version == Version).IsWeak);

        // One bit of one byte is the whole difference.
        var (before, after) = (File.ReadAllBytes(original), File.ReadAllBytes(InOutput(Library)));
        Assert.Equal(before.Length, after.Length);
        var changed = Assert.Single(Enumerable.Range(0, before.Length), i => before[i] != after[i]);
        Assert.Equal(before[changed] | 2, after[changed]);
    }

    [Fact]
    public void Libtorch_is_linked_into_the_output_folder()
    {
        foreach (var name in new[] { "libtorch.so", "libtorch_cpu.so", "libc10.so" })
            Assert.True(
                new FileInfo(InOutput(name)).LinkTarget is not null, $"{name} is a copy; see CreateSymbolicLinksForCopyLocalIfPossible");
    }

    private static string InOutput(string name)
    {
        Assert.SkipUnless(
            OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64, "only Linux x64 has these files");
        var path = Path.Combine(AppContext.BaseDirectory, "runtimes", "linux-x64", "native", name);
        if (!File.Exists(path))
            path = Path.Combine(AppContext.BaseDirectory, name); // a build for one runtime identifier
        Assert.SkipUnless(File.Exists(path), $"{name} is not in the output folder");
        return path;
    }

    /// <summary>The file of TorchSharp's package that the managed assembly, itself a link into the package cache, belongs to.</summary>
    private static string InPackage(string name)
    {
        InOutput(name); // its skip reasons hold here too
        var managed = File.ResolveLinkTarget(typeof(torch).Assembly.Location, returnFinalTarget: true);
        Assert.SkipWhen(managed is null, "TorchSharp.dll is a copy, so the package cache is not known");
        var path = Path.Combine(Path.GetDirectoryName(managed.FullName)!, "..", "..", "runtimes", "linux-x64", "native", name);
        Assert.SkipUnless(File.Exists(path), $"the package cache has no {path}");
        return path;
    }

    /// <summary>
    /// The symbol versions that an ELF64 file needs: every Vernaux of section .gnu.version_r (System V ABI, "Symbol Versioning").
    /// </summary>
    private static List<(string Version, bool IsWeak)> VersionNeeds(string path)
    {
        const int GnuVersionNeed = 0x6ffffffe, Weak = 2; // SHT_GNU_verneed, VER_FLG_WEAK
        var elf = File.ReadAllBytes(path);
        Assert.Equal([0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1], elf[..6]);
        int Half(long at) => BinaryPrimitives.ReadUInt16LittleEndian(elf.AsSpan((int)at));
        long Word(long at) => BinaryPrimitives.ReadUInt32LittleEndian(elf.AsSpan((int)at));
        long Xword(long at) => BinaryPrimitives.ReadInt64LittleEndian(elf.AsSpan((int)at));
        long Section(long index) => Xword(40) + index * Half(58); // e_shoff, e_shentsize

        var found = new List<(string, bool)>();
        var section = Enumerable.Range(0, Half(60)).Select(i => Section(i)).Single(at => Word(at + 4) == GnuVersionNeed);
        var strings = Xword(Section(Word(section + 40)) + 24); // sh_offset of the section that sh_link names
        var need = Xword(section + 24);
        for (var left = Word(section + 44); left > 0; left--, need += Word(need + 12)) // sh_info entries, vn_next
        {
            var auxiliary = need + Word(need + 8); // vn_aux
            for (var count = Half(need + 2); count > 0; count--, auxiliary += Word(auxiliary + 12)) // vn_cnt, vna_next
            {
                var name = elf.AsSpan((int)(strings + Word(auxiliary + 8)));
                found.Add((Encoding.ASCII.GetString(name[..name.IndexOf((byte)0)]), (Half(auxiliary + 4) & Weak) != 0));
            }
        }

        return found;
    }
}
