using TorchSharp.Modules;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>A module that is nothing but parameters.</summary>
internal sealed class BareParameters : nn.Module
{
    public BareParameters(IReadOnlyList<long[]> shapes)
        : base(nameof(BareParameters))
    {
        for (int i = 0; i < shapes.Count; i++) register_parameter($"p{i}", new Parameter(randn(shapes[i])));
    }
}
