using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// The tensors of one <see cref="ForwardBackwardLoss"/>, all contiguous and on one device. E heads, n transitions, d dimensions.
/// </summary>
public readonly struct FbTensors
{
    /// <summary>F [E, n, d]: float32, bfloat16 or, on the host, float64.</summary>
    public required TensorView Forward { get; init; }

    /// <summary>B [n, d], of F's dtype.</summary>
    public required TensorView Backward { get; init; }

    /// <summary>The target network's F̄ [E, n, d] at the next states, of F's dtype. Rows of terminal transitions are not read.</summary>
    public required TensorView TargetForward { get; init; }

    /// <summary>The target network's B̄ [n, d], of F's dtype.</summary>
    public required TensorView TargetBackward { get; init; }

    /// <summary>[n], bool or uint8: not 0 where the transition is terminal.</summary>
    public required TensorView Done { get; init; }

    /// <summary>Receives ∂loss/∂F [E, n, d]: float64 where F is, else float32.</summary>
    public required TensorView ForwardGradient { get; init; }

    /// <summary>Receives ∂loss/∂B [n, d], of the other gradient's dtype.</summary>
    public required TensorView BackwardGradient { get; init; }

    /// <summary>Receives the four parts of the loss in the order of <see cref="FbTerms"/>: float64[4].</summary>
    public required TensorView Loss { get; init; }

    /// <summary>
    /// On a device: uint8, one dimension of at least <see cref="ForwardBackwardLoss.WorkspaceBytes"/>, on an address divisible by 256,
    /// whose contents become undefined. On the host: left out.
    /// </summary>
    public TensorView Workspace { get; init; }

    internal AuxDevice Device => Forward.Device;

    /// <summary>Checks the tensors against each other and describes them to the backends.</summary>
    internal unsafe FbWork Check(FbOptions options)
    {
        if (Forward.Shape.Length != 3)
            throw new ArgumentException($"{nameof(Forward)}: {Forward} is not of rank 3: heads, transitions, dimensions");
        var shape = FbWork.Sizes(Forward.Shape[0], Forward.Shape[1], Forward.Shape[2]);
        var (n, d) = (Forward.Shape[1], Forward.Shape[2]);
        var dtype = Forward.DType;
        if (dtype is not (DType.Float32 or DType.BFloat16 or DType.Float64))
            throw new ArgumentException($"{nameof(Forward)}: {Forward}, but float32, bfloat16 or float64 is needed");
        if (dtype == DType.Float64 && Device.Kind != AuxDeviceKind.Host)
            throw new ArgumentException($"{nameof(Forward)}: {Forward}, but float64 is for host memory");
        var gradient = dtype == DType.Float64 ? DType.Float64 : DType.Float32;

        TensorArguments.Require(Forward, nameof(Forward), [dtype], Forward.Shape, Device, nameof(Forward));
        TensorArguments.Require(Backward, nameof(Backward), [dtype], [n, d], Device, nameof(Backward));
        TensorArguments.Require(TargetForward, nameof(TargetForward), [dtype], Forward.Shape, Device, nameof(TargetForward));
        TensorArguments.Require(TargetBackward, nameof(TargetBackward), [dtype], [n, d], Device, nameof(TargetBackward));
        TensorArguments.Require(Done, nameof(Done), [DType.Bool, DType.UInt8], [n], Device, nameof(Done));
        TensorArguments.Require(ForwardGradient, nameof(ForwardGradient), [gradient], Forward.Shape, Device, nameof(ForwardGradient));
        TensorArguments.Require(BackwardGradient, nameof(BackwardGradient), [gradient], [n, d], Device, nameof(BackwardGradient));
        TensorArguments.Require(Loss, nameof(Loss), [DType.Float64], [4], Device, nameof(Loss));
        var onDevice = Device.Kind != AuxDeviceKind.Host;
        if (onDevice)
            TensorArguments.RequireWorkspace(Workspace, nameof(Workspace), ForwardBackwardLoss.WorkspaceBytes(shape, options), Device);
        return new FbWork(shape, options)
        {
            DType = dtype,
            Workspace = onDevice ? (void*)Workspace.Address : null,
            WorkspaceBytes = onDevice ? Workspace.ByteCount : 0,
            Forward = (void*)Forward.Address,
            Backward = (void*)Backward.Address,
            TargetForward = (void*)TargetForward.Address,
            TargetBackward = (void*)TargetBackward.Address,
            Done = (byte*)Done.Address,
            ForwardGradient = (void*)ForwardGradient.Address,
            BackwardGradient = (void*)BackwardGradient.Address,
            Loss = (double*)Loss.Address,
        };
    }

    /// <summary>Keeps the memory alive up to here.</summary>
    internal void KeepAlive()
    {
        TensorArguments.KeepAlive(
            Forward.Owner, Backward.Owner, TargetForward.Owner, TargetBackward.Owner, Done.Owner, ForwardGradient.Owner,
            BackwardGradient.Owner, Loss.Owner, Workspace.Owner);
    }
}

