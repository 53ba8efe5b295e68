using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.Optimization;

/// <summary>Parameters with gradients, moments, masters and averages in pinned memory; the same arguments give the same values.</summary>
internal sealed class Parameters : IDisposable
{
    private readonly OneParameter[] _parameters;

    public Parameters(int[] lengths, string parameterType, string gradientType, int averages)
    {
        var random = new Random(lengths.Length + averages);
        _parameters = [.. lengths.Select(length => new OneParameter(random, length, parameterType, gradientType, averages))];
    }

    public OneParameter this[int i] => _parameters[i];

    public AdamWTensors[] Tensors() => [.. _parameters.Select(parameter => parameter.Tensors())];

    public TensorView[] Gradients() => [.. _parameters.Select(parameter => parameter.Gradient.View)];

    public IEnumerable<OneParameter> Each() => _parameters;

    public IEnumerable<Block> Blocks() => _parameters.SelectMany(parameter => parameter.Blocks());

    public byte[] Bytes() => [.. _parameters.SelectMany(parameter => parameter.Bytes())];

    public void Dispose()
    {
        foreach (var block in Blocks())
            block.Dispose();
    }
}

internal sealed class OneParameter
{
    public OneParameter(Random random, int length, string parameterType, string gradientType, int averages)
    {
        var values = Values();
        (Parameter, Gradient) = (new(values, parameterType), new(Values(), gradientType));
        (First, Second) = (new(Values(), "float32"), new([.. Values().Select(value => value * value)], "float32"));
        Master = parameterType == "float32" ? null : new(AdamWGroupTests.Rounded(values, parameterType), "float32");
        Averages = [.. Enumerable.Range(0, averages).Select(_ => new Block(Values(), "float32"))];

        float[] Values() => [.. Enumerable.Range(0, length).Select(_ => (float)(random.NextDouble() - 0.5))];
    }

    public Block Parameter { get; }

    public Block Gradient { get; }

    public Block First { get; }

    public Block Second { get; }

    public Block? Master { get; }

    public Block[] Averages { get; }

    /// <summary>One average's step towards the parameter as it is stored.</summary>
    public void Follow(int average, double decay, AuxBackend backend)
    {
        var bytes = Parameter.Bytes.AsSpan();
        switch (Parameter.Type)
        {
            case "float32":
                EmaUpdate.Run(Averages[average].Float32, MemoryMarshal.Cast<byte, float>(bytes), decay, backend);
                break;
            case "bfloat16":
                EmaUpdate.Run(Averages[average].Float32, MemoryMarshal.Cast<byte, BFloat16>(bytes), decay, backend);
                break;
            default:
                EmaUpdate.Run(Averages[average].Float32, MemoryMarshal.Cast<byte, Half>(bytes), decay, backend);
                break;
        }
    }

    public AdamWTensors Tensors() =>
        new(Parameter.View, First.View, Second.View, Master?.View, Averages.Length == 0 ? null
        : [.. Averages.Select(average => average.View)]);

    public IEnumerable<Block> Blocks() =>
        ((Block?[])[Parameter, Gradient, First, Second, Master, .. Averages]).OfType<Block>();

    public byte[] Bytes() => [.. Blocks().SelectMany(block => block.Bytes)];
}

/// <summary>Pinned memory of one tensor.</summary>
internal sealed unsafe class Block : IDisposable
{
    private GCHandle _pin;

    public Block(float[] values, string type)
    {
        Type = type;
        Bytes = type switch
        {
            "float32" => [.. MemoryMarshal.AsBytes<float>(values)],
            "bfloat16" => [.. MemoryMarshal.AsBytes<BFloat16>(values.Select(value => (BFloat16)value).ToArray())],
            _ => [.. MemoryMarshal.AsBytes<Half>(values.Select(value => (Half)value).ToArray())],
        };
        _pin = GCHandle.Alloc(Bytes, GCHandleType.Pinned);
        View = ViewAs([values.Length]);
    }

    public string Type { get; }

    public byte[] Bytes { get; }

    public TensorView View { get; }

    public Span<float> Float32 => Type == "float32" ? MemoryMarshal.Cast<byte, float>(Bytes.AsSpan())
        : throw new InvalidOperationException(Type);

    public TensorView ViewAs(long[] shape, long[]? strides = null, AuxDevice device = default) => TensorView.FromPointer(
        (void*)_pin.AddrOfPinnedObject(),
        Type switch { "float32" => DType.Float32, "bfloat16" => DType.BFloat16, _ => DType.Float16 },
        shape, strides, device, owner: this);

    public float[] ToFloat32() => Type switch
    {
        "float32" => Float32.ToArray(),
        "bfloat16" => [.. MemoryMarshal.Cast<byte, BFloat16>(Bytes.AsSpan()).ToArray().Select(value => (float)value)],
        _ => [.. MemoryMarshal.Cast<byte, Half>(Bytes.AsSpan()).ToArray().Select(value => (float)value)],
    };

    public void Set(int i, float value)
    {
        if (Type == "bfloat16")
            MemoryMarshal.Cast<byte, BFloat16>(Bytes.AsSpan())[i] = (BFloat16)value;
        else
            MemoryMarshal.Cast<byte, Half>(Bytes.AsSpan())[i] = (Half)value;
    }

    public void Clear() => Bytes.AsSpan().Clear();

    public void Dispose() => _pin.Free();
}
