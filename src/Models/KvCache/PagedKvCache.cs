using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// A <see cref="KvCache"/> in pages of a shared <see cref="KvPagePool"/>: it holds pages for the tokens that it has, gives back those that
/// eviction and rewinding empty, and forks without copying.
/// </summary>
public sealed class PagedKvCache : KvCache
{
    private readonly KvPagePool _pool;
    private readonly Table[] _tables;

    /// <summary>An empty cache.</summary>
    /// <param name="pool">Where its pages are from; the cache does not dispose it.</param>
    /// <param name="layout">What it holds; formats and head dimension are the pool's.</param>
    /// <exception cref="ArgumentException">The layout's sizes do not go together, or it is not for this pool.</exception>
    /// <exception cref="ObjectDisposedException">The pool was disposed.</exception>
    public PagedKvCache(KvPagePool pool, KvLayout layout) : base(layout)
    {
        ArgumentNullException.ThrowIfNull(pool);
        pool.RequireLive();
        _pool = pool;
        if (layout.Keys != pool.Keys || layout.Values != pool.Values)
        {
            throw new ArgumentException(
                $"layout: {layout.Keys} keys and {layout.Values} values, but the pool's pages hold {pool.Keys} and {pool.Values}",
                nameof(layout));
        }

        for (var i = 0; i < layout.Layers.Count; i++)
        {
            if (layout.Layers[i].HeadDim != pool.HeadDim)
            {
                throw new ArgumentException(
                    $"layout: layer {i} has heads of {layout.Layers[i].HeadDim}, but the pool's pages hold {pool.HeadDim}", nameof(layout));
            }
        }

        _tables = [.. AllSlots.Select(slots => new Table(slots.Streams))];
    }

    private PagedKvCache(PagedKvCache source, KvSlots[] slots) : base(source.Layout, slots)
    {
        _pool = source._pool;
        _tables = [.. source._tables.Select(table => table.Select(Enumerable.Range(0, table.Streams), _pool))];
    }

    /// <summary>
    /// Bytes of the pages that the cache refers to, those that it shares with others too, and of the latest tokens that KIVI keeps.
    /// </summary>
    public override long BytesReserved
    {
        get
        {
            RequireLive();
            return _tables.Sum(table => table.Pages.Sum(pages => (long)pages.Count)) * _pool.PageBytes + ResidualBytes;
        }
    }

    private protected override KvRun Locate(int layer, int stream, int slot) =>
        _pool.At(_tables[layer].Pages[stream][slot / _pool.PageTokens], slot % _pool.PageTokens);

    private protected override void Reserve(int layer, ReadOnlySpan<int> rowsBySequence)
    {
        RequireCapacity(layer, rowsBySequence);
        _pool.RequireLive();
        var (table, heads, rows) = (_tables[layer], Layout.Layers[layer].KvHeads, rowsBySequence.ToArray());
        var needed = 0L;
        for (var stream = 0; stream < table.Streams; stream++)
            needed += Pages(stream) - table.Pages[stream].Count + Splits(stream).Count();
        RequirePages(layer, needed);

        for (var stream = 0; stream < table.Streams; stream++)
        {
            var pages = table.Pages[stream];
            foreach (var page in Splits(stream).ToArray())
                table.Change(stream)[page] = _pool.CopyOf(pages[page]);
            while (pages.Count < Pages(stream))
                table.Change(stream).Add(_pool.Rent());
        }

        int Pages(int stream) => PagesFor(AllSlots[layer].Length(stream) + rows[stream / heads]);

        // Pages that are written next, by the tokens or by what leaves KIVI's ring for them, and that others read.
        IEnumerable<int> Splits(int stream)
        {
            var (length, count) = (AllSlots[layer].Length(stream), table.Pages[stream].Count);
            var first = Math.Min(Layout.StoredKeys(length), Layout.StoredValues(length)) / _pool.PageTokens;
            return rows[stream / heads] == 0 || first >= count
                ? []
                : Enumerable.Range(first, count - first).Where(page => _pool.IsShared(table.Pages[stream][page]));
        }
    }

