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

    /// <summary>A new handle of the gradient's tensor, to be given to <see cref="THSTensor_dispose"/>; 0 where there is none.</summary>
    [LibraryImport(Library), SuppressGCTransition]
    internal static partial nint THSTensor_grad(nint handle);

    /// <summary>Lets go of a handle. What it refers to lives on while anything else refers to it.</summary>
    [LibraryImport(Library)]
    internal static partial void THSTensor_dispose(nint handle);

    /// <summary>Gives a tensor another gradient; 0 for none.</summary>
    [LibraryImport(Library)]
    internal static partial void THSTensor_set_grad(nint handle, nint gradient);

    [LibraryImport(Library), SuppressGCTransition]
    [return: MarshalAs(UnmanagedType.U1)]
    internal static partial bool THSTensor_requires_grad(nint handle);

    [LibraryImport(Library), SuppressGCTransition]
    [return: MarshalAs(UnmanagedType.U1)]
    internal static partial bool THSTensor_is_sparse(nint handle);

    /// <summary>Of a dense tensor.</summary>
    [LibraryImport(Library), SuppressGCTransition]
    [return: MarshalAs(UnmanagedType.U1)]
    internal static partial bool THSTensor_is_contiguous(nint handle);

    [LibraryImport(Library), SuppressGCTransition]
    [return: MarshalAs(UnmanagedType.U1)]
    internal static partial bool THSTensor_is_neg(nint handle);

    /// <summary>A <c>ScalarType</c>.</summary>
    [LibraryImport(Library), SuppressGCTransition]
    internal static partial sbyte THSTensor_type(nint handle);

    /// <summary>A <c>DeviceType</c>.</summary>
    [LibraryImport(Library), SuppressGCTransition]
    internal static partial int THSTensor_device_type(nint handle);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial int THSTensor_device_index(nint handle);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial long THSTensor_numel(nint handle);

    /// <summary>The number of dimensions.</summary>
    [LibraryImport(Library), SuppressGCTransition]
    internal static partial long THSTensor_ndimension(nint handle);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial long THSTensor_size(nint handle, long dimension);
}
