using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Which tokens of a batch are kept, and everything that follows from it: hidden states, keys and values of all layers, positions, masks.
/// <code>
/// using var plan = TokenPlan.Select(scores, Budget.Ratio(0.25));
/// hidden = plan.Apply(hidden);
/// </code>
/// </summary>
/// <remarks>
/// The order and the ties are those of <see cref="TokenSelect"/>; kept rows stay in their order and keep their bits, so a plan that keeps
/// all is the identity. <inheritdoc cref="TokenReduction" path="/remarks/para"/>
/// </remarks>
public sealed class TokenPlan : TokenReduction
{
    private readonly Tensor _segments, _offsets, _indices, _slots;
    private readonly AuxBackend _backend;

    private TokenPlan(
        TokenLayout layout, AuxBackend backend, Tensor segments, Tensor offsets, Tensor indices, Tensor slots, int[] nanCounts)
        : base(layout, CountsOf(offsets))
    {
        (_segments, _offsets, _indices, _slots) = (Own(segments), Own(offsets), Own(indices), Own(slots));
        (_backend, NaNCounts) = (backend, nanCounts);
    }

    /// <summary>How many scores of each image were NaN; they rank last.</summary>
    public IReadOnlyList<int> NaNCounts { get; }

    /// <summary>Whether every token is kept.</summary>
    public bool KeepsAll => Counts.Sum(count => (long)count) == Layout.Tokens;

