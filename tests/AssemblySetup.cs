using System.Runtime.CompilerServices;
using TorchSharp;

namespace AuxCore.Tests;

internal static class AssemblySetup
{
    // Tests run side by side; libtorch's own team of threads would only get in their way.
    [ModuleInitializer]
    internal static void OneTorchThread()
    {
        if (RequiresLibtorchAttribute.HasLibtorch)
            torch.set_num_threads(1);
    }
}

/// <summary>Tests that change what the whole process sees (environment variables, thread counts) run while no other test does.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class ProcessWide
{
    public const string Name = "process-wide";
}
