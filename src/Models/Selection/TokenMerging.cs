using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Which tokens of a batch become one, the mean of the group weighted by how many each stands for: <see cref="TokenMerge"/> with its
/// gradient, for any number of tensors.
/// <code>
/// using var merging = TokenMerging.Bipartite(keys.mean([1]), merged: 8, protect: 1, sizes: sizes);
/// (hidden, sizes) = (merging.Apply(hidden), merging.Sizes());
/// </code>
/// </summary>
/// <remarks>
/// Groups come from values alone: the metric gets no gradient, and sizes are constants.
/// <inheritdoc cref="TokenReduction" path="/remarks/para"/>
/// </remarks>
public sealed class TokenMerging : TokenReduction
{
    private readonly Tensor _places; // int32, one a place of the layout: the row of the result that it goes into, or −1
    private readonly Tensor? _sizes; // float32, likewise; null where each is 1
    private readonly AuxBackend _backend;

    private TokenMerging(TokenLayout layout, int[] counts, Tensor slots, Tensor? sizes, AuxBackend backend) : base(layout, counts)
    {
        (_places, _backend) = (Own(PlacesOf(slots)), backend);
        _sizes = sizes is null ? null : Own(SizesOf(sizes));
    }

    /// <summary>
    /// ToMe's bipartite soft matching (Bolya et al. 2023, arXiv 2210.09461), by <see cref="TokenMerge.Bipartite(in TensorView,
    /// in TensorView, int, in TensorView, in TensorView, int, AuxBackend)"/>: tokens at even places look for the most similar one at an odd
    /// place, and the most similar pairs merge.
    /// </summary>
    /// <param name="metric">float32, bfloat16 or float16, [B, L, d] or [N, d]: in ToMe the mean of the keys over heads.</param>
    /// <param name="merged">How many tokens of each image are merged away; all that can be where there are fewer.</param>
    /// <param name="protect">So many tokens at the beginning of each image, such as a class token, are not merged away.</param>
    /// <param name="sizes">float32 [B, L] or [N]: how many tokens each stands for; null where each stands for itself.</param>
    /// <param name="cuSeqlens">As for <see cref="TokenPlan.Select"/>.</param>
    /// <param name="backend">Where this merging runs; Auto takes what fits the memory.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or lengths do not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative.</exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static TokenMerging Bipartite(
        Tensor metric, int merged, int protect = 0, Tensor? sizes = null, Tensor? cuSeqlens = null, AuxBackend backend = AuxBackend.Auto)
    {
        AuxRuntime.ThrowIfFailed();
        Batches.Require(metric, nameof(metric));
        if (metric.shape.Length is not (2 or 3))
            throw new ArgumentException($"metric: {Batches.Describe(metric)} is neither [B, L, d] nor [N, d]", nameof(metric));
        var layout = TokenLayout.Of(metric, cuSeqlens, padded: metric.shape.Length == 3, nameof(metric));
        RequireSizes(sizes, layout, nameof(sizes));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var slots = torch.empty(layout.Tokens, dtype: torch.ScalarType.Int32, device: metric.device);
        var offsets = torch.empty(layout.Images + 1, dtype: torch.ScalarType.Int32, device: metric.device);
        TokenMerge.Bipartite(
            layout.Flatten(metric.detach()).ToTensorView(nameof(metric)), layout.Segments(metric.device).ToTensorView(), merged,
            slots.ToTensorView(), offsets.ToTensorView(), protect, backend);
        int[] bounds = [.. offsets.cpu().data<int>()];
        var within = layout.IsPadded ? layout.Unflatten(slots, -1) : slots;
        if (layout.IsPadded)
            within = torch.where(within.ge(0), within - offsets.narrow(0, 0, layout.Images).unsqueeze(1), within);
        return new(layout, [.. bounds.Skip(1).Select((end, b) => end - bounds[b])], within, sizes, backend);
    }

    /// <summary>
    /// Gives what a plan drops to the most similar token that it keeps, by <see cref="TokenMerge.Assign(in TensorView, in TensorView,
    /// in TensorView, TensorView, AuxBackend)"/>. The result has a row for each kept token.
    /// </summary>
    /// <param name="plan">What is kept; it may be disposed afterwards.</param>
    /// <param name="metric">float32, bfloat16 or float16, [B, L, d] or [N, d], with the plan's images and tokens.</param>
    /// <param name="targets">bool [B, L] or [N]: which of the kept tokens get others; null for all.</param>
    /// <param name="withTarget">Whether the kept token is in the mean itself; otherwise rows to which nothing was given are 0.</param>
    /// <param name="sizes">float32 [B, L] or [N]: the weight of each token in its mean; null for 1.</param>
    /// <exception cref="ArgumentException">Shapes or dtypes do not fit.</exception>
    /// <exception cref="ObjectDisposedException">A tensor or the plan was disposed.</exception>
    public static TokenMerging Assign(
        TokenPlan plan, Tensor metric, Tensor? targets = null, bool withTarget = true, Tensor? sizes = null)
    {
        ArgumentNullException.ThrowIfNull(plan);
        AuxRuntime.ThrowIfFailed();
        var layout = plan.Layout;
        layout.Require(metric, layout.TokenAxis, 0, nameof(metric), "plan");
        if (metric.shape.Length != layout.Shape.Length + 1)
            throw new ArgumentException($"metric: {Batches.Describe(metric)} has no or several numbers a token", nameof(metric));
        if (targets is not null)
        {
            layout.Require(targets, layout.TokenAxis, 0, nameof(targets), "plan");
            if (targets.dtype != torch.ScalarType.Bool || targets.shape.Length != layout.Shape.Length)
                throw new ArgumentException($"targets: {Batches.Describe(targets)} is not Bool, one a token", nameof(targets));
        }

        RequireSizes(sizes, layout, nameof(sizes));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var kept = plan.Slots();
        var slots = plan.FlatSlots.clone();
        TokenMerge.Assign(
            layout.Flatten(metric.detach()).ToTensorView(nameof(metric)), layout.Segments(metric.device).ToTensorView(),
            slots.ToTensorView(), targets is null ? default : layout.Flatten(targets).ToTensorView(nameof(targets)), plan.Backend);
        var within = layout.IsPadded ? layout.Unflatten(slots, -1) : slots;
        if (layout.IsPadded)
        {
            using var offsets = plan.Offsets();
            within = torch.where(within.ge(0), within - offsets.narrow(0, 0, layout.Images).unsqueeze(1), within);
        }

        if (!withTarget)
            within = torch.where(kept.ge(0), torch.full_like(kept, -1), within);
        return new(layout, [.. plan.Counts], within, sizes, plan.Backend);
    }

    /// <summary>Groups that the caller has found.</summary>
    /// <param name="groups">int64 or int32 [B, L]: the row of the result that each token goes into, or −1 for none.</param>
    /// <param name="count">Rows of each image's result; those without a token are 0.</param>
    /// <param name="sizes">float32 [B, L]: how many tokens each stands for; null for 1.</param>
    /// <param name="backend">Where this merging runs; Auto takes what fits the memory.</param>
    /// <exception cref="ArgumentException">Shapes or dtypes do not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The count is negative, or a group is outside −1 and count − 1.</exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    public static TokenMerging Of(Tensor groups, int count, Tensor? sizes = null, AuxBackend backend = AuxBackend.Auto)
    {
        Batches.Require(groups, nameof(groups));
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        if (groups.dtype is not (torch.ScalarType.Int64 or torch.ScalarType.Int32) || groups.shape.Length != 2)
            throw new ArgumentException($"groups: {Batches.Describe(groups)} is not Int64 or Int32, [B, L]", nameof(groups));
        var layout = TokenLayout.Of(groups, null, padded: true, nameof(groups));
        RequireSizes(sizes, layout, nameof(sizes));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        if (groups.NumberOfElements > 0 && OutOfRange(groups, count))
            throw new ArgumentOutOfRangeException(nameof(groups), $"groups: one is not within −1 and {count - 1}.");
        return new(
            layout, [.. Enumerable.Repeat(count, layout.Images)], groups.to(torch.ScalarType.Int32), sizes, backend);
    }

    /// <inheritdoc/>
    public override Tensor Apply(Tensor tokens)
    {
        AuxRuntime.ThrowIfFailed();
        RequireLive();
        Layout.Require(tokens, Layout.TokenAxis, 0, nameof(tokens), "merging");
        using var scope = torch.NewDisposeScope();
        var (shape, rows, backend) = (tokens.shape, Rows, _backend);
        long[] tail = shape[Layout.Shape.Length..];
        var width = tail.Aggregate(1L, (product, size) => product * size);
        Tensor merged;
        using (torch.no_grad())
        {
            merged = torch.empty([rows, width], dtype: tokens.dtype, device: tokens.device);
            TokenMerge.Run(
                tokens.contiguous().view(-1, width).ToTensorView(nameof(tokens)), _places.ToTensorView(), merged.ToTensorView(),
                _sizes is null ? default : _sizes.ToTensorView(), backend: backend);
            merged = merged.view([.. IsPadded ? [Images, Length] : (long[])[Length], .. tail]);
        }

        return KernelFunction.Attach(
            tokens, merged,
            (saved, gradient) =>
            {
                var spread = torch.empty([saved[0].shape[0], width], dtype: gradient.dtype, device: gradient.device);
                TokenMerge.Backward(
                    gradient.view(rows, width).ToTensorView(), saved[0].ToTensorView(), spread.ToTensorView(),
                    saved.Count > 1 ? saved[1].ToTensorView() : default, backend);
                return spread.view(shape);
            },
            _sizes is null ? [_places] : [_places, _sizes]).MoveToOuterDisposeScope();
    }

    /// <summary>How many tokens each group stands for: the sums of what its members stand for.</summary>
    /// <param name="before">float32 [B, L] or [N]; null for the sizes that the merging was made with.</param>
    /// <inheritdoc/>
    public override Tensor Sizes(Tensor? before = null)
    {
        RequireLive();
        RequireSizes(before, Layout, nameof(before));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var flat = before is null ? _sizes ?? torch.ones_like(_places, dtype: torch.ScalarType.Float32) : SizesOf(before);
        var sums = torch.zeros(Rows, device: _places.device);
        var members = _places.ge(0).nonzero().squeeze(1);
        sums.index_add_(0, _places.index_select(0, members).to(torch.ScalarType.Int64), flat.index_select(0, members), 1);
        return (IsPadded ? sums.view(Images, Length) : sums).MoveToOuterDisposeScope();
    }

    /// <summary>Which row of its image's result each token goes into, or −1: int32 [B, L], ragged [N] among all rows.</summary>
    /// <exception cref="ObjectDisposedException">The merging was disposed.</exception>
    public Tensor Groups()
    {
        RequireLive();
        using var scope = torch.NewDisposeScope();
        if (!IsPadded)
            return _places.clone().MoveToOuterDisposeScope();
        var places = _places.view(Images, Layout.Length);
        return torch.where(places.ge(0), places - Firsts(), places).MoveToOuterDisposeScope();
    }

    internal static void RequireSizes(Tensor? sizes, TokenLayout layout, string name)
    {
        if (sizes is null)
            return;
        Batches.Require(sizes, name);
        if (sizes.dtype != torch.ScalarType.Float32 || !sizes.shape.AsSpan().SequenceEqual(layout.Shape))
            throw new ArgumentException($"{name}: {Batches.Describe(sizes)} is not Float32{TensorView.Format(layout.Shape)}", name);
    }

    private static bool OutOfRange(Tensor groups, int count) =>
        groups.lt(-1).logical_or(groups.ge(count)).any().item<bool>();

    private long Rows => IsPadded ? Images * Length : Length;

    // The first row of each image's result among all rows: [B, 1].
    private Tensor Firsts() => torch.tensor(
        Enumerable.Range(0, Images).Select(b => checked((int)(b * Length))).ToArray()).unsqueeze(1);

    private Tensor PlacesOf(Tensor slots) =>
        (IsPadded ? torch.where(slots.ge(0), slots + Firsts(), slots) : slots).to(torch.ScalarType.Int32).flatten().contiguous();

    // The kernel wants sizes above 0 also where there is no token.
    private Tensor SizesOf(Tensor sizes)
    {
        var flat = sizes.detach().flatten();
        return torch.where(_places.ge(0), flat, torch.ones_like(flat));
    }
}
