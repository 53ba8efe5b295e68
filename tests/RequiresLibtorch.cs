using System.Reflection;
using Xunit.v3;

namespace AuxCore.Tests;

/// <summary>
/// Marks tests that call libtorch. A build with <c>-p:WithoutLibtorch=true</c> has none, for machines to which 480 MB cannot be carried;
/// there they are skipped with that reason. All other tests run there as everywhere, so one that calls libtorch unmarked fails.
/// </summary>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Method)]
public sealed class RequiresLibtorchAttribute : BeforeAfterTestAttribute
{
    /// <summary>Decided by the build and not by what loads: a libtorch that is there and does not load is a failure.</summary>
    public static bool HasLibtorch =>
#if WITHOUT_LIBTORCH
        false;
#else
        true;
#endif

    /// <summary>For constructors and fields that call libtorch: xunit makes the object before it asks the attributes.</summary>
    public static void OrSkip() => Assert.SkipUnless(HasLibtorch, "this build has no libtorch (WithoutLibtorch=true)");

    public override void Before(MethodInfo methodUnderTest, IXunitTest test) => OrSkip();
}
