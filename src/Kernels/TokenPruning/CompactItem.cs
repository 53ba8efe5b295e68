using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// One tensor of a call of <see cref="TokenCompact"/>, taken apart: strips of rows, one strip for each index of the dimensions that are
/// neither tokens nor within a row. All steps are in bytes.
/// </summary>
internal sealed unsafe class CompactItem
{
    private readonly long[] _sizes, _sourceSteps, _destinationSteps; // of the dimensions before the rows that are not the tokens'
    private readonly int _segmentAt = -1;                            // which of them are segments; −1 where there are none

    private CompactItem(in TokenRows rows)
    {
        var (source, destination) = (rows.Source, rows.Destination);
        var size = source.DType.Size();
        var rowAxis = Math.Max(rows.TokenAxis, rows.SegmentAxis) + 1;
        var (from, to) = (source.Strides(), destination.Strides());
        Source = (byte*)source.Address;
        Destination = (byte*)destination.Address;
        (SourceTokens, DestinationTokens) = (source.Shape[rows.TokenAxis], destination.Shape[rows.TokenAxis]);
        (SourceStep, DestinationStep) = (from[rows.TokenAxis] * size, to[rows.TokenAxis] * size);
        (IsPadded, ClearRest) = (rows.IsPadded, rows.ClearRest);
        RowBytes = size;
        foreach (var extent in source.Shape[rowAxis..])
            RowBytes *= extent;
        var tokenAxis = rows.TokenAxis;
        int[] outer = [.. Enumerable.Range(0, rowAxis).Where(axis => axis != tokenAxis)];
        _sizes = new long[outer.Length];
        for (var i = 0; i < outer.Length; i++)
            _sizes[i] = source.Shape[outer[i]];
        _sourceSteps = [.. outer.Select(axis => from[axis] * size)];
        _destinationSteps = [.. outer.Select(axis => to[axis] * size)];
        _segmentAt = Array.IndexOf(outer, rows.SegmentAxis);
        Strips = _sizes.Aggregate(1L, (product, extent) => product * extent);
        IsInPlace = Source == Destination;
        for (var axis = 0; axis < from.Length; axis++)
            IsInPlace &= from[axis] == to[axis] || source.Shape[axis] <= 1;
    }

    /// <summary>What messages call it.</summary>
    public required string Name { get; init; }

    public byte* Source { get; }

    public byte* Destination { get; }

    public long RowBytes { get; }

    /// <summary>Bytes from one token to the next.</summary>
    public long SourceStep { get; }

    /// <inheritdoc cref="SourceStep"/>
    public long DestinationStep { get; }

    public long SourceTokens { get; }

    public long DestinationTokens { get; }

    public bool IsPadded { get; }

    public bool ClearRest { get; }

    public bool IsInPlace { get; }

    public long Strips { get; }

    /// <summary>Bytes that lie between the first and the last element of the source, both counted.</summary>
    public long SourceBytes { get; private init; }

    /// <inheritdoc cref="SourceBytes"/>
    public long DestinationBytes { get; private init; }

    /// <summary>Takes a tensor apart, or refuses it.</summary>
    /// <param name="rows">The tensor.</param>
    /// <param name="name">What messages call it.</param>
    /// <param name="device">Where all tensors of the call are.</param>
    /// <param name="segments">How many segments there are.</param>
    public static CompactItem Of(in TokenRows rows, string name, AuxDevice device, long segments)
    {
        var (source, destination) = (rows.Source, rows.Destination);
        Require(source, $"{name}.source", device);
        Require(destination, $"{name}.destination", device);
        if (source.DType != destination.DType)
            throw Refused($"{name}: the destination {destination} is not of the source's dtype, {source}");
        var rank = source.Shape.Length;
        if ((uint)rows.TokenAxis >= (uint)rank)
            throw Refused($"{name}: tokenAxis {rows.TokenAxis} is not a dimension of {source}");
        if (rows.IsPadded && ((uint)rows.SegmentAxis >= (uint)rank || rows.SegmentAxis == rows.TokenAxis))
            throw Refused($"{name}: segmentAxis is not another dimension than tokenAxis {rows.TokenAxis} of {source}");
        var fits = destination.Shape.Length == rank;
        for (var axis = 0; fits && axis < rank; axis++)
            fits = axis == rows.TokenAxis || source.Shape[axis] == destination.Shape[axis];
        if (!fits)
            throw Refused($"{name}: the destination {destination} does not match {source} but for the tokens of axis {rows.TokenAxis}");
        if (rows.IsPadded && source.Shape[rows.SegmentAxis] != segments)
            throw Refused($"{name}: {source} has {source.Shape[rows.SegmentAxis]} segments in axis {rows.SegmentAxis}, not {segments}");
        var rowAxis = Math.Max(rows.TokenAxis, rows.SegmentAxis) + 1;
        RequireDenseRows(source, rowAxis, $"{name}.source");
        RequireDenseRows(destination, rowAxis, $"{name}.destination");
        RequireNoSharing(destination, $"{name}.destination", "tensors");
        return new CompactItem(rows) { Name = name, SourceBytes = Extent(source), DestinationBytes = Extent(destination) };
    }

