using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.Ema;

/// <param name="Length">Elements.</param>
/// <param name="Type">Of the source.</param>
/// <param name="SourceOffset">Elements from a boundary of 64 bytes to the source.</param>
/// <param name="AverageOffset">And to each average.</param>
public sealed record EmaTensor(int Length, DType Type, int SourceOffset = 0, int AverageOffset = 0);

/// <summary>
/// Sources and averages in one block of host memory, at chosen distances from boundaries, with canaries between them. Made of the same
/// seed, two of them are equal byte for byte; so they are compared as a whole after different backends worked on them.
/// </summary>
internal sealed unsafe class EmaTensors : IDisposable
{
    private readonly byte* _memory;
    private readonly nint[] _addresses; // a row a tensor: the source, its averages
    private readonly long[] _offsets;
    private readonly DType[] _types;

    /// <param name="tensors">What there is.</param>
    /// <param name="averageCount">Averages of each source.</param>
    /// <param name="value">The i-th value of a source (average -1) or of an average.</param>
    public EmaTensors(IReadOnlyList<EmaTensor> tensors, int averageCount, Func<int, int, float> value)
    {
        AverageCount = averageCount;
        _addresses = GC.AllocateArray<nint>(tensors.Count * (averageCount + 1), pinned: true);
        _offsets = GC.AllocateArray<long>(tensors.Count + 1, pinned: true);
        _types = GC.AllocateArray<DType>(tensors.Count, pinned: true);
        ByteCount = tensors.Sum(tensor => Stride(tensor, true) + averageCount * Stride(tensor, false));
        _memory = (byte*)NativeMemory.AlignedAlloc((nuint)Math.Max(64, ByteCount), 64);
        new Span<byte>(_memory, checked((int)ByteCount)).Fill(0xA5);

        var (at, number) = ((nint)_memory, 0);
        for (var i = 0; i < tensors.Count; i++)
        {
            var tensor = tensors[i];
            (_types[i], _offsets[i + 1]) = (tensor.Type, _offsets[i] + tensor.Length);
            for (var column = 0; column <= averageCount; column++)
            {
                var type = column == 0 ? tensor.Type : DType.Float32;
                var address = at + (column == 0 ? tensor.SourceOffset : tensor.AverageOffset) * type.Size();
                _addresses[i * (averageCount + 1) + column] = address;
                for (var k = 0; k < tensor.Length; k++)
                    Write(address, type, k, value(column - 1, number++));
                at += (nint)Stride(tensor, column == 0);
            }
        }
    }

    public int AverageCount { get; }

    public long ByteCount { get; }

    public ReadOnlySpan<byte> Bytes => new(_memory, (int)ByteCount);

    /// <summary>What the kernels are told.</summary>
    public EmaWork Work
    {
        get
        {
            fixed (nint* addresses = _addresses)
            fixed (long* offsets = _offsets)
            fixed (DType* types = _types)
                return new EmaWork(addresses, offsets, types, _types.Length, AverageCount); // the arrays are pinned for good
        }
    }

    public Span<float> Average(int tensor, int average) =>
        new(Work.Average(tensor, average), (int)(_offsets[tensor + 1] - _offsets[tensor]));

    /// <summary>Updates the tensors where they are.</summary>
    public void Update(ReadOnlySpan<double> decays, AuxBackend backend)
    {
        using var group = Group(0, AuxDevice.Host, this);
        group.Update(decays, backend);
    }

    /// <summary>Updates a copy of the whole block on a device, at the same distances from boundaries, and copies that back.</summary>
    public void UpdateOnDevice(ReadOnlySpan<double> decays, AuxBackend backend)
    {
        using var buffer = DeviceBuffer.CopyOf(Bytes);
        using var group = Group(buffer.Address - (nint)_memory, buffer.Device, buffer);
        group.Update(decays, backend);
        buffer.CopyTo(new Span<byte>(_memory, (int)ByteCount));
    }

    private EmaGroup Group(nint shift, AuxDevice device, object owner)
    {
        var views = new TensorView[AverageCount + 1][];
        for (var column = 0; column <= AverageCount; column++)
            views[column] = [.. Enumerable.Range(0, _types.Length).Select(tensor => View(tensor, column))];
        return EmaGroup.FromViews(views[0], views.AsSpan(1));

        TensorView View(int tensor, int column) => TensorView.FromPointer(
            (void*)(_addresses[tensor * (AverageCount + 1) + column] + shift), column == 0 ? _types[tensor] : DType.Float32,
            [_offsets[tensor + 1] - _offsets[tensor]], device: device, owner: owner);
    }

    public void Dispose() => NativeMemory.AlignedFree(_memory);

    private static long Stride(EmaTensor tensor, bool source)
    {
        var elements = tensor.Length + (source ? tensor.SourceOffset : tensor.AverageOffset) + 1; // one canary at least
        return (elements * (source ? tensor.Type : DType.Float32).Size() + 63) / 64 * 64;
    }

    private static void Write(nint address, DType type, int index, float value)
    {
        switch (type)
        {
            case DType.Float32:
                ((float*)address)[index] = value;
                break;
            case DType.BFloat16:
                ((BFloat16*)address)[index] = (BFloat16)value;
                break;
            default:
                ((Half*)address)[index] = (Half)value;
                break;
        }
    }
}
