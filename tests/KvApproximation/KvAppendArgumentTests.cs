using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.KvApproximation;

/// <summary>What KvAppend, and caches of any op, refuse by name before anything is written.</summary>
public sealed class KvAppendArgumentTests : IDisposable
{
    private const int Tokens = 4, Dim = 32;

    private readonly PinnedArrays _pinned = new();
    private readonly float[] _query = new float[Tokens * 4 * Dim], _rotated = new float[Tokens * 4 * Dim];
    private readonly float[] _source = new float[Tokens * 2 * Dim], _other = new float[Tokens * 2 * Dim];
    private readonly byte[] _keys = new byte[2 * 2 * 5 * 128], _values = new byte[2 * 2 * 5 * 128];

    private KvAppendTensors Views => new()
    {
        Query = _pinned.View(_query, Tokens, 4, Dim),
        RotatedQuery = _pinned.View(_rotated, Tokens, 4, Dim),
        Keys = _pinned.View(_source, Tokens, 2, Dim),
        Values = _pinned.View(_other, Tokens, 2, Dim),
        Slots = Ints(0, 1, 0, 1),
    };

    private KvCacheViews Cache => new() { Keys = _pinned.View(_keys, 2, 2, 5, 128), Values = _pinned.View(_values, 2, 2, 5, 128) };

    [Fact]
    public void The_call_without_a_fault_is_taken()
    {
        _source.AsSpan().Fill(1);
        KvAppend.Run(Views, Cache, new());
        Assert.Contains(_keys, value => value != 0);
    }

    [Fact]
    public void Places_that_are_not_there_or_out_of_order()
    {
        Refused<KvCapacityException>("tokens.Slots[1] is 5, but sequence 0 has room for 5", Views with { Slots = Ints(0, 5, 0, 1) });
        Refused<ArgumentOutOfRangeException>("tokens.Slots[2] is negative", Views with { Slots = Ints(0, 1, -1, 1) });
        Refused<ArgumentException>("tokens.Slots[3] is 1, but 1 was before it", Views with { Slots = Ints(0, 1, 1, 1) });
        Refused<ArgumentException>("tokens.Slots[1] is 0, but 3 was before it", Views with { Slots = Ints(3, 0, 0, 1) });
        Refused<ArgumentOutOfRangeException>("tokens.Sequences[3] is not within 0 and 1", Views with { Sequences = Ints(0, 1, 0, 2) });
        Refused<ArgumentException>("tokens.Positions[3] is 6, but 7 was before it", Views with { Positions = Ints(1, 2, 7, 6) });
        Refused<ArgumentOutOfRangeException>("tokens.Positions[0] is negative", Views with { Positions = Ints(-1, 2, 7, 7) });
        var heads = _pinned.View([0, 0, 1, 2, 0, 0, 1, 0], Tokens, 2);
        Refused<ArgumentException>(
            "tokens.Slots[3, 1] is 0, but 0 was before it", Views with { Slots = heads, Positions = Ints(0, 1, 0, 1) });
        Refused<ArgumentException>("tokens.Positions: missing; each head has slots", Views with { Slots = heads });
    }

