using AuxCore.Interop;
using TorchSharp;

namespace AuxCore.Models;

/// <summary>
/// The version of TorchSharp that the application loaded. AuxCore calls its native exports, which no package version promises to keep, so
/// another one is refused before the first call.
/// </summary>
internal static class TorchVersion
{
    private static bool Checked;

    public static void Require()
    {
        if (Checked)
            return;
        Require(typeof(torch).Assembly.GetName().Version!);
        Checked = true;
    }

    internal static void Require(Version version)
    {
        if (version is not { Major: 0, Minor: 107 })
            throw new AuxException(
                "TorchSharp",
                $"AuxCore.Models works with TorchSharp 0.107; the application loaded {version.ToString(3)}. "
                + "Reference TorchSharp [0.107.0,0.108).");
    }
}
