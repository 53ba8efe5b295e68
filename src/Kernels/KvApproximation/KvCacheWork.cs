using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>A cache whose views were checked, for ops. Addresses are of the cache's device.</summary>
internal readonly unsafe struct KvCacheWork
{
    public required KvPlane Keys { get; init; }

    public required KvPlane Values { get; init; }

    /// <summary>B.</summary>
    public required int Batch { get; init; }

    /// <summary>Numbers of <see cref="KvCacheViews.Pages"/>.</summary>
    public long PageCount { get; init; }

    /// <summary>Pages there are of keys and of values: the less of both.</summary>
    public long PoolPages { get; init; }

    /// <summary>What messages call the keys and the values.</summary>
    public (string Keys, string Values) Names { get; init; }

    public int KvHeads => Keys.KvHeads;

    public int HeadDim => Keys.HeadDim;

    /// <summary>Whether rows must come in the order of their positions, none left out: they pass through a ring.</summary>
    public bool NeedsEveryPosition => Keys.Ring != null || Values.Ring != null;

    public bool IsPaged => Keys.PageOffsets != null;

    /// <summary>For how many positions a head has room. Host memory only, where the cache is paged.</summary>
    public int Capacity(int b, int kvHead) => Keys.Capacity(b, kvHead);

    /// <summary>Takes views apart, or refuses them.</summary>
    /// <param name="views">The cache.</param>
    /// <param name="name">What messages call it.</param>
    /// <param name="kvHeads">Hkv.</param>
    /// <param name="headDim">d.</param>
    /// <param name="device">Where all tensors of the call are.</param>
    public static KvCacheWork Of(in KvCacheViews views, string name, int kvHeads, int headDim, AuxDevice device)
    {
        RequireRows(views.Keys, $"{name}.Keys", views.KeyFormat, headDim, device, name);
        RequireRows(views.Values, $"{name}.Values", views.ValueFormat, headDim, device, name);
        RequireScales(views.KeyScales, $"{name}.KeyScales", views.KeyFormat, kvHeads, device, name);
        RequireScales(views.ValueScales, $"{name}.ValueScales", views.ValueFormat, kvHeads, device, name);
        var keys = views.Keys.Shape;
        var values = views.Values.Shape;
        if (keys[1] != values[1] || keys[2] != values[2] || (!views.IsPaged && keys[0] != values[0]))
            throw Refused($"{name}.Values: {views.Values} does not match {name}.Keys: {views.Keys}", name);
        var batch = keys[0];
        if (views.IsPaged)
        {
            RequireTable(views.PageOffsets, $"{name}.PageOffsets", device, name);
            RequireTable(views.Pages, $"{name}.Pages", device, name);
            batch = views.PageOffsets.ElementCount - 1;
            if (keys[1] == 1 && batch % kvHeads == 0)
                batch /= kvHeads;
            else if (keys[1] != kvHeads)
                throw Refused($"{name}.Keys: {views.Keys} does not match {kvHeads} heads of keys and values, nor pages of one head", name);
        }
        else if (TensorArguments.IsWanted(views.Pages))
        {
            throw Refused($"{name}.PageOffsets: missing, but {name}.Pages is there", name);
        }
        else if (keys[1] != kvHeads)
        {
            throw Refused($"{name}.Keys: {views.Keys} does not match {kvHeads} heads of keys and values", name);
        }

        if (batch < 1 || batch > int.MaxValue / kvHeads)
            throw Refused($"{name}: {batch} sequences", name);
        RequireResidual(views.KeyResidual, $"{name}.KeyResidual", views.KeyFormat, (int)batch, kvHeads, headDim, device, name);
        RequireResidual(views.ValueResidual, $"{name}.ValueResidual", views.ValueFormat, (int)batch, kvHeads, headDim, device, name);
        if (views.KeyFormat == KvFormat.Kivi4 && keys[2] % KiviGroup.Elements != 0)
            throw Refused($"{name}.Keys: {views.Keys}, whose positions are not a multiple of {KiviGroup.Elements}, as blocks are", name);
        var work = new KvCacheWork
        {
            Keys = KvPlane.Of(
                views, views.Keys, views.KeyFormat, views.KeyScales, views.KeyResidual, kvHeads, headDim, isKeys: true),
            Values = KvPlane.Of(
                views, views.Values, views.ValueFormat, views.ValueScales, views.ValueResidual, kvHeads, headDim, isKeys: false),
            Batch = (int)batch,
            Names = ($"{name}.Keys", $"{name}.Values"),
            PageCount = views.IsPaged ? views.Pages.ElementCount : 0,
            PoolPages = Math.Min(keys[0], values[0]),
        };
        if (device.Kind == AuxDeviceKind.Host)
            work.CheckTables(name);
        return work;
    }

    /// <summary>
    /// Refuses a cache that shares memory with what a call writes or, where the cache is written, with anything, its own halves among them.
    /// </summary>
    public void RequireDisjoint(string name, bool isWritten, ReadOnlySpan<NamedMemory> others)
    {
        var tables = IsPaged ? (long)Batch * (Keys.PagesAreOfHeads ? KvHeads : 1) + 1 : 0;
        ReadOnlySpan<NamedMemory> settings =
        [
            NamedMemory.Read($"{name}.KeyScales", Keys.Scales, Keys.ScaleCount * sizeof(float)),
            NamedMemory.Read($"{name}.ValueScales", Values.Scales, Values.ScaleCount * sizeof(float)),
            NamedMemory.Read($"{name}.PageOffsets", Keys.PageOffsets, tables * sizeof(int)),
            NamedMemory.Read($"{name}.Pages", Keys.Pages, PageCount * sizeof(int)),
            .. others,
        ];
        TensorArguments.RequireDisjoint([Named(Names.Keys, Keys, isWritten), .. settings]);
        TensorArguments.RequireDisjoint([Named(Names.Values, Values, isWritten), .. settings]);
        if (Keys.Ring != null || Values.Ring != null)
        {
            TensorArguments.RequireDisjoint(
            [
                Ring($"{name}.KeyResidual", Keys, Batch, isWritten), Ring($"{name}.ValueResidual", Values, Batch, isWritten),
                NamedMemory.Read($"{name}.Keys", Keys.First, Keys.Extent), NamedMemory.Read($"{name}.Values", Values.First, Values.Extent),
                .. settings,
            ]);
        }

        if (isWritten && Keys.Memory.Overlaps(Values.Memory)) // halves of the pages of one pool do not
            throw Refused($"{name}.Values overlaps {name}.Keys in memory; what is written needs memory of its own", name);

        static NamedMemory Ring(string name, in KvPlane plane, int batch, bool isWritten)
        {
            var bytes = (long)batch * plane.KvHeads * plane.RingPositions * plane.HeadDim * sizeof(float);
            return isWritten ? NamedMemory.Written(name, plane.Ring, bytes) : NamedMemory.Read(name, plane.Ring, bytes);
        }

        static NamedMemory Named(string name, in KvPlane plane, bool isWritten) => isWritten
            ? NamedMemory.Written(name, plane.First, plane.Extent)
            : NamedMemory.Read(name, plane.First, plane.Extent);
    }

    // Page numbers come from the caller, and a wrong one would read or write anywhere.
    private void CheckTables(string name)
    {
        for (var i = 0; i < Keys.ScaleCount; i++)
            RequireScale(Keys.Scales[i], $"{name}.KeyScales", i);
        for (var i = 0; i < Values.ScaleCount; i++)
            RequireScale(Values.Scales[i], $"{name}.ValueScales", i);
        if (!IsPaged)
            return;
        var tables = (long)Batch * (Keys.PagesAreOfHeads ? KvHeads : 1);
        TokenSegments.Check(Keys.PageOffsets, tables + 1, PageCount, $"{name}.PageOffsets");
        for (var i = 0L; i < PageCount; i++)
        {
            if ((uint)Keys.Pages[i] >= PoolPages)
                throw Refused($"{name}.Pages[{i}] is {Keys.Pages[i]}; there are {PoolPages} pages", name);
        }
    }

    private static void RequireScale(float scale, string name, int at)
    {
        if (!(scale > 0 && float.IsFinite(scale))) // also catches NaN
            throw new ArgumentOutOfRangeException(name, scale, $"{name}[{at}]: a scale is finite and above 0.");
    }

    private static void RequireRows(
        in TensorView view, string name, KvFormat format, int headDim, AuxDevice device, string parameter)
    {
        var group = format.GroupSize();
        if (headDim % group != 0)
            throw Refused($"{name}: heads of {headDim} are not a multiple of {group}, the groups of {format}", parameter);
        if (!TensorArguments.IsWanted(view))
            throw Refused($"{name}: missing", parameter);
        var own = format.OwnType();
        if (view.DType != own && view.DType != DType.UInt8)
            throw Refused($"{name}: {view}, but {(own is { } type ? $"{type.Name()} or " : "")}uint8 is needed for {format}", parameter);
        if (view.Shape.Length != 4 || view.Shape[3] != (view.DType == own ? headDim : format.ByteCount(headDim)))
        {
            throw Refused(
                $"{name}: {view} is not of rank 4 with rows of {headDim} elements of {format}, {format.ByteCount(headDim)} bytes",
                parameter);
        }

        var shape = view.Shape;
        var strides = view.Strides();
        if (shape[0] < 1 || shape[2] < 1 || shape[2] > int.MaxValue)
            throw Refused($"{name}: {view} has no room", parameter);
        var dense = (strides[3] == 1 || shape[3] == 1) && (strides[2] == shape[3] || shape[2] == 1);
        if (!dense || strides[0] < 0 || strides[1] < 0)
            throw Refused($"{name}: {view}; the positions of a head must be dense", parameter);
        CompactItem.RequireNoSharing(view, name, parameter);
        RequirePlace(view, name, device, parameter);
    }

    private static void RequireScales(in TensorView view, string name, KvFormat format, int kvHeads, AuxDevice device, string parameter)
    {
        if (format != KvFormat.Fp8E4M3)
        {
            if (TensorArguments.IsWanted(view))
                throw Refused($"{name}: {view}, but {format} takes no scales", parameter);
            return;
        }

        if (!TensorArguments.IsWanted(view))
            throw Refused($"{name}: missing; {format} needs a scale for all heads or one for each", parameter);
        TensorArguments.Require(view, name, [DType.Float32], [view.ElementCount == 1 ? 1 : kvHeads], device, parameter);
    }

    private static void RequireResidual(
        in TensorView view, string name, KvFormat format, int batch, int kvHeads, int headDim, AuxDevice device, string parameter)
    {
        if (format != KvFormat.Kivi4)
        {
            if (TensorArguments.IsWanted(view))
                throw Refused($"{name}: {view}, but {format} keeps no residual", parameter);
            return;
        }

        if (!TensorArguments.IsWanted(view))
            throw Refused($"{name}: missing; {format} keeps the latest positions there", parameter);
        if (view.Shape.Length != 4 || view.Shape[2] is < KiviGroup.Elements or > int.MaxValue)
            throw Refused($"{name}: {view}, but float32 [B, Hkv, W + {KiviGroup.Elements}, d] is needed", parameter);
        TensorArguments.Require(view, name, [DType.Float32], [batch, kvHeads, view.Shape[2], headDim], device, parameter);
    }

    private static void RequireTable(in TensorView view, string name, AuxDevice device, string parameter)
    {
        if (!TensorArguments.IsWanted(view))
            throw Refused($"{name}: missing", parameter);
        TensorArguments.Require(view, name, [DType.Int32], [view.ElementCount], device, parameter);
    }

    private static void RequirePlace(in TensorView view, string name, AuxDevice device, string parameter)
    {
        if (view.Device != device)
            throw Refused($"{name}: {view}, but the other tensors are on {device}", parameter);
        if (view.Owner is IDeviceMemory { IsDisposed: true } owner)
            throw new ObjectDisposedException(owner.GetType().Name, $"{name}: its memory was freed");
    }

    private static ArgumentException Refused(string message, string parameter) => TensorArguments.Refused(message, parameter);
}
