using AuxCore.Models;

namespace AuxCore.Bench.Workloads;

/// <summary>Sizes of vision transformers that cases and experiments share.</summary>
internal static class VisionTransformerSizes
{
    /// <summary>For 28 × 28 grey images: 0.2 million parameters, a training step of some 50 ms on one core at a batch of 64.</summary>
    public static VisionTransformerOptions Small { get; } = new();

    /// <summary>ViT-S/16 of Touvron et al. (DeiT, 2021): 22 million parameters in 152 tensors.</summary>
    public static VisionTransformerOptions VitS16 { get; } =
        new() { Side = 224, Patch = 16, Channels = 3, Width = 384, Depth = 12, Heads = 6, Classes = 1000 };
}
