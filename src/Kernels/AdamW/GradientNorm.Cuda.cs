namespace AuxCore.Kernels;

public static partial class GradientNorm
{
    /// <summary>Two launches (<c>native/cuda/adamw/gradient_norm.cu</c>), and the wait for what they found.</summary>
    private static GradientSummary RunCuda(in AdamWWork work, AdamWPlace place, ref AdamWCudaTable? table)
    {
        table ??= new AdamWCudaTable(place.Device.Index, work.AverageCount);
        table.Norm(work, scale: 1, greatest: null, skip: false, place.Stream);
        return table.ReadNorm(place.Stream);
    }
}