    private protected override void Own(int layer, ReadOnlySpan<int> streams)
    {
        _pool.RequireLive();
        var table = _tables[layer];
        var needed = 0L;
        foreach (var stream in streams)
            needed += table.Pages[stream].Count(_pool.IsShared);
        RequirePages(layer, needed);
        foreach (var stream in streams)
        {
            for (var i = 0; i < table.Pages[stream].Count; i++)
            {
                if (_pool.IsShared(table.Pages[stream][i]))
                    table.Change(stream)[i] = _pool.CopyOf(table.Pages[stream][i]);
            }
        }
    }

    private protected override void Shrink(int layer, int stream, int length)
    {
        var pages = _tables[layer].Pages[stream];
        while (pages.Count > PagesFor(length))
        {
            _pool.Return(pages[^1]);
            _tables[layer].Change(stream).RemoveAt(pages.Count - 1);
        }
    }

    private protected override KvCacheViews Views(int layer)
    {
        _pool.RequireLive();
        var (offsets, pages, count) = _tables[layer].Arrays();
        return new()
        {
            Keys = _pool.KeyView,
            KeyFormat = Layout.Keys,
            Values = _pool.ValueView,
            ValueFormat = Layout.Values,
            PageOffsets = View(offsets, offsets.Length),
            Pages = View(pages, count),
        };

        static unsafe TensorView View(int[] pinned, int count) =>
            TensorView.FromPointer((void*)Marshal.UnsafeAddrOfPinnedArrayElement(pinned, 0), DType.Int32, [count], owner: pinned);
    }

    private protected override KvCache ForkWith(KvSlots[] slots) => new PagedKvCache(this, slots);

    private protected override void ReorderMemory(ReadOnlySpan<int> from)
    {
        int[] sequences = [.. from];
        for (var layer = 0; layer < _tables.Length; layer++)
        {
            var (old, heads) = (_tables[layer], Layout.Layers[layer].KvHeads);
            _tables[layer] = old.Select(sequences.SelectMany(b => Enumerable.Range(b * heads, heads)), _pool);
            old.Return(_pool);
        }
    }

    private protected override void DisposeMemory()
    {
        foreach (var table in _tables)
            table.Return(_pool);
    }

    private int PagesFor(int tokens) => (tokens + _pool.PageTokens - 1) / _pool.PageTokens;

    private void RequirePages(int layer, long needed)
    {
        if (needed > _pool.FreePages)
        {
            throw new KvCapacityException(
                $"layer {layer}: {needed} pages are needed, and {_pool.FreePages} of the pool's {_pool.PageCount} are free", "keys");
        }
    }

    /// <summary>Which pages the heads of a layer hold, as lists, and as the table that ops read.</summary>
    private sealed class Table(int streams)
    {
        private int[]? _offsets, _pages;

        public int Streams => streams;

        public List<int>[] Pages { get; } = [.. Enumerable.Range(0, streams).Select(_ => new List<int>())];

        /// <summary>A head's list, to be changed.</summary>
        public List<int> Change(int stream)
        {
            _offsets = null;
            return Pages[stream];
        }

        /// <summary>Pinned: offsets, and that many pages.</summary>
        public (int[] Offsets, int[] Pages, int Count) Arrays()
        {
            var count = Pages.Sum(list => list.Count);
            if (_offsets is null || _pages is null)
            {
                _offsets = Pinned<int>(new int[streams + 1]);
                for (var stream = 0; stream < streams; stream++)
                    _offsets[stream + 1] = _offsets[stream] + Pages[stream].Count;
                _pages = Pinned<int>(Pages.SelectMany(list => list).ToArray());
            }

            return (_offsets, _pages, count);
        }

        /// <summary>A table of these heads, which shares their pages.</summary>
        public Table Select(IEnumerable<int> from, KvPagePool pool)
        {
            int[] sources = [.. from];
            var result = new Table(sources.Length);
            for (var stream = 0; stream < sources.Length; stream++)
            {
                result.Pages[stream].AddRange(Pages[sources[stream]]);
                result.Pages[stream].ForEach(pool.Share);
            }

            return result;
        }

        public void Return(KvPagePool pool)
        {
            foreach (var list in Pages)
            {
                list.ForEach(pool.Return);
                list.Clear();
            }

            _offsets = null;
        }
    }
}
