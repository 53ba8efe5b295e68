namespace AuxCore.Tests.Ilgpu;

/// <summary>What a kernel's global addresses are of. An access outside of it fails the test.</summary>
internal interface IPtxMemory
{
    void Read(nint address, Span<byte> to);

    void Write(nint address, ReadOnlySpan<byte> from);
}

/// <summary>Stretches of host memory.</summary>
internal sealed unsafe class HostPtxMemory : IPtxMemory
{
    private readonly SortedList<nint, (nint End, bool Writable)> _stretches = [];

    /// <summary>Lets a kernel read a stretch, and write it where said so.</summary>
    public void Allow(void* begin, long bytes, bool writable)
    {
        if (bytes > 0)
            _stretches.Add((nint)begin, ((nint)begin + (nint)bytes, writable));
    }

    public void Read(nint address, Span<byte> to)
    {
        Check(address, to.Length, write: false);
        new ReadOnlySpan<byte>((void*)address, to.Length).CopyTo(to);
    }

    public void Write(nint address, ReadOnlySpan<byte> from)
    {
        Check(address, from.Length, write: true);
        from.CopyTo(new Span<byte>((void*)address, from.Length));
    }

    private void Check(nint address, int bytes, bool write)
    {
        var (low, high) = (0, _stretches.Count); // the last one that begins at the address or before it is at low - 1
        while (low < high)
        {
            var middle = (low + high) / 2;
            (low, high) = _stretches.Keys[middle] <= address ? (middle + 1, high) : (low, middle);
        }

        var found = low > 0 && address + bytes <= _stretches.Values[low - 1].End && (_stretches.Values[low - 1].Writable || !write);
        Assert.True(found, $"{bytes} bytes at 0x{address:x} are not the kernel's to {(write ? "write" : "read")}");
    }
}
