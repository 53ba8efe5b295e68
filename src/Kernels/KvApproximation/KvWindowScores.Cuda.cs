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
