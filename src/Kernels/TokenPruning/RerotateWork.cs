using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The operands of one call of <see cref="KeyRerotate"/>. What reads differences is for host memory.</summary>
internal sealed unsafe class RerotateWork
{
    private RerotateWork(Layer[] layers, int* differences, int tokens, int depth, int rotated, RotaryOptions options)
    {
        (Layers, Tokens, Depth, Rotated, Layout) = (layers, tokens, depth, rotated, options.Layout);
        Differences = differences;
        (Frequencies, Rows) = (options.FrequenciesOf(rotated), options.RowsOf(rotated));
    }

    /// <summary>The keys of one layer. Steps are in elements.</summary>
    public readonly record struct Layer(nint Address, DType DType, long Batch, long Heads, long BatchStep, long HeadStep, long TokenStep)
    {
        public long Strips => Batch * Heads;

        /// <summary>The element where a head begins.</summary>
        public long StripAt(long strip) => strip / Heads * BatchStep + strip % Heads * HeadStep;
    }

    public Layer[] Layers { get; }

    public int* Differences { get; }

    public int Tokens { get; }

    public int Depth { get; }

    public int Rotated { get; }

    public RotaryLayout Layout { get; }

    public double[] Frequencies { get; }

    public int[] Rows { get; }

    /// <summary>How many rows of differences pairs follow: those up to the last pair's.</summary>
    public int DifferenceRows => Rows[^1] + 1;

    /// <summary>Whether a token stays where it is.</summary>
    public bool Stays(int token)
    {
        for (var row = 0; row < DifferenceRows; row++)
        {
            if (Differences[(long)row * Tokens + token] != 0)
                return false;
        }

        return true;
    }

    /// <summary>By how much a pair of a token is turned, in radians.</summary>
    public double Angle(int token, int pair) => Differences[(long)Rows[pair] * Tokens + token] * Frequencies[pair];

    /// <summary>The two elements of a pair.</summary>
    public (int First, int Second) Elements(int pair) =>
        Layout == RotaryLayout.Halves ? (pair, pair + Rotated / 2) : (2 * pair, 2 * pair + 1);

    public static RerotateWork Of(ReadOnlySpan<TensorView> keys, in TensorView differences, RotaryOptions options)
    {
        if (differences.Shape.Length != 2)
            throw new ArgumentException($"differences: {differences} is not of rank 2, [rows, tokens]", nameof(differences));
        var (rows, tokens, device) = (Math.Max(1, options.Sections.Count), differences.Shape[1], differences.Device);
        TensorArguments.Require(differences, nameof(differences), [DType.Int32], [rows, tokens], device, nameof(differences));
        var ranges = new List<MemoryRange>(keys.Length + 1)
        {
            new(differences.Address, (nint)differences.ByteCount, nameof(differences), false),
        };
        var layers = new Layer[keys.Length];
        var depth = keys.Length == 0 ? 2 : keys[0].Shape.Length == 0 ? 0 : keys[0].Shape[^1];
        for (var i = 0; i < keys.Length; i++)
        {
            layers[i] = LayerOf(keys[i], $"keys[{i}]", tokens, depth, device);
            ranges.Add(new(keys[i].Address, (nint)CompactItem.Extent(keys[i]), $"keys[{i}]", true));
        }

        var rotated = keys.Length == 0 ? 2 : options.Check(depth);
        MemoryRange.RequireDisjoint(ranges);
        return new(layers, (int*)differences.Address, checked((int)tokens), checked((int)depth), rotated, options);
    }

    private static Layer LayerOf(in TensorView view, string name, long tokens, long depth, AuxDevice device)
    {
        if (view.Shape.Length is not (3 or 4))
            throw Refused($"{name}: {view} is not of rank 3 or 4, [batch, heads, tokens, depth]");
        if (view.DType is not (DType.Float32 or DType.BFloat16 or DType.Float16))
            throw Refused($"{name}: {view}, but float32, bfloat16 or float16 is needed");
        if (view.Device != device)
            throw Refused($"{name}: {view}, but the differences are on {device}");
        if (view.Owner is IDeviceMemory { IsDisposed: true } owner)
            throw new ObjectDisposedException(owner.GetType().Name, $"{name}: its memory was freed");
        if (view.Shape[^2] != tokens)
            throw Refused($"{name}: {view} has {view.Shape[^2]} tokens, but there are differences for {tokens}");
        if (view.Shape[^1] != depth)
            throw Refused($"{name}: {view} is not of the depth of keys[0], {depth}");
        var strides = view.Strides();
        if (view.ElementCount > 0 && depth > 1 && strides[^1] != 1)
            throw Refused($"{name}: {view}; the elements of a head must lie side by side");
        CompactItem.RequireNoSharing(view, name, "keys");
        return new(
            view.Address, view.DType, view.Shape.Length == 4 ? view.Shape[0] : 1, view.Shape[^3], view.Shape.Length == 4 ? strides[0] : 0,
            strides[^3], strides[^2]);
    }

    private static ArgumentException Refused(string message) => TensorArguments.Refused(message, "keys");
}
