using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Pages of keys and values that any number of <see cref="PagedKvCache"/>s share (Kwon et al. 2023, PagedAttention, arXiv 2309.06180). A
/// page holds some tokens of one head of one layer, so that heads may keep unequal numbers of tokens, and memory follows. Pages are counted
/// by how many caches refer to them; one that several refer to is copied before it is written.
/// </summary>
/// <remarks>
/// The memory is reserved at once and, as operating systems do, taken when it is first written. It does not belong to any dispose scope. A
/// pool and its caches are one thread's at a time. Dispose caches before their pool.
/// </remarks>
public sealed class KvPagePool : IDisposable
{
    private readonly Tensor _keys, _values; // uint8 [pages, 1, P, bytes of a row]
    private readonly int[] _references;
    private readonly Stack<int> _free;
    private readonly long _keyRow, _valueRow;

    /// <summary>A pool, all of whose pages are free.</summary>
    /// <param name="pages">How many pages.</param>
    /// <param name="headDim">d: elements of a head.</param>
    /// <param name="keys">How keys are stored.</param>
    /// <param name="values">How values are stored.</param>
    /// <param name="pageTokens">P: how many tokens a page holds; a multiple of 32 for keys in <see cref="KvFormat.Kivi4"/>.</param>
    /// <exception cref="ArgumentException">A size is below 1, or heads or pages are not a multiple of a format's groups.</exception>
    public KvPagePool(int pages, int headDim, KvFormat keys, KvFormat values, int pageTokens = 16)
    {
        Sizes.RequirePositive((nameof(pages), pages), (nameof(headDim), headDim), (nameof(pageTokens), pageTokens));
        new KvLayout([new(1, headDim)], 1, pageTokens, keys, values).Check();
        if (keys == KvFormat.Kivi4 && pageTokens % KiviGroup.Elements != 0)
        {
            throw new ArgumentException(
                $"pageTokens: {pageTokens} is not a multiple of {KiviGroup.Elements}, the tokens of a block of {keys} keys",
                nameof(pageTokens));
        }

        (PageCount, HeadDim, Keys, Values, PageTokens) = (pages, headDim, keys, values, pageTokens);
        (_keyRow, _valueRow) = (keys.ByteCount(headDim), values.ByteCount(headDim));
        _keys = torch.empty([pages, 1, pageTokens, _keyRow], torch.uint8).DetachFromDisposeScope();
        _values = torch.empty([pages, 1, pageTokens, _valueRow], torch.uint8).DetachFromDisposeScope();
        _references = new int[pages];
        _free = new(Enumerable.Range(0, pages).Reverse());
    }

    /// <summary>How many pages there are.</summary>
    public int PageCount { get; }

    /// <summary>How many pages no cache refers to.</summary>
    public int FreePages => _free.Count;

    /// <summary>P: how many tokens a page holds.</summary>
    public int PageTokens { get; }

    /// <summary>d: elements of a head.</summary>
    public int HeadDim { get; }

    /// <summary>How keys are stored.</summary>
    public KvFormat Keys { get; }

    /// <summary>How values are stored.</summary>
    public KvFormat Values { get; }

    /// <summary>Bytes of a page.</summary>
    public long PageBytes => PageTokens * (_keyRow + _valueRow);

    /// <summary>Bytes of the pages that caches refer to, each counted once.</summary>
    public long BytesUsed => (PageCount - FreePages) * PageBytes;

    /// <summary>Whether the pool was disposed.</summary>
    public bool IsDisposed { get; private set; }

    /// <summary>Frees the memory. Caches that still refer to it throw from then on.</summary>
    public void Dispose()
    {
        IsDisposed = true;
        _keys.Dispose();
        _values.Dispose();
    }

    internal TensorView KeyView => _keys.ToTensorView();

    internal TensorView ValueView => _values.ToTensorView();

    internal void RequireLive() => ObjectDisposedException.ThrowIf(IsDisposed, this);

    internal bool IsShared(int page) => _references[page] > 1;

    internal int Rent()
    {
        var page = _free.Pop();
        _references[page] = 1;
        return page;
    }

    internal void Share(int page) => _references[page]++;

    internal void Return(int page)
    {
        if (--_references[page] == 0)
            _free.Push(page);
    }

    /// <summary>A page of one's own with what a shared one holds, which is one reference less.</summary>
    internal unsafe int CopyOf(int page)
    {
        var copy = Rent();
        var (from, to) = (At(page, 0), At(copy, 0));
        Buffer.MemoryCopy(from.Keys, to.Keys, PageTokens * _keyRow, PageTokens * _keyRow);
        Buffer.MemoryCopy(from.Values, to.Values, PageTokens * _valueRow, PageTokens * _valueRow);
        Return(page);
        return copy;
    }

    internal unsafe KvRun At(int page, int token)
    {
        var row = (long)page * PageTokens + token;
        return new(
            (byte*)TorchNative.THSTensor_data(_keys.Handle) + row * _keyRow,
            (byte*)TorchNative.THSTensor_data(_values.Handle) + row * _valueRow, PageTokens - token);
    }
}
