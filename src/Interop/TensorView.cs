using System.Globalization;

namespace AuxCore.Interop;

/// <summary>
/// A strided view of memory that somebody else owns: address, dtype, device, shape, strides, and the owner, held so that the memory stays
/// valid as long as the view does. It is the one form in which kernels see tensors of any framework.
/// </summary>
public readonly struct TensorView
{
    private readonly long[]? _shape;
    private readonly long[]? _strides; // null: contiguous

    private TensorView(nint address, DType dtype, AuxDevice device, long[] shape, long[]? strides, long elementCount, object? owner)
    {
        Address = address;
        DType = dtype;
        Device = device;
        ElementCount = elementCount;
        Owner = owner;
        _shape = shape;
        _strides = strides;
    }

    /// <summary>Describes memory at an address.</summary>
    /// <param name="address">Where element [0, …, 0] lies; may be null if the view has no elements.</param>
    /// <param name="dtype">The type of the elements.</param>
    /// <param name="shape">Sizes, outermost first; empty for a scalar. The span is copied.</param>
    /// <param name="strides">Steps in elements, one a dimension; empty for contiguous (row-major).</param>
    /// <param name="device">Whose memory it is.</param>
    /// <param name="owner">What must stay alive while the view is used; null where the caller sees to that.</param>
    /// <remarks>Unsafe in the sense that nothing can check that the address and the extents are the caller's to use.</remarks>
    /// <exception cref="ArgumentException">
    /// A negative size, another number of strides than sizes, or a null address with elements.
    /// </exception>
    /// <exception cref="OverflowException">The sizes' product, in bytes, exceeds 64 bits.</exception>
    public static unsafe TensorView FromPointer(
        void* address, DType dtype, ReadOnlySpan<long> shape, ReadOnlySpan<long> strides = default,
        AuxDevice device = default, object? owner = null)
    {
        var count = 1L;
        foreach (var size in shape)
        {
            if (size < 0)
                throw new ArgumentException($"shape {Format(shape)} has a negative size.", nameof(shape));
            count = checked(count * size);
        }

        _ = checked(count * dtype.Size());
        if (!strides.IsEmpty && strides.Length != shape.Length)
            throw new ArgumentException($"strides {Format(strides)} do not match shape {Format(shape)}.", nameof(strides));
        if (address == null && count > 0)
            throw new ArgumentException($"a null address cannot hold shape {Format(shape)}.", nameof(address));
        return new((nint)address, dtype, device, shape.ToArray(), IsRowMajor(shape, strides) ? null : strides.ToArray(), count, owner);
    }

    /// <summary>The address of element [0, …, 0].</summary>
    public nint Address { get; }

    /// <summary>The type of the elements.</summary>
    public DType DType { get; }

    /// <summary>Whose memory it is.</summary>
    public AuxDevice Device { get; }

    /// <summary>The product of <see cref="Shape"/>.</summary>
    public long ElementCount { get; }

    /// <summary>What keeps the memory alive, if the view was given it.</summary>
    public object? Owner { get; }

    /// <summary>Sizes, outermost first; empty for a scalar.</summary>
    public ReadOnlySpan<long> Shape => _shape;

    /// <summary>Whether the elements lie row-major without gaps.</summary>
    public bool IsContiguous => _strides is null;

    /// <summary>Bytes of all elements, without gaps.</summary>
    public long ByteCount => ElementCount * DType.Size();

    /// <summary>The step in elements of each dimension.</summary>
    public long[] Strides()
    {
        if (_strides is not null)
            return [.. _strides];
        var strides = new long[Shape.Length];
        var step = 1L;
        for (var i = strides.Length - 1; i >= 0; i--)
        {
            strides[i] = step;
            step *= Math.Max(1, Shape[i]);
        }

        return strides;
    }

    /// <summary>Such as <c>float32[64, 3] on cpu</c>.</summary>
    public override string ToString() =>
        $"{DType.Name()}{Format(Shape)} on {Device}" + (IsContiguous ? "" : $" with strides {Format(_strides)}");

    /// <summary>A shape as messages print it: <c>[64, 3]</c>.</summary>
    public static string Format(ReadOnlySpan<long> shape)
    {
        var text = new System.Text.StringBuilder("[");
        for (var i = 0; i < shape.Length; i++)
            text.Append(CultureInfo.InvariantCulture, $"{(i > 0 ? ", " : "")}{shape[i]}");
        return text.Append(']').ToString();
    }

    // A dimension of size 1 is never stepped over, so its stride says nothing; a view without elements is trivially dense.
    private static bool IsRowMajor(ReadOnlySpan<long> shape, ReadOnlySpan<long> strides)
    {
        if (strides.IsEmpty || shape.Contains(0))
            return true;
        var step = 1L;
        for (var i = shape.Length - 1; i >= 0; i--)
        {
            if (shape[i] != 1 && strides[i] != step)
                return false;
            step *= shape[i];
        }

        return true;
    }
}