    /// <summary>Where a strip begins in source and destination, and which segment it is of; 0 where segments have no dimension.</summary>
    public void Strip(long strip, out byte* source, out byte* destination, out int segment)
    {
        source = Source;
        destination = Destination;
        segment = 0;
        for (var i = _sizes.Length - 1; i >= 0; i--)
        {
            (strip, var index) = Math.DivRem(strip, _sizes[i]);
            source += index * _sourceSteps[i];
            destination += index * _destinationSteps[i];
            if (i == _segmentAt)
                segment = (int)index;
        }
    }

    /// <summary>Which of the dimensions is that of the segments; −1 where none is.</summary>
    public int SegmentDimension => _segmentAt;

    /// <summary>The most bytes, up to sixteen, by which addresses, steps and rows can all be divided.</summary>
    public int Alignment
    {
        get
        {
            var all = (long)Source | (long)Destination | RowBytes | SourceStep | DestinationStep | 16;
            foreach (var step in _sourceSteps.Concat(_destinationSteps))
                all |= step;
            return (int)(all & -all);
        }
    }

    /// <summary>A dimension as an ILGPU kernel takes it, with steps in elements of so many bytes; of size 1 where there is none.</summary>
    public RowDimension Dimension(int i, int elementBytes) => i >= _sizes.Length ? new() { Size = 1 } : new()
    {
        Size = _sizes[i], SourceStep = _sourceSteps[i] / elementBytes, DestinationStep = _destinationSteps[i] / elementBytes,
    };

    /// <summary>Refuses a tensor with more dimensions than a device's kernel takes.</summary>
    /// <exception cref="ArgumentException">It has more.</exception>
    public void RequireFewDimensions()
    {
        if (_sizes.Length > Native.TokenDimensions.Count)
        {
            throw Refused(
                $"{Name}: {_sizes.Length} dimensions before a token's row beside that of the tokens; on a device there are at most "
                + $"{Native.TokenDimensions.Count}");
        }
    }

    /// <summary>The tensor as the C ABI takes it.</summary>
    /// <exception cref="ArgumentException">It has more dimensions than a kernel takes.</exception>
    public Native.TokenRows ToNative()
    {
        var rows = new Native.TokenRows
        {
            Source = Source,
            Destination = Destination,
            RowBytes = RowBytes,
            SourceTokens = SourceTokens,
            DestinationTokens = DestinationTokens,
            SourceStep = SourceStep,
            DestinationStep = DestinationStep,
            SegmentDimension = _segmentAt,
            ClearsRest = ClearRest ? 1u : 0,
        };
        RequireFewDimensions();
        for (var i = 0; i < Native.TokenDimensions.Count; i++)
        {
            var isThere = i < _sizes.Length;
            rows.Sizes[i] = isThere ? _sizes[i] : 1;
            rows.SourceSteps[i] = isThere ? _sourceSteps[i] : 0;
            rows.DestinationSteps[i] = isThere ? _destinationSteps[i] : 0;
        }

        return rows;
    }

    private static ArgumentException Refused(string message) => TensorArguments.Refused(message, "tensors");

    private static void Require(in TensorView view, string name, AuxDevice device)
    {
        if (!TensorArguments.IsWanted(view) && (view.ElementCount > 0 || view.Shape.IsEmpty))
            throw Refused($"{name}: missing");
        if (view.Device != device)
            throw Refused($"{name}: {view}, but the selection is on {device}");
        if (view.Owner is IDeviceMemory { IsDisposed: true } owner)
            throw new ObjectDisposedException(owner.GetType().Name, $"{name}: its memory was freed");
        if (view.Strides().Any(stride => stride < 0))
            throw Refused($"{name}: {view} has a negative stride");
    }

    private static void RequireDenseRows(in TensorView view, int rowAxis, string name)
    {
        var strides = view.Strides();
        var step = 1L;
        for (var axis = view.Shape.Length - 1; axis >= rowAxis; axis--)
        {
            if (view.Shape[axis] != 1 && strides[axis] != step && view.ElementCount > 0)
                throw Refused($"{name}: {view}; a token's row must be dense behind dimension {rowAxis - 1}");
            step *= view.Shape[axis];
        }
    }

    /// <summary>
    /// Refuses a view with elements in one place: from the least stride to the greatest, each must step over all that went before.
    /// </summary>
    public static void RequireNoSharing(in TensorView view, string name, string parameter)
    {
        if (view.ElementCount == 0)
            return;
        var (shape, strides, reach) = (view.Shape.ToArray(), view.Strides(), 1L);
        foreach (var axis in Enumerable.Range(0, shape.Length).Where(axis => shape[axis] > 1).OrderBy(axis => strides[axis]))
        {
            if (strides[axis] < reach)
                throw TensorArguments.Refused($"{name}: {view} has elements that share memory", parameter);
            reach += (shape[axis] - 1) * strides[axis];
        }
    }

    /// <summary>Bytes between the first and the last element, both counted.</summary>
    public static long Extent(in TensorView view)
    {
        if (view.ElementCount == 0)
            return 0;
        var (strides, last) = (view.Strides(), 0L);
        for (var axis = 0; axis < strides.Length; axis++)
            last += (view.Shape[axis] - 1) * strides[axis];
        return (last + 1) * view.DType.Size();
    }
}