    [Fact]
    public void Tensors_that_do_not_fit()
    {
        var wide = _pinned.View(new double[Tokens * 2 * Dim], Tokens, 2, Dim);
        Refused<ArgumentException>("tokens.Keys: float64", Views with { Keys = wide });
        Refused<ArgumentException>("tokens.Keys: float32[4, 64] on cpu, but", Views with { Keys = _pinned.View(_source, Tokens, 64) });
        Refused<ArgumentException>(
            "tokens.Values: float32[4, 1, 32] on cpu does not match shape [4, 2, 32]",
            Views with { Values = _pinned.View(_other, Tokens, 1, Dim) });
        Refused<ArgumentException>(
            "tokens.Values: float16", Views with { Values = _pinned.View(new Half[Tokens * 2 * Dim], Tokens, 2, Dim) });
        Refused<ArgumentException>(
            "3 query heads are not a multiple of 2 heads of keys and values",
            Views with { Query = _pinned.View(_query, Tokens, 3, Dim), RotatedQuery = _pinned.View(_rotated, Tokens, 3, Dim) });
        Refused<ArgumentException>("tokens.RotatedQuery: missing", Views with { RotatedQuery = default });
        Refused<ArgumentException>("tokens.Query: missing", Views with { Query = default });
        Refused<ArgumentException>(
            "tokens.QueryNorm is there, but tokens.Query is not",
            Views with { Query = default, RotatedQuery = default, QueryNorm = _pinned.View(new float[Dim], Dim) });
        Refused<ArgumentException>("tokens.KeyNorm: float32[31]", Views with { KeyNorm = _pinned.View(new float[31], 31) });
        Refused<ArgumentException>("tokens.Slots: missing", Views with { Slots = default });
        Refused<ArgumentException>("tokens.Slots: int32[3]", Views with { Slots = Ints(0, 1, 2) });
        Refused<ArgumentException>(
            "the heads of a token must be dense",
            Views with { Keys = _pinned.Strided(_source, DType.Float32, 0, [Tokens, 2, Dim], [2 * Dim, 1, 2]) });
        Refused<ArgumentException>(
            "tokens.Sequences: missing; 3 tokens are not as many of each of 2 sequences",
            new() { Keys = _pinned.View(_source, 3, 2, Dim), Values = _pinned.View(_other, 3, 2, Dim), Slots = Ints(0, 1, 2) });
    }

    [Fact]
    public void Settings_that_are_none()
    {
        foreach (var epsilon in (double[])[double.NaN, -1e-9, double.PositiveInfinity])
            Assert.Throws<ArgumentOutOfRangeException>(() => KvAppend.Run(Views, Cache, null, epsilon));
        Refused<ArgumentException>("options: 34 of 32 elements are rotated", Views, rotary: new() { RotatedDepth = 34 });
        Refused<ArgumentException>("rotary.Sections: tokens have one position", Views, rotary: new() { Sections = [8, 8] });
    }

    [Fact]
    public void Memory_that_overlaps()
    {
        Refused<ArgumentException>("tokens.RotatedQuery overlaps tokens.Keys", Views with
        {
            RotatedQuery = _pinned.View(_source, 2, 4, Dim),
            Query = _pinned.View(_query, 2, 4, Dim),
            Keys = _pinned.View(_source, 2, 2, Dim),
            Values = _pinned.View(_other, 2, 2, Dim),
            Slots = Ints(0, 0),
        });
        Refused<ArgumentException>("tokens.RotatedQuery overlaps tokens.Query", Views with
        {
            Query = _pinned.View(_rotated, DType.Float32, Dim, [2, 4, Dim]),
            RotatedQuery = _pinned.View(_rotated, 2, 4, Dim),
            Keys = _pinned.View(_source, 2, 2, Dim),
            Values = _pinned.View(_other, 2, 2, Dim),
            Slots = Ints(0, 0),
        });
        Refused<ArgumentException>("cache.Values overlaps cache.Keys", Views, Cache with { Values = Cache.Keys });
        var shared = new float[2 * 2 * 5 * Dim];
        Refused<ArgumentException>(
            "overlaps", Views with { Keys = _pinned.View(shared, DType.Float32, 0, [Tokens, 2, Dim]) },
            Cache with { Keys = _pinned.View(shared, 2, 2, 5, Dim) });
        // Halves of pages that begin one row too early.
        var pool = new float[4 * 2 * 2 * 5 * Dim];
        long[] strides = [2 * 2 * 5 * Dim, 5 * Dim, Dim, 1];
        Refused<ArgumentException>("cache.Values overlaps cache.Keys", Views, Cache with
        {
            Keys = _pinned.Strided(pool, DType.Float32, 0, [2, 2, 5, Dim], strides),
            Values = _pinned.Strided(pool, DType.Float32, 2 * 5 * Dim - Dim, [2, 2, 5, Dim], strides),
        });
    }

