using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Float32 tensors side by side in one, each on a cache line of its own, zero at first; detached from the caller's dispose scope.
/// </summary>
internal sealed class FlatTensors : IDisposable
{
    private const long AlignmentElements = 16;

    private readonly Tensor _storage;

    public FlatTensors(IReadOnlyList<long[]> shapes, torch.Device device)
    {
        static long Count(long[] shape) => shape.Aggregate(1L, (count, size) => checked(count * size));
        static long Aligned(long elements) => (elements + AlignmentElements - 1) / AlignmentElements * AlignmentElements;

        using var noGrad = torch.no_grad();
        _storage = torch.zeros(shapes.Sum(shape => Aligned(Count(shape))), torch.float32, device).DetachFromDisposeScope();
        Views = new Tensor[shapes.Count];
        var offset = 0L;
        for (var i = 0; i < Views.Length; i++)
        {
            using var piece = _storage.narrow(0, offset, Count(shapes[i]));
            Views[i] = piece.view(shapes[i]).DetachFromDisposeScope();
            offset += Aligned(Count(shapes[i]));
        }
    }

    public Tensor[] Views { get; }

    public void Dispose()
    {
        foreach (var view in Views)
            view.Dispose();
        _storage.Dispose();
    }
}
