using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvWindowScores
{
    /// <summary>
    /// A block for each row finds its softmax, then a thread for each position adds the rows
    /// (<c>native/cuda/kv_approximation/kv_window_scores.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(in KvWindowWork work, in TensorView workspace, AuxDevice device, nint stream)
    {
        var window = Describe(work);
        NativeStatus.Check(Native.KvWindowWorkspace(&window, out var bytes), nameof(KvWindowScores));
        if (bytes > 0)
        {
            TensorArguments.RequireWorkspace(workspace, nameof(workspace), bytes, device);
            window.Workspace = (void*)workspace.Address;
            window.WorkspaceBytes = workspace.ByteCount;
        }

        NativeStatus.Check(
            Native.KvWindowScores(CudaContext.Of(device.Index, nameof(KvWindowScores)).Handle, stream, &window), nameof(KvWindowScores));
    }

    /// <summary>
    /// A block for each tile of products leaves their weights, a warp for each row finds what those count, then a thread for each position
    /// adds the rows (<c>native/cuda/kv_approximation/kv_window_scores.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(in KvWindowProduct work, in TensorView workspace, AuxDevice device, nint stream)
    {
        var product = Describe(work);
        NativeStatus.Check(Native.KvWindowProductWorkspace(&product, out var bytes), nameof(KvWindowScores));
        if (bytes > 0)
        {
            TensorArguments.RequireWorkspace(workspace, nameof(workspace), bytes, device);
            product.Workspace = (void*)workspace.Address;
            product.WorkspaceBytes = workspace.ByteCount;
        }

        NativeStatus.Check(
            Native.KvWindowScoresOfProduct(CudaContext.Of(device.Index, nameof(KvWindowScores)).Handle, stream, &product),
            nameof(KvWindowScores));
    }

    private static unsafe long ProductWorkspaceBytes(int heads, int group, int window, int positions)
    {
        var product = new Native.KvWindowProduct
        {
            StructSize = (uint)sizeof(Native.KvWindowProduct),
            Heads = heads,
            Group = group,
            Window = window,
            Positions = positions,
            Depth = 1,
        };
        NativeStatus.Check(Native.KvWindowProductWorkspace(&product, out var bytes), nameof(KvWindowScores));
        return bytes;
    }

    private static unsafe Native.KvWindowProduct Describe(in KvWindowProduct work) => new()
    {
        StructSize = (uint)sizeof(Native.KvWindowProduct),
        Heads = work.Heads,
        Group = work.Rows / work.Window,
        Window = work.Window,
        Positions = work.Positions,
        Causal = work.IsCausal ? 1u : 0,
        Depth = work.Depth,
        Scale = work.Scale,
        Queries = work.Queries,
        Keys = work.Keys,
        KeyStep = work.KeyStep,
        HeadStep = work.HeadStep,
        Scores = work.AllScores,
    };

    private static unsafe Native.KvWindow Describe(in KvWindowWork work) => new()
    {
        StructSize = (uint)sizeof(Native.KvWindow),
        Heads = work.Heads,
        Group = work.Rows / work.Window,
        Window = work.Window,
        Positions = work.Positions,
        Causal = work.IsCausal ? 1u : 0,
        Scale = work.Scale,
        Logits = work.Row(0, 0),
        Scores = work.Scores(0),
    };
}
