namespace AuxCore.Kernels;

/// <summary>
/// One call of <see cref="KvQuantise"/>, whose lengths were checked: elements become bytes or, to restore, bytes elements.
/// </summary>
internal readonly unsafe struct KvQuantiseWork(long count, KvFormat format, float scale, float* elements, byte* bytes, bool isRestore)
{
    public long Count => count;

    public KvFormat Format => format;

    public float Scale => scale;

    public float* Elements => elements;

    public byte* Bytes => bytes;

    public bool IsRestore => isRestore;

    public void RequireScale()
    {
        if (Format != KvFormat.Fp8E4M3 && Scale != 1)
            throw new ArgumentOutOfRangeException("scale", Scale, $"{Format} takes no scale: it must be 1.");
        if (!(Scale > 0 && float.IsFinite(Scale))) // also catches NaN
            throw new ArgumentOutOfRangeException("scale", Scale, "A scale is finite and above 0.");
    }

    public void RequireDisjoint()
    {
        var (source, destination) = ("source", "destination");
        var floats = Count * sizeof(float);
        TensorArguments.RequireDisjoint(
            IsRestore ? NamedMemory.Written(destination, Elements, floats) : NamedMemory.Read(source, Elements, floats),
            IsRestore
                ? NamedMemory.Read(source, Bytes, Format.ByteCount(Count))
                : NamedMemory.Written(destination, Bytes, Format.ByteCount(Count)));
    }
}