    /// <summary>Keeps the tokens of highest score.</summary>
    /// <param name="scores">
    /// float32, bfloat16 or float16: [B, L], or [N] with images one after the other; on the CPU. Its values count, not its graph.
    /// </param>
    /// <param name="budget">How many are kept of each image.</param>
    /// <param name="cuSeqlens">
    /// int32 [B + 1], ascending from 0: where each image's tokens begin if they lie one after the other, and the end. Null: all of [N] are
    /// one image, or each of [B, L] has L tokens. With [B, L] the first tokens of a row are the image's, and the others are not looked at.
    /// </param>
    /// <param name="always">bool of the scores' shape: tokens that are kept whatever their score. They count towards the budget.</param>
    /// <param name="backend">Where this plan runs; Auto takes what fits the memory.</param>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes or lengths do not fit, or an image has fewer tokens than <see cref="Budget.Count"/> asks for.
    /// </exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static TokenPlan Select(
        Tensor scores, Budget budget, Tensor? cuSeqlens = null, Tensor? always = null, AuxBackend backend = AuxBackend.Auto)
    {
        AuxRuntime.ThrowIfFailed();
        var layout = LayoutOf(scores, cuSeqlens, nameof(scores));
        if (always is not null)
        {
            Batches.Require(always, nameof(always));
            if (always.dtype != torch.ScalarType.Bool || !always.shape.AsSpan().SequenceEqual(scores.shape))
            {
                throw new ArgumentException(
                    $"always: {Batches.Describe(always)} is not Bool{TensorView.Format(scores.shape)}, as scores", nameof(always));
            }
        }

        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var flat = layout.Flatten(scores.detach());
        var kept = always is null ? default : layout.Flatten(always).ToTensorView(nameof(always));
        return Make(
            layout, scores.device, backend,
            (segments, views) => TokenSelect.Run(flat.ToTensorView(nameof(scores)), segments, budget, views, kept, backend));
    }

    /// <summary>Keeps tokens that are as unlike each other as can be, by <see cref="TokenDiversity"/>.</summary>
    /// <param name="tokens">float32, bfloat16 or float16: [B, L, D], or [N, D] with images one after the other; on the CPU.</param>
    /// <param name="count">How many are kept of each image; all where it has fewer.</param>
    /// <param name="cuSeqlens">As for <see cref="Select"/>.</param>
    /// <param name="backend">Where this plan runs; Auto takes what fits the memory.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or lengths do not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The count is negative.</exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static TokenPlan Diverse(Tensor tokens, int count, Tensor? cuSeqlens = null, AuxBackend backend = AuxBackend.Auto)
    {
        AuxRuntime.ThrowIfFailed();
        Batches.Require(tokens, nameof(tokens));
        if (tokens.shape.Length is not (2 or 3))
            throw new ArgumentException($"tokens: {Batches.Describe(tokens)} is neither [B, L, D] nor [N, D]", nameof(tokens));
        var layout = TokenLayout.Of(tokens, cuSeqlens, padded: tokens.shape.Length == 3, nameof(tokens));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var flat = layout.Flatten(tokens.detach());
        return Make(
            layout, tokens.device, backend,
            (segments, views) => TokenDiversity.Run(flat.ToTensorView(nameof(tokens)), segments, count, views, backend));
    }

    /// <summary>
    /// The same selection in longer sequences, of which these tokens are a part: the others are all kept. For the visual tokens of a
    /// prompt, or the patches behind a class token. Padded only.
    /// </summary>
    /// <param name="first">Where these tokens begin.</param>
    /// <param name="length">Tokens of a sequence.</param>
    /// <exception cref="InvalidOperationException">The plan is ragged, where <see cref="Select"/> with <c>always</c> says it.</exception>
    /// <exception cref="ArgumentOutOfRangeException">These tokens do not fit there.</exception>
    public TokenPlan Within(long first, long length)
    {
        RequireLive();
        if (!IsPadded)
            throw new InvalidOperationException("Within: the plan is ragged; select among all tokens with always");
        ArgumentOutOfRangeException.ThrowIfNegative(first);
        ArgumentOutOfRangeException.ThrowIfLessThan(length, first + Layout.Length);
        using var scope = torch.NewDisposeScope();
        var keep = torch.ones([Images, length], torch.ScalarType.Float32, _slots.device);
        keep.narrow(1, first, Layout.Length).copy_(Keep());
        var layout = Layout.Behind(first, length);
        var flat = layout.Flatten(keep);
        return Make(
            layout, keep.device, _backend,
            (segments, views) => TokenSelect.Run(flat.ToTensorView(), segments, Budget.Threshold(1), views, backend: _backend), NaNCounts);
    }

    /// <inheritdoc/>
    public override Tensor Apply(Tensor tokens) => Apply(tokens, Layout.TokenAxis);

    /// <summary>Keeps rows of a tensor and multiplies each by its token's score, so that the scores get a gradient.</summary>
    /// <param name="tokens">[B, L, …] or [N, …], as the scores that the plan was made from.</param>
    /// <param name="scaleByScore">[B, L] or [N], of the tokens' dtype: scores with their graph.</param>
    /// <exception cref="ArgumentException">They have other images or tokens, or their dtypes differ.</exception>
    /// <exception cref="ObjectDisposedException">A tensor or the plan was disposed.</exception>
    public Tensor Apply(Tensor tokens, Tensor scaleByScore)
    {
        using var scope = torch.NewDisposeScope();
        Layout.Require(tokens, Layout.TokenAxis, 0, nameof(tokens), "plan");
        Layout.Require(scaleByScore, Layout.TokenAxis, 0, nameof(scaleByScore), "plan");
        if (scaleByScore.shape.Length != Layout.Shape.Length || scaleByScore.dtype != tokens.dtype)
        {
            throw new ArgumentException(
                $"scaleByScore: {Batches.Describe(scaleByScore)} is not {tokens.dtype}{TensorView.Format(Layout.Shape)}",
                nameof(scaleByScore));
        }

        var rows = Apply(tokens);
        long[] shape = [.. rows.shape[..Layout.Shape.Length], .. Enumerable.Repeat(1L, rows.shape.Length - Layout.Shape.Length)];
        return (rows * Apply(scaleByScore).view(shape)).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Keeps rows of a tensor whose images and tokens are in other dimensions, such as keys [B, heads, L, d]. Differentiable.
    /// </summary>
    /// <param name="tokens">Any dtype that AuxCore has; on the CPU.</param>
    /// <param name="tokenAxis">The dimension of the tokens, from 0.</param>
    /// <param name="imageAxis">The dimension of the images, where the plan is padded; otherwise it is not looked at.</param>
    /// <exception cref="ArgumentException">It has other images or tokens, or no such dimension.</exception>
    /// <exception cref="ObjectDisposedException">The tensor or the plan was disposed.</exception>
    public Tensor Apply(Tensor tokens, int tokenAxis, int imageAxis = 0)
    {
        AuxRuntime.ThrowIfFailed();
        RequireLive();
        Layout.Require(tokens, tokenAxis, imageAxis, nameof(tokens), "plan");
        using var scope = torch.NewDisposeScope();
        var rows = new RowAxes(IsPadded, tokenAxis, imageAxis);
        Tensor kept;
        using (torch.no_grad())
        {
            var source = rows.Dense(tokens);
            kept = torch.empty(Reduced(tokens.shape, tokenAxis), dtype: tokens.dtype, device: tokens.device);
            TokenCompact.Run(
                [rows.Of(source.ToTensorView(nameof(tokens)), kept.ToTensorView(), clearRest: true)], _segments.ToTensorView(),
                new() { Indices = _indices.ToTensorView(), Offsets = _offsets.ToTensorView() }, _backend);
        }

        var (shape, backend) = (tokens.shape, _backend);
        return KernelFunction.Attach(
            tokens, kept, (saved, gradient) => Spread(gradient, saved, rows, shape, backend), _segments, _offsets, _slots)
            .MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Keeps the rows of keys and values of all layers, in one call. They get no graph; for training there is <see cref="Apply(Tensor, int,
    /// int)"/>.
    /// </summary>
    /// <param name="layers">[B, heads, L, d], or [heads, N, d] where the plan is ragged; views into larger caches will do.</param>
    /// <param name="inPlace">Whether rows move to the front of the tensor that they are in, and the results are views of it.</param>
    /// <returns>[B, heads, K, d] or [heads, K, d], in the caller's dispose scope.</returns>
    /// <exception cref="ArgumentException">A tensor has another length, rank or number of images; its name is in the message.</exception>
    /// <exception cref="InvalidOperationException">A tensor requires grad while grad mode is on.</exception>
    /// <exception cref="ObjectDisposedException">A tensor or the plan was disposed.</exception>
    public IReadOnlyList<(Tensor Keys, Tensor Values)> ApplyTo(IReadOnlyList<(Tensor Keys, Tensor Values)> layers, bool inPlace = false)
    {
        ArgumentNullException.ThrowIfNull(layers);
        AuxRuntime.ThrowIfFailed();
        RequireLive();
        var rows = IsPadded ? new RowAxes(true, 2, 0) : new RowAxes(false, 1, 0);
        for (var i = 0; i < layers.Count; i++)
        {
            RequireCache(layers[i].Keys, rows, $"layers[{i}].Keys");
            RequireCache(layers[i].Values, rows, $"layers[{i}].Values");
        }

        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var items = new List<TokenRows>(2 * layers.Count);
        var results = new (Tensor Keys, Tensor Values)[layers.Count];
        for (var i = 0; i < results.Length; i++)
            results[i] = (Add(layers[i].Keys, $"layers[{i}].Keys"), Add(layers[i].Values, $"layers[{i}].Values"));
        TokenCompact.Run(
            items.ToArray(), _segments.ToTensorView(), new() { Indices = _indices.ToTensorView(), Offsets = _offsets.ToTensorView() },
            _backend);
        foreach (var (keys, values) in results)
            _ = (keys.MoveToOuterDisposeScope(), values.MoveToOuterDisposeScope());
        return results;

        Tensor Add(Tensor tensor, string name)
        {
            var kept = inPlace
                ? tensor.narrow(rows.TokenAxis, 0, Length)
                : torch.empty(Reduced(tensor.shape, rows.TokenAxis), dtype: tensor.dtype, device: tensor.device);
            items.Add(rows.Of((inPlace ? tensor : rows.Dense(tensor)).ToTensorView(name), kept.ToTensorView(name), clearRest: true));
            return kept;
        }
    }

    /// <summary>The positions of the kept tokens.</summary>
    /// <param name="mode">Whether they keep the positions that they had.</param>
    /// <param name="positions">
    /// int64 or int32 [B, L] or [rows, B, L] (M-RoPE), ragged [N] or [rows, N]: what they had; null: 0, 1, 2, … in each image.
    /// </param>
    /// <returns>As the positions, int64 where none were given, but for the number of tokens; 0 behind an image's tokens.</returns>
    /// <exception cref="ArgumentException">They are of another rank or dtype, or have other images or tokens.</exception>
    /// <exception cref="ObjectDisposedException">The tensor or the plan was disposed.</exception>
    public Tensor Positions(PositionMode mode = PositionMode.Keep, Tensor? positions = null)
    {
        RequireLive();
        if (!Enum.IsDefined(mode))
            throw new ArgumentOutOfRangeException(nameof(mode), mode, "It is none of the modes.");
        using var scope = torch.NewDisposeScope();
        positions ??= Layout.Unflatten(
            torch.tensor(Layout.Bounds.Zip(Layout.Bounds.Skip(1), (from, to) => Enumerable.Range(0, to - from)).SelectMany(i => i)
                .Select(i => (long)i).ToArray(), device: _slots.device), 0);
        Batches.Require(positions, nameof(positions));
        var rank = Layout.Shape.Length;
        if ((positions.shape.Length != rank && positions.shape.Length != rank + 1)
            || positions.dtype is not (torch.ScalarType.Int64 or torch.ScalarType.Int32))
        {
            var shape = string.Join(", ", Layout.Shape);
            throw new ArgumentException(
                $"positions: {Batches.Describe(positions)} is not Int64 or Int32, [{shape}] or [rows, {shape}]", nameof(positions));
        }

        var rows = positions.shape.Length - rank; // of M-RoPE
        var kept = Apply(positions, Layout.TokenAxis + rows, rows);
        if (mode == PositionMode.Renumber)
        {
            var numbers = IsPadded
                ? torch.arange(Length, dtype: kept.dtype).unsqueeze(0).mul(Mask().view(Images, Length))
                : torch.tensor(Counts.SelectMany(count => Enumerable.Range(0, count)).ToArray(), dtype: kept.dtype);
            kept = numbers.to(kept.dtype).expand(kept.shape).contiguous();
        }

        return kept.MoveToOuterDisposeScope();
    }

    /// <summary>Whether each token is kept.</summary>
    /// <returns>bool, [B, L] or [N]: false where there is no token.</returns>
    /// <exception cref="ObjectDisposedException">The plan was disposed.</exception>
    public Tensor Keep()
    {
        using var scope = torch.NewDisposeScope();
        return Slots().ge(0).MoveToOuterDisposeScope();
    }

    /// <summary>The inverse map: where each token is along the tokens' dimension of a result, or −1.</summary>
    /// <returns>int32, [B, L] or [N].</returns>
    /// <exception cref="ObjectDisposedException">The plan was disposed.</exception>
    public Tensor Slots()
    {
        RequireLive();
        using var scope = torch.NewDisposeScope();
        if (!IsPadded)
            return _slots.clone().MoveToOuterDisposeScope();
        var slots = Layout.Unflatten(_slots, -1);
        return torch.where(slots.ge(0), slots - _offsets.narrow(0, 0, Images).unsqueeze(1), slots).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Where each image's kept tokens begin if they lie one after the other, and the end: <c>cu_seqlens</c> of what is left.
    /// </summary>
    /// <returns>int32 [B + 1].</returns>
    /// <exception cref="ObjectDisposedException">The plan was disposed.</exception>
    public Tensor Offsets()
    {
        RequireLive();
        return _offsets.clone();
    }

    /// <inheritdoc/>
    public override Tensor Sizes(Tensor? before = null)
    {
        using var scope = torch.NewDisposeScope();
        before ??= torch.ones(Layout.Shape, torch.ScalarType.Float32, _slots.device);
        TokenMerging.RequireSizes(before, Layout, nameof(before));
        return Apply(before).MoveToOuterDisposeScope();
    }

    /// <summary>Each token's place among the kept ones of all images, without places that have no token; the plan's own.</summary>
    internal Tensor FlatSlots => _slots;

    internal AuxBackend Backend => _backend;

    internal static TokenLayout LayoutOf(Tensor scores, Tensor? cuSeqlens, string name)
    {
        Batches.Require(scores, name);
        if (scores.shape.Length is not (1 or 2)
            || scores.dtype is not (torch.ScalarType.Float32 or torch.ScalarType.BFloat16 or torch.ScalarType.Float16))
        {
            throw new ArgumentException(
                $"{name}: {Batches.Describe(scores)} is not Float32, BFloat16 or Float16, [B, L] or [N]", name);
        }

        return TokenLayout.Of(scores, cuSeqlens, padded: scores.shape.Length == 2, name);
    }

    private delegate void Selecting(TensorView segments, SelectionViews selection);

    private static TokenPlan Make(
        TokenLayout layout, torch.Device device, AuxBackend backend, Selecting select, IReadOnlyList<int>? nanCounts = null)
    {
        var segments = layout.Segments(device);
        Tensor Integers(long count) => torch.empty(count, dtype: torch.ScalarType.Int32, device: device);
        var (indices, slots) = (Integers(layout.Tokens), Integers(layout.Tokens));
        var (offsets, spoiled) = (Integers(layout.Images + 1), Integers(layout.Images));
        select(segments.ToTensorView(), new()
        {
            Indices = indices.ToTensorView(),
            Offsets = offsets.ToTensorView(),
            Slots = slots.ToTensorView(),
            NaNCounts = spoiled.ToTensorView(),
        });
        return new(layout, backend, segments, offsets, indices, slots, nanCounts?.ToArray() ?? [.. spoiled.cpu().data<int>()]);
    }

    private static int[] CountsOf(Tensor offsets)
    {
        using var onHost = offsets.cpu();
        int[] bounds = [.. onHost.data<int>()];
        return [.. bounds.Skip(1).Select((end, b) => end - bounds[b])];
    }

    private static Tensor Spread(Tensor gradient, IReadOnlyList<Tensor> saved, RowAxes rows, long[] shape, AuxBackend backend)
    {
        var spread = torch.empty(shape, dtype: gradient.dtype, device: gradient.device);
        TokenCompact.Backward(
            [rows.Of(gradient.ToTensorView(), spread.ToTensorView(), clearRest: true)], saved[0].ToTensorView(),
            new() { Offsets = saved[1].ToTensorView(), Slots = saved[2].ToTensorView() }, backend);
        return spread;
    }

    private long[] Reduced(long[] shape, int tokenAxis)
    {
        long[] reduced = [.. shape];
        reduced[tokenAxis] = Length;
        return reduced;
    }

    private void RequireCache(Tensor tensor, RowAxes rows, string name)
    {
        Batches.Require(tensor, name);
        if (tensor.shape.Length != rows.TokenAxis + 2)
        {
            var expected = IsPadded ? "[B, heads, L, d]" : "[heads, N, d]";
            throw new ArgumentException($"{name}: {Batches.Describe(tensor)} is not {expected}", name);
        }

        Layout.Require(tensor, rows.TokenAxis, 0, name, "plan");
        if (tensor.requires_grad && torch.is_grad_enabled())
            throw new InvalidOperationException($"{name} requires grad; ApplyTo has no graph, use Apply or torch.no_grad()");
    }
}
