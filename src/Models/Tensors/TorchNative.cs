using System.Runtime.InteropServices;
namespace AuxCore.Models;
internal static partial class TorchNative
{
    [LibraryImport("LibTorchSharp"), SuppressGCTransition] internal static partial nint THSTensor_data(nint tensor);
}