    [Fact]
    public void Caches_that_do_not_fit()
    {
        Refused<ArgumentException>("cache.Keys: missing", Views, Cache with { Keys = default });
        Refused<ArgumentException>(
            "cache.Keys: uint8[2, 2, 5, 128] on cpu is not of rank 4 with rows of", Views, Cache with { KeyFormat = KvFormat.Q8_0 });
        Refused<ArgumentException>("cache.Keys: float32[2, 2, 5, 32] on cpu, but bfloat16 or uint8 is needed for BF16", Views, Cache with
        {
            KeyFormat = KvFormat.BF16,
            Keys = _pinned.View(new float[640], 2, 2, 5, Dim),
        });
        Refused<ArgumentException>("does not match cache.Keys", Views, Cache with { Values = _pinned.View(_values, 2, 2, 4, 128) });
        Refused<ArgumentException>("does not match 2 heads", Views, new()
        {
            Keys = _pinned.View(_keys, 4, 1, 5, 128), Values = _pinned.View(_values, 4, 1, 5, 128),
        });
        Refused<ArgumentException>("the positions of a head must be dense", Views, Cache with
        {
            Keys = _pinned.Strided(_keys, DType.UInt8, 0, [2, 2, 5, 128], [640, 1280, 256, 2]),
        });
        Refused<ArgumentException>("cache.KeyScales: missing; Fp8E4M3 needs", Views, Cache with
        {
            KeyFormat = KvFormat.Fp8E4M3,
            Keys = _pinned.View(_keys, 2, 2, 5, Dim),
        });
        Refused<ArgumentException>("F32 takes no scales", Views, Cache with { ValueScales = _pinned.View(new float[1], 1) });
        Refused<ArgumentOutOfRangeException>("cache.KeyScales[1]: a scale is finite and above 0", Views, Cache with
        {
            KeyFormat = KvFormat.Fp8E4M3,
            Keys = _pinned.View(_keys, 2, 2, 5, Dim),
            KeyScales = _pinned.View([1f, 0f], 2),
        });
        Refused<ArgumentException>("cache.KeyResidual: missing; Kivi4 keeps", Views, Kivi with { KeyResidual = default });
        Refused<ArgumentException>("F32 keeps no residual", Views, Cache with { KeyResidual = Kivi.KeyResidual });
        Refused<ArgumentException>("but float32 [B, Hkv, W + 32, d] is needed", Views, Kivi with
        {
            KeyResidual = _pinned.View(new float[2 * 2 * 31 * Dim], 2, 2, 31, Dim),
        });
        Refused<ArgumentException>("whose positions are not a multiple of 32, as blocks are", Views, Kivi with
        {
            Keys = _pinned.View(new byte[2 * 2 * 40 * 20], 2, 2, 40, 20),
            Values = _pinned.View(new byte[2 * 2 * 40 * 128], 2, 2, 40, 128),
        });
        Refused<ArgumentException>(
            "those of a sequence ascend, one by one, in a cache with a residual", Views with { Slots = Ints(0, 2, 0, 1) }, Kivi);
        KvAppend.Run(Views, Kivi); // without a fault
    }

    [Fact]
    public void Page_tables_that_do_not_fit()
    {
        var paged = Cache with { PageOffsets = Ints(0, 1, 2), Pages = Ints(1, 0) };
        Refused<ArgumentException>("cache.Pages: missing", Views, paged with { Pages = default });
        Refused<ArgumentException>("cache.PageOffsets: missing, but cache.Pages is there", Views, paged with { PageOffsets = default });
        Refused<ArgumentException>("cache.Pages[1] is 2; there are 2 pages", Views, paged with { Pages = Ints(1, 2) });
        Refused<ArgumentException>("cache.Pages[0] is -1; there are 2 pages", Views, paged with { Pages = Ints(-1, 0) });
        Refused<ArgumentException>("cache.PageOffsets[2] is 2, below 3", Views, paged with { PageOffsets = Ints(0, 3, 2) });
        Refused<ArgumentException>("cache.PageOffsets", Views, paged with { PageOffsets = Ints(1, 1, 2) });
        Refused<KvCapacityException>("sequence 1 has room for 0 positions", Views, paged with { PageOffsets = Ints(0, 2, 2) });
        Refused<ArgumentException>("does not match 2 heads of keys and values, nor pages of one head", Views, paged with
        {
            Keys = _pinned.View(_keys, 1, 4, 5, 128),
            Values = _pinned.View(_values, 1, 4, 5, 128),
        });
    }

