using System.Reflection;
using AuxCore.Tests;
using Xunit.v3;

[assembly: CollectionBehavior(typeof(LibtorchTestsOneByOne))]

namespace AuxCore.Tests;

/// <summary>
/// Test classes run side by side, but those that call libtorch one after the other, while no others run. TorchSharp 0.107 makes a scalar of
/// each number that an operation takes, and does not keep it alive during the call: where another thread lets the garbage collector run
/// just then, the scalar is gone, and the operation fails ("Unknown scalar type") or takes whatever is there.
/// </summary>
public sealed class LibtorchTestsOneByOne : TestCollectionFactoryBase
{
    private readonly XunitTestCollection _libtorch;

    public LibtorchTestsOneByOne(IXunitTestAssembly assembly)
        : base(assembly) =>
        _libtorch = new XunitTestCollection(assembly, collectionDefinition: null, disableParallelization: true, "libtorch");

    public override string DisplayName => "a collection for each class, and one for those that call libtorch";

    protected override IXunitTestCollection GetDefaultTestCollection(Type testClass)
    {
        var callsLibtorch = testClass.IsDefined(typeof(RequiresLibtorchAttribute), inherit: true)
            || testClass.GetMethods().Any(method => method.IsDefined(typeof(RequiresLibtorchAttribute)));
        return callsLibtorch ? _libtorch : new XunitTestCollection(TestAssembly, null, disableParallelization: false, testClass.FullName!);
    }
}