/// <summary>What one forward-backward loss works on; the addresses have been checked, but for overlap.</summary>
internal readonly unsafe struct FbWork(FbShape shape, FbOptions options)
{
    public const int MostHeads = 16;

    public int Heads => shape.Heads;

    /// <summary>n.</summary>
    public int Count => shape.Count;

    /// <summary>d.</summary>
    public int Dimension => shape.Dimension;

    public FbOptions Options => options;

    public required DType DType { get; init; }

    public required void* Forward { get; init; }

    public required void* Backward { get; init; }

    public required void* TargetForward { get; init; }

    public required void* TargetBackward { get; init; }

    public required byte* Done { get; init; }

    public required void* ForwardGradient { get; init; }

    public required void* BackwardGradient { get; init; }

    public required double* Loss { get; init; }

    public void* Workspace { get; init; }

    public long WorkspaceBytes { get; init; }

    /// <summary>n (n − 1): the pairs i ≠ j.</summary>
    public double Pairs => Count * (Count - 1.0);

    /// <summary>γ of a transition: 0 where it is terminal.</summary>
    public double DiscountOf(int i) => Done[i] != 0 ? 0 : options.Discount;

    /// <summary>Refuses sizes for which there is no loss.</summary>
    public static FbShape Sizes(long heads, long count, long dimension)
    {
        if (heads is < 1 or > MostHeads)
            throw new ArgumentException($"{heads} heads; there may be 1 to {MostHeads}");
        if (count is < 2 or > int.MaxValue / 2)
            throw new ArgumentException($"{count} transitions; pairs of different ones are needed, so at least 2, and at most 2³⁰");
        if (dimension is < 1 or > 1 << 16)
            throw new ArgumentException($"{dimension} dimensions; there may be 1 to 65536");
        return new((int)heads, (int)count, (int)dimension);
    }

    /// <summary>Refuses memory that is written and shared with other memory of the call.</summary>
    public void RequireDisjoint()
    {
        var (matrix, gradient) = ((long)Count * Dimension * DType.Size(), (long)Count * Dimension * (DType == DType.Float64 ? 8 : 4));
        TensorArguments.RequireDisjoint(
            NamedMemory.Read("forward", Forward, matrix * Heads), NamedMemory.Read("backward", Backward, matrix),
            NamedMemory.Read("targetForward", TargetForward, matrix * Heads), NamedMemory.Read("targetBackward", TargetBackward, matrix),
            NamedMemory.Read("done", Done, Count), NamedMemory.Written("forwardGradient", ForwardGradient, gradient * Heads),
            NamedMemory.Written("backwardGradient", BackwardGradient, gradient), NamedMemory.Written("loss", Loss, 4 * sizeof(double)),
            NamedMemory.Written("workspace", Workspace, WorkspaceBytes));
    }
}