    [Fact]
    public void Attention_refuses_what_does_not_fit_a_cache()
    {
        var (query, output, lengths) = (_pinned.View(_query, 2, 8, Dim), _pinned.View(_rotated, 2, 8, Dim), Ints(1, 5));
        Refuse<ArgumentOutOfRangeException>("lengths[1] is not within 0 and the capacity, 5", query, Ints(1, 6), output);
        Refuse<ArgumentOutOfRangeException>(
            "lengths[1, 0] is not within 0 and the capacity, 5", query, _pinned.View([1, 1, -1, 1], 2, 2), output);
        Refuse<ArgumentOutOfRangeException>(
            "lengths[1] is not within 0 and the positions of positionSums, 3", query, lengths, output,
            _pinned.View(new float[12], 2, 2, 3));
        Refuse<ArgumentException>(
            "positionSums: float32[2, 3] on cpu does not match", query, lengths, output, _pinned.View(new float[6], 2, 3));
        Refuse<ArgumentException>("lengths: int32[3] on cpu does not match shape [2]", query, Ints(1, 1, 1), output);
        Refuse<ArgumentException>("has 4 sequences, but the cache has 2", _pinned.View(_query, 4, 4, Dim), lengths, output);
        Refuse<ArgumentException>(
            "3 query heads are not a multiple of 2", _pinned.View(_query, 2, 3, Dim), lengths, _pinned.View(_rotated, 2, 3, Dim));
        Refuse<ArgumentException>("output: float32[2, 4, 32]", query, lengths, _pinned.View(_rotated, 2, 4, Dim));
        Refuse<ArgumentException>("output overlaps query", query, lengths, query);
        Refuse<ArgumentException>("positionSums overlaps output", query, lengths, output, _pinned.View(_rotated, 2, 2, 5));

        void Refuse<TException>(string text, TensorView q, TensorView l, TensorView o, TensorView sums = default)
            where TException : ArgumentException
        {
            var error = Assert.Throws<TException>(() => KvDecodeAttention.Run(q, Cache, l, o, sums));
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
            Assert.All(_rotated, x => Assert.Equal(0, x));
        }
    }

    [Theory]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_without_a_kernel_says_so(AuxBackend backend)
    {
        Assert.Throws<BackendUnavailableException>(() => KvAppend.Run(Views, Cache, backend: backend));
        Assert.False(KvAppend.IsSupported(backend, out var reason));
        Assert.NotEmpty(reason);
    }

    public void Dispose() => _pinned.Dispose();

    private KvCacheViews Kivi => new()
    {
        Keys = _pinned.View(new byte[2 * 2 * 32 * 20], 2, 2, 32, 20), Values = _pinned.View(new byte[2 * 2 * 32 * 128], 2, 2, 32, 128),
        KeyFormat = KvFormat.Kivi4, KeyResidual = _pinned.View(new float[2 * 2 * 40 * Dim], 2, 2, 40, Dim),
    };

    private TensorView Ints(params int[] numbers) => _pinned.View(numbers, numbers.Length);

    private void Refused<TException>(
        string text, KvAppendTensors tokens, KvCacheViews? cache = null, RotaryOptions? rotary = null)
        where TException : ArgumentException
    {
        var error = Assert.Throws<TException>(() => KvAppend.Run(tokens, cache ?? Cache, rotary ?? new()));
        Assert.Contains(text, error.Message, StringComparison.Ordinal);
        Assert.True(_keys.AsSpan().IndexOfAnyExcept((byte)0) < 0 && _values.AsSpan().IndexOfAnyExcept((byte)0) < 0);
        Assert.All(_rotated, x => Assert.Equal(0, x));
    }
}
