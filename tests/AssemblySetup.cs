using System.Reflection;
using System.Runtime.CompilerServices;
using TorchSharp;
using Xunit.v3;

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
[AfterFinalizers]
public sealed class ProcessWide
{
    public const string Name = "process-wide";
}

/// <summary>
/// Runs the finalizers of what tests before left behind: those of device memory call the driver and give memory back, and would do so while
/// this test counts calls or reads how much memory the process has.
/// </summary>
[AttributeUsage(AttributeTargets.Class)]
public sealed class AfterFinalizersAttribute : BeforeAfterTestAttribute
{
    public override void Before(MethodInfo methodUnderTest, IXunitTest test)
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
    }
}
