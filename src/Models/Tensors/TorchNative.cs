using System.Runtime.InteropServices;

namespace AuxCore.Models;

/// <summary>AuxCore's own imports from TorchSharp's native library; no other file declares any.</summary>
/// <remarks>
/// The bare name resolves to the library that TorchSharp works with: both assemblies search the same folders, and where TorchSharp loaded
/// it from elsewhere, the system's loader answers the name with the library already in the process. Every function here takes the handle of
/// a tensor, so TorchSharp has loaded it by then.
/// </remarks>
internal static partial class TorchNative
{
    private const string Library = "LibTorchSharp";

    /// <summary>The address of a tensor's first element: the view's storage offset is included. Costs some 10 to 30 ns.</summary>
    /// <param name="handle"><c>Tensor.Handle</c> of a dense tensor. Keep the tensor alive for as long as the address is used.</param>
    /// <returns>An address on the tensor's device; may be 0 where the tensor has no elements.</returns>
    [LibraryImport(Library), SuppressGCTransition]
    internal static partial nint THSTensor_data(nint handle);

    /// <summary>The number of elements.</summary>
    /// <param name="handle">As above.</param>
    [LibraryImport(Library), SuppressGCTransition]
    internal static partial long THSTensor_numel(nint handle);

    /// <summary>Whether the elements lie row-major without gaps.</summary>
    /// <param name="handle">As above.</param>
    [LibraryImport(Library), SuppressGCTransition]
    [return: MarshalAs(UnmanagedType.U1)]
    internal static partial bool THSTensor_is_contiguous(nint handle);
}
