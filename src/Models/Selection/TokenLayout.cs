using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Where the tokens of a batch of images lie: one after the other along one dimension (ragged), or in a dimension of their own behind that
/// of the images (padded), from place 0.
/// </summary>
internal sealed class TokenLayout
{
    private TokenLayout(bool isPadded, int[] bounds, long length) => (IsPadded, Bounds, Length) = (isPadded, bounds, length);

    public bool IsPadded { get; }

    /// <summary>[B + 1]: where each image's tokens begin if one lies after the other, and the end.</summary>
    public int[] Bounds { get; }

    /// <summary>Places along the tokens' dimension.</summary>
    public long Length { get; }

    public int Images => Bounds.Length - 1;

    public int Tokens => Bounds[^1];

    /// <summary>The dimension of the tokens in tensors that have one row a token.</summary>
    public int TokenAxis => IsPadded ? 1 : 0;

    /// <summary>As tensors with one element a token have it.</summary>
    public long[] Shape => IsPadded ? [Images, Length] : [Length];

    /// <summary>Whether there is a place without a token.</summary>
    private bool HasGaps => IsPadded && Tokens != Images * Length;

    /// <summary>Reads the layout of a tensor with one row a token.</summary>
    /// <param name="tensor">[N, …] or [B, L, …].</param>
    /// <param name="cuSeqlens">int32 [B + 1], or null: for [N] one image, for [B, L] images of L tokens.</param>
    /// <param name="padded">Whether it is [B, L, …].</param>
    /// <param name="name">What messages call the tensor.</param>
    public static TokenLayout Of(Tensor tensor, Tensor? cuSeqlens, bool padded, string name)
    {
        var length = tensor.shape[padded ? 1 : 0];
        if ((padded ? tensor.shape[0] * length : length) > int.MaxValue)
            throw new ArgumentException($"{name}: {Batches.Describe(tensor)} has more tokens than 31 bits can count", name);
        if (cuSeqlens is null)
            return padded ? Padded((int)tensor.shape[0], length) : new(false, [0, (int)length], length);

        var bounds = ReadBounds(cuSeqlens, padded ? null : length);
        if (!padded)
            return new(false, bounds, length);
        if (bounds.Length - 1 != tensor.shape[0])
        {
            throw new ArgumentException(
                $"cuSeqlens: {bounds.Length} numbers are not one more than the {tensor.shape[0]} images of {name}", nameof(cuSeqlens));
        }

        for (var b = 0; b + 1 < bounds.Length; b++)
        {
            if (bounds[b + 1] - bounds[b] > length)
            {
                throw new ArgumentException(
                    $"cuSeqlens: image {b} has {bounds[b + 1] - bounds[b]} tokens, but {name} has place for {length}", nameof(cuSeqlens));
            }
        }

        return new(true, bounds, length);
    }

    /// <summary>Images of as many tokens as there are places.</summary>
    public static TokenLayout Padded(int images, long length) =>
        new(true, [.. Enumerable.Range(0, images + 1).Select(b => checked((int)(b * length)))], length);

    /// <summary>These images behind so many other tokens, in sequences of a length. Gaps at their end stay gaps.</summary>
    public TokenLayout Behind(long first, long length)
    {
        if (first + Length != length)
            return Padded(Images, length); // tokens follow: a gap is a token that is not kept
        return new(true, [.. Bounds.Select((bound, b) => checked((int)(bound + b * first)))], length);
    }

    /// <summary>Refuses a tensor that is not of these images and tokens.</summary>
    public void Require(Tensor tensor, int tokenAxis, int imageAxis, string name, string made)
    {
        Batches.Require(tensor, name);
        var shape = tensor.shape;
        if ((uint)tokenAxis >= (uint)shape.Length)
            throw new ArgumentException($"{name}: {Batches.Describe(tensor)} has no dimension {tokenAxis} for tokens", name);
        if (IsPadded && ((uint)imageAxis >= (uint)shape.Length || imageAxis == tokenAxis))
            throw new ArgumentException($"{name}: {Batches.Describe(tensor)} has no dimension {imageAxis} for images", name);
        if (shape[tokenAxis] == Length && (!IsPadded || shape[imageAxis] == Images))
            return;
        var found = IsPadded ? $"{shape[imageAxis]} images of {shape[tokenAxis]} tokens" : $"{shape[tokenAxis]} tokens";
        var expected = IsPadded ? $"{Images} images of {Length}" : $"{Length}";
        throw new ArgumentException($"{name}: {Batches.Describe(tensor)} has {found}, but the {made} was made for {expected}", name);
    }

    /// <summary>Rows of the tokens alone, one after the other: [N, …] of [B, L, …] or of [N, …], contiguous.</summary>
    public Tensor Flatten(Tensor tensor)
    {
        if (!IsPadded)
            return tensor.contiguous();
        var flat = tensor.flatten(0, 1);
        return (HasGaps ? flat.index_select(0, Places(tensor.device)) : flat).contiguous();
    }

    /// <summary>The inverse for one element a token, with a value for places without a token.</summary>
    public Tensor Unflatten(Tensor flat, double fill)
    {
        if (!IsPadded)
            return flat;
        if (!HasGaps)
            return flat.view(Images, Length);
        var all = torch.full([Images * Length], fill, dtype: flat.dtype, device: flat.device);
        return all.index_copy_(0, Places(flat.device), flat).view(Images, Length);
    }

    /// <summary>The bounds as a tensor of int32.</summary>
    public Tensor Segments(torch.Device device) => torch.tensor(Bounds, dtype: torch.ScalarType.Int32, device: device);

    // Where the tokens are among all places.
    private Tensor Places(torch.Device device)
    {
        var places = new long[Tokens];
        for (var b = 0; b < Images; b++)
        {
            for (var i = Bounds[b]; i < Bounds[b + 1]; i++)
                places[i] = b * Length + i - Bounds[b];
        }

        return torch.tensor(places, device: device);
    }

    private static unsafe int[] ReadBounds(Tensor cuSeqlens, long? tokens)
    {
        Batches.Require(cuSeqlens, nameof(cuSeqlens));
        if (cuSeqlens.dtype != torch.ScalarType.Int32 || cuSeqlens.shape.Length != 1)
            throw new ArgumentException($"cuSeqlens: {Batches.Describe(cuSeqlens)} is not Int32[images + 1]", nameof(cuSeqlens));
        using var scope = torch.NewDisposeScope();
        int[] bounds = [.. cuSeqlens.cpu().contiguous().data<int>()];
        fixed (int* b = bounds)
            TokenSegments.Check(b, bounds.Length, tokens ?? (bounds.Length == 0 ? 0 : bounds[^1]), nameof(cuSeqlens));
        return bounds;
    }
}
