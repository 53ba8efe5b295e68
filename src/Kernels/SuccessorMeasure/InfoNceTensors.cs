using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The tensors of one <see cref="InfoNceLoss"/>, all contiguous and on one device: n pairs, d dimensions.</summary>
public readonly struct InfoNceTensors
{
    /// <summary>φ [n, d]: float32, bfloat16 or, on the host, float64.</summary>
    public required TensorView Queries { get; init; }

    /// <summary>ψ [n, d], of the queries' dtype; ψ_i is the positive of φ_i.</summary>
    public required TensorView Keys { get; init; }

    /// <summary>Receives ∂loss/∂φ [n, d]: float64 where φ is, else float32.</summary>
    public required TensorView QueryGradient { get; init; }

    /// <summary>Receives ∂loss/∂ψ [n, d], of the other gradient's dtype.</summary>
    public required TensorView KeyGradient { get; init; }

    /// <summary>Receives the two parts of the loss in the order of <see cref="InfoNceTerms"/>: float64[2].</summary>
    public required TensorView Loss { get; init; }

    /// <summary>
    /// On a device: uint8, one dimension of at least <see cref="InfoNceLoss.WorkspaceBytes"/>, on an address divisible by 256, whose
    /// contents become undefined. On the host: left out.
    /// </summary>
    public TensorView Workspace { get; init; }

    internal AuxDevice Device => Queries.Device;

    /// <summary>Checks the tensors against each other and describes them to the backends.</summary>
    internal unsafe InfoNceWork Check(InfoNceOptions options)
    {
        if (Queries.Shape.Length != 2)
            throw new ArgumentException($"{nameof(Queries)}: {Queries} is not of rank 2: pairs, dimensions");
        var (n, d) = InfoNceWork.Sizes(Queries.Shape[0], Queries.Shape[1]);
        var dtype = Queries.DType;
        if (dtype is not (DType.Float32 or DType.BFloat16 or DType.Float64))
            throw new ArgumentException($"{nameof(Queries)}: {Queries}, but float32, bfloat16 or float64 is needed");
        if (dtype == DType.Float64 && Device.Kind != AuxDeviceKind.Host)
            throw new ArgumentException($"{nameof(Queries)}: {Queries}, but float64 is for host memory");
        var gradient = dtype == DType.Float64 ? DType.Float64 : DType.Float32;

        TensorArguments.Require(Queries, nameof(Queries), [dtype], [n, d], Device, nameof(Queries));
        TensorArguments.Require(Keys, nameof(Keys), [dtype], [n, d], Device, nameof(Keys));
        TensorArguments.Require(QueryGradient, nameof(QueryGradient), [gradient], [n, d], Device, nameof(QueryGradient));
        TensorArguments.Require(KeyGradient, nameof(KeyGradient), [gradient], [n, d], Device, nameof(KeyGradient));
        TensorArguments.Require(Loss, nameof(Loss), [DType.Float64], [2], Device, nameof(Loss));
        var onDevice = Device.Kind != AuxDeviceKind.Host;
        if (onDevice)
            TensorArguments.RequireWorkspace(Workspace, nameof(Workspace), InfoNceLoss.WorkspaceBytes(n, d), Device);
        return new InfoNceWork(n, d, options)
        {
            DType = dtype,
            Workspace = onDevice ? (void*)Workspace.Address : null,
            WorkspaceBytes = onDevice ? Workspace.ByteCount : 0,
            Queries = (void*)Queries.Address,
            Keys = (void*)Keys.Address,
            QueryGradient = (void*)QueryGradient.Address,
            KeyGradient = (void*)KeyGradient.Address,
            Loss = (double*)Loss.Address,
        };
    }

    /// <summary>Keeps the memory alive up to here.</summary>
    internal void KeepAlive()
    {
        TensorArguments.KeepAlive(
            Queries.Owner, Keys.Owner, QueryGradient.Owner, KeyGradient.Owner, Loss.Owner, Workspace.Owner);
    }
}

/// <summary>What one InfoNCE loss works on; the addresses have been checked, but for overlap.</summary>
internal readonly unsafe struct InfoNceWork(int count, int dimension, InfoNceOptions options)
{
    /// <summary>n.</summary>
    public int Count => count;

    /// <summary>d.</summary>
    public int Dimension => dimension;

    public InfoNceOptions Options => options;

    public required DType DType { get; init; }

    public required void* Queries { get; init; }

    public required void* Keys { get; init; }

    public required void* QueryGradient { get; init; }

    public required void* KeyGradient { get; init; }

    public required double* Loss { get; init; }

    public void* Workspace { get; init; }

    public long WorkspaceBytes { get; init; }

    /// <summary>Refuses sizes for which there is no loss.</summary>
    public static (int Count, int Dimension) Sizes(long count, long dimension)
    {
        if (count is < 2 or > int.MaxValue / 2)
            throw new ArgumentException($"{count} pairs; a positive needs a negative, so at least 2, and at most 2³⁰");
        if (dimension is < 1 or > 1 << 16)
            throw new ArgumentException($"{dimension} dimensions; there may be 1 to 65536");
        return ((int)count, (int)dimension);
    }

    /// <summary>Refuses memory that is written and shared with other memory of the call.</summary>
    public void RequireDisjoint()
    {
        var elements = (long)Count * Dimension;
        var (matrix, gradient) = (elements * DType.Size(), elements * (DType == DType.Float64 ? 8 : 4));
        TensorArguments.RequireDisjoint(
            NamedMemory.Read("queries", Queries, matrix), NamedMemory.Read("keys", Keys, matrix),
            NamedMemory.Written("queryGradient", QueryGradient, gradient), NamedMemory.Written("keyGradient", KeyGradient, gradient),
            NamedMemory.Written("loss", Loss, 2 * sizeof(double)), NamedMemory.Written("workspace", Workspace, WorkspaceBytes));
    }
}
