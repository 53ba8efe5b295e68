using AuxCore.Interop;
using AuxCore.Tests.Data;

namespace AuxCore.Tests.Cuda;

public class NativeLibrariesTests
{
    private const string RuntimeFolder = "runtimes/linux-x64/native";

    [Fact]
    public void A_library_that_is_nowhere_is_reported_with_the_paths_that_were_tried()
    {
        using var folder = new TempFolder();

        Assert.False(NativeLibraries.TryLoad("no_such_library", null, folder.Path, out var handle, out var reason));

        Assert.Equal(0, handle);
        Assert.Contains("libno_such_library.so was not found", reason, StringComparison.Ordinal);
        Assert.Contains(Path.Combine(folder.Path, "libno_such_library.so"), reason, StringComparison.Ordinal);
        Assert.Contains(Path.Combine(folder.Path, RuntimeFolder, "libno_such_library.so"), reason, StringComparison.Ordinal);
        Assert.Contains("AuxCore.Native.linux-x64", reason, StringComparison.Ordinal);
    }

    [Fact]
    public void What_the_build_says_it_left_out_is_passed_on()
    {
        using var folder = new TempFolder();
        Directory.CreateDirectory(Path.Combine(folder.Path, RuntimeFolder));
        File.WriteAllText(Path.Combine(folder.Path, RuntimeFolder, "not-built.txt"), "the build left it out, for want of cmake\n");

        NativeLibraries.TryLoad("no_such_library", null, folder.Path, out _, out var reason);

        Assert.StartsWith(
            "libno_such_library.so was not found: the build left it out, for want of cmake; tried ", reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_folder_that_is_named_is_the_only_one()
    {
        using var named = new TempFolder();
        var application = Path.GetDirectoryName(OurLibrary())!;

        Assert.False(NativeLibraries.TryLoad("auxcore", named.Path, application, out _, out var reason));

        Assert.Contains($"tried {Path.Combine(named.Path, "libauxcore.so")}; AUXCORE_NATIVE_DIR names the only folder", reason,
            StringComparison.Ordinal);
        Assert.DoesNotContain(application, reason, StringComparison.Ordinal);
    }

    [Fact]
    public void The_library_loads_from_the_application_or_its_runtime_folder()
    {
        var library = OurLibrary();
        using var folder = new TempFolder();
        Directory.CreateDirectory(Path.Combine(folder.Path, RuntimeFolder));
        File.Copy(library, Path.Combine(folder.Path, RuntimeFolder, "libauxcore.so"));

        Assert.True(NativeLibraries.TryLoad("auxcore", null, folder.Path, out var handle, out var reason), reason);
        Assert.True(CudaLibrary.IsOurs(handle, out reason), reason);

        File.Move(Path.Combine(folder.Path, RuntimeFolder, "libauxcore.so"), Path.Combine(folder.Path, "libauxcore.so"));
        Assert.True(NativeLibraries.TryLoad("auxcore", null, folder.Path, out _, out reason), reason);
        Assert.True(NativeLibraries.TryLoad("auxcore", folder.Path, "/", out _, out reason), reason);
    }

    [Fact]
    public void A_file_that_is_cut_short_anywhere_is_refused_and_not_loaded()
    {
        var whole = File.ReadAllBytes(OurLibrary());
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "libauxcore.so");
        foreach (var bytes in (int[])[0, 3, 63, 64, 100, 5000, whole.Length / 2, whole.Length - 1])
        {
            File.WriteAllBytes(path, whole[..bytes]);

            Assert.False(NativeLibraries.TryLoad("auxcore", null, folder.Path, out var handle, out var reason));

            Assert.Equal(0, handle);
            Assert.StartsWith($"{path} does not load: {path}: file too short, {bytes} bytes", reason, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_file_that_is_no_library_is_refused()
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "libauxcore.so");
        File.WriteAllText(path, new string('x', 1000));

        Assert.False(NativeLibraries.TryLoad("auxcore", null, folder.Path, out _, out var reason));
        Assert.EndsWith("libauxcore.so: not a 64-bit ELF file", reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_library_that_the_loader_refuses_is_reported_with_its_words()
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "libauxcore.so");
        var bytes = File.ReadAllBytes(OurLibrary());
        bytes[18] = 183; // e_machine: AArch64
        File.WriteAllBytes(path, bytes);

        Assert.False(NativeLibraries.TryLoad("auxcore", null, folder.Path, out _, out var reason));
        Assert.StartsWith($"{path} does not load: {path}: ", reason, StringComparison.Ordinal);
        Assert.Matches("wrong ELF|cannot open|invalid|machine", reason);
    }

    [Theory]
    [InlineData("version", "libauxcore.so has ABI version 999, AuxCore.Interop wants 1; take both from one release")]
    [InlineData("functions", "libauxcore.so has no function auxcore_last_error, although its ABI version is 1")]
    public void A_library_of_another_version_or_without_a_function_is_refused(string misfit, string expected)
    {
        var folder = Path.Combine(AppContext.BaseDirectory, "misfits", misfit);
        Assert.SkipUnless(Directory.Exists(folder), "the build made no misfits: no cmake");

        Assert.True(NativeLibraries.TryLoad("auxcore", folder, folder, out var handle, out var reason), reason);
        Assert.False(CudaLibrary.IsOurs(handle, out reason));

        Assert.StartsWith(expected, reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_library_that_is_not_ours_is_refused()
    {
        var standin = Path.Combine(AppContext.BaseDirectory, "standin", "libcuda.so.1");
        Assert.SkipUnless(File.Exists(standin), "the build made no stand-in: no cmake");
        using var folder = new TempFolder();
        File.Copy(standin, Path.Combine(folder.Path, "libauxcore.so"));

        Assert.True(NativeLibraries.TryLoad("auxcore", null, folder.Path, out var handle, out _));
        Assert.False(CudaLibrary.IsOurs(handle, out var reason));

        Assert.Contains("is not AuxCore's", reason, StringComparison.Ordinal);
    }

    private static string OurLibrary()
    {
        var path = Path.Combine(AppContext.BaseDirectory, RuntimeFolder, "libauxcore.so");
        Assert.SkipUnless(File.Exists(path), "the build made no libauxcore.so");
        return path;
    }
}
