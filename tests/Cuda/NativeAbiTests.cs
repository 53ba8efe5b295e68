using System.Globalization;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using AuxCore.Interop;

namespace AuxCore.Tests.Cuda;

/// <summary>The declarations of Interop against native/cuda/include/auxcore.h.</summary>
public unsafe partial class NativeAbiTests
{
    [Fact]
    public void Every_function_of_the_header_is_imported_and_no_other()
    {
        var declared = Function().Matches(Header()).Select(match => match.Groups[1].Value).Order().ToArray();

        Assert.True(declared.Length > 15, "the header was not understood");
        Assert.Equal(declared, NativeExports.Names.ToArray().Order());
        Assert.Equal(declared, EntryPoints().Order());
    }

    [Fact]
    public void Version_status_codes_and_dtypes_are_the_headers()
    {
        var header = Header();

        Assert.Equal(Native.AbiVersion, uint.Parse(Constant(header, "AUXCORE_ABI_VERSION").TrimEnd('u'), CultureInfo.InvariantCulture));
        (string Name, int Value)[] codes =
        [
            ("AUXCORE_OK", NativeStatus.Ok), ("AUXCORE_E_ARGUMENT", NativeStatus.Argument), ("AUXCORE_E_HANDLE", NativeStatus.Handle),
            ("AUXCORE_E_ABI", NativeStatus.Abi), ("AUXCORE_E_NO_DRIVER", NativeStatus.NoDriver),
            ("AUXCORE_E_NO_DEVICE", NativeStatus.NoDevice), ("AUXCORE_E_NO_IMAGE", NativeStatus.NoImage),
            ("AUXCORE_E_MEMORY", NativeStatus.HostMemory), ("AUXCORE_E_INTERNAL", NativeStatus.Internal),
            ("AUXCORE_FLOAT32", (int)DType.Float32), ("AUXCORE_FLOAT16", (int)DType.Float16), ("AUXCORE_BFLOAT16", (int)DType.BFloat16),
            ("AUXCORE_OPEN_SYNCHRONOUS", (int)Native.OpenFlags.Synchronous), ("AUXCORE_ADAMW_CLIPPED", (int)Native.AdamWClipped),
        ];
        foreach (var (name, value) in codes)
            Assert.Equal(value, int.Parse(Constant(header, name).TrimEnd('u'), CultureInfo.InvariantCulture));
        Assert.Equal(codes.Count(code => code.Name.Contains("_E_", StringComparison.Ordinal)), ErrorCode().Count(header));
    }

    [Fact]
    public void Structures_lie_as_in_C()
    {
        Assert.Equal(160, sizeof(Native.DeviceDescription));
        Assert.Equal(32, Marshal.OffsetOf<Native.DeviceDescription>(nameof(Native.DeviceDescription.Name)));
        Assert.Equal(40, sizeof(Native.EmaTensors));
        Assert.Equal(16, Marshal.OffsetOf<Native.EmaTensors>(nameof(Native.EmaTensors.Addresses)));
        Assert.Equal(32, sizeof(Native.AdamWSettings));
        Assert.Equal(144, sizeof(Native.ForwardBackward));
        Assert.Equal(112, sizeof(Native.InfoNce));
        Assert.Equal(8, Marshal.OffsetOf<Native.AdamWSettings>(nameof(Native.AdamWSettings.Penalty)));
        Assert.Equal(56, sizeof(Native.AdamWTensors));
        Assert.Equal(48, Marshal.OffsetOf<Native.AdamWTensors>(nameof(Native.AdamWTensors.SettingsOf)));
        Assert.Equal(4, sizeof(DType));
        Assert.Equal(2, sizeof(BFloat16));
    }

    private static string Header()
    {
        var root = HouseTests.Root();
        Assert.SkipWhen(root is null, "the sources are not beside the tests (they run from an archive)");
        return File.ReadAllText(Path.Combine(root, "native/cuda/include/auxcore.h"));
    }

    private static string Constant(string header, string name) =>
        Regex.Match(header, $@"\b{name}(?: =)? (-?\d+u?)\b") is { Success: true } match ? match.Groups[1].Value : $"no {name}";

    // The source generator turns each LibraryImport into a private DllImport of the same entry point, where it has to convert something.
    private static IEnumerable<string> EntryPoints() =>
        from method in typeof(Native).GetMethods(BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic)
        let import = method.GetCustomAttribute<LibraryImportAttribute>()
        where import is not null
        select import.EntryPoint;

    [GeneratedRegex(@"AUXCORE_API [\w ]+?[ *]+(auxcore_\w+)\(")]
    private static partial Regex Function();

    [GeneratedRegex(@"AUXCORE_E_\w+ = -")]
    private static partial Regex ErrorCode();
}
