namespace AuxCore.Kernels;

public static partial class KvPredictWrite
{
    /// <summary>Layer by layer, as <see cref="KvAppend"/>'s reference does it.</summary>
    private static void RunReference(KvAppendWork[] layers)
    {
        foreach (var layer in layers)
            KvAppend.RunReference(layer);
    }
}
