using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.TokenPruning;

/// <summary>A selection and tensors in native memory, whose elements are small integers that say where they are from.</summary>
internal sealed unsafe class Scene : IDisposable
{
    /// <summary>What the elements of a tensor with a negative seed are.</summary>
    public const int Untouched = 99;

    private readonly List<nint> _memory = [];
    private readonly int[] _segments, _offsets, _indices;

    public Scene(int[] segments, int[] offsets, int[] indices, int[]? slots)
    {
        (_segments, _offsets, _indices) = (segments, offsets, indices);
        Segments = Integers(segments);
        Selection = new()
        {
            Indices = Integers(indices),
            Offsets = Integers(offsets),
            Slots = slots is null ? default : Integers(slots),
        };
    }

    public TensorView Segments { get; }

    public SelectionViews Selection { get; }

    public TensorView Integers(params int[] values)
    {
        var view = Tensor(DType.Int32, [values.Length], -1);
        values.CopyTo(new Span<int>((void*)view.Address, values.Length));
        return view;
    }

    public TensorView Tensor(DType type, long[] shape, int seed)
    {
        var count = shape.Aggregate(1L, (product, size) => product * size);
        var memory = NativeMemory.Alloc((nuint)(count * type.Size() + 8));
        _memory.Add((nint)memory);
        var view = TensorView.FromPointer((byte*)memory + type.Size(), type, shape); // not aligned to more than an element
        for (var i = 0; i < count; i++)
            Write(view, i, seed < 0 ? Untouched : (i * 7 + seed) % 97);
        return view;
    }

    public static TensorView Narrow(in TensorView view, int axis, long size)
    {
        var shape = view.Shape.ToArray();
        shape[axis] = size;
        return TensorView.FromPointer((void*)view.Address, view.DType, shape, view.Strides());
    }

    /// <summary>All elements in the order of their indices.</summary>
    public static float[] Read(TensorView view)
    {
        var (values, shape, strides) = (new float[view.ElementCount], view.Shape.ToArray(), view.Strides());
        for (var i = 0; i < values.Length; i++)
        {
            var (at, rest) = (0L, (long)i);
            for (var axis = shape.Length - 1; axis >= 0; axis--)
            {
                (rest, var index) = Math.DivRem(rest, shape[axis]);
                at += index * strides[axis];
            }

            values[i] = view.DType switch
            {
                DType.Int32 => ((int*)view.Address)[at],
                DType.Int64 => ((long*)view.Address)[at],
                _ => ReferenceFormat.Widen((void*)view.Address, view.DType, at),
            };
        }

        return values;
    }

    /// <summary>Compares a destination with the formula, index by index.</summary>
    public void CheckForward(TokenRows rows, int seed, float rest)
    {
        var (shape, from) = (rows.Destination.Shape.ToArray(), rows.Source.Shape.ToArray());
        var (actual, source) = (Read(rows.Destination), Read(rows.Source));
        for (var i = 0; i < source.Length; i++)
            Assert.Equal((i * 7 + seed) % 97, source[i]); // the source is as it was
        for (var i = 0; i < actual.Length; i++)
        {
            var (index, left) = (new long[shape.Length], (long)i);
            for (var axis = shape.Length - 1; axis >= 0; axis--)
                (left, index[axis]) = Math.DivRem(left, shape[axis]);
            var b = rows.IsPadded ? (int)index[rows.SegmentAxis] : 0;
            var (first, end) = rows.IsPadded ? (_offsets[b], _offsets[b + 1]) : (0, _offsets[^1]);
            var place = first + index[rows.TokenAxis];
            if (place >= end)
            {
                Assert.Equal(rest, actual[i]);
                continue;
            }

            index[rows.TokenAxis] = _indices[place] - (rows.IsPadded ? _segments[b] : 0);
            var at = 0L;
            for (var axis = 0; axis < shape.Length; axis++)
                at = at * from[axis] + index[axis];
            Assert.Equal(source[at], actual[i]);
        }
    }

    /// <summary>Any bits.</summary>
    public static T[] Random<T>(int count, int seed) where T : unmanaged
    {
        var values = new T[count];
        new Random(seed).NextBytes(MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }

    public void Dispose()
    {
        foreach (var memory in _memory)
            NativeMemory.Free((void*)memory);
        _memory.Clear();
    }

    private static void Write(TensorView view, long i, int value)
    {
        switch (view.DType)
        {
            case DType.Int32:
                ((int*)view.Address)[i] = value;
                break;
            case DType.Int64:
                ((long*)view.Address)[i] = value;
                break;
            case DType.Bool:
                ((byte*)view.Address)[i] = (byte)(value & 1);
                break;
            default:
                ReferenceFormat.Store((void*)view.Address, view.DType, i, value);
                break;
        }
    }
}
