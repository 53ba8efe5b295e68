namespace AuxCore.Kernels;

/// <summary>What one call of <see cref="TabularTd"/> works on: checked addresses, which do not move while the call runs.</summary>
internal readonly unsafe struct TabularTdWork
{
    public required int States { get; init; }

    public required int Transitions { get; init; }

    public required float* Measure { get; init; }

    public required int* Current { get; init; }

    public required int* Next { get; init; }

    public required byte* Done { get; init; }

    public required double StepSize { get; init; }

    public required double Discount { get; init; }

    public required Start Start { get; init; }

    public required bool Normalised { get; init; }

    public required TransitionOrder Order { get; init; }

    /// <summary>On a device only.</summary>
    public float* Scratch { get; init; }

    /// <summary>On a device only.</summary>
    public bool TrustStates { get; init; }

    /// <summary>The state that transition <paramref name="i"/> counts.</summary>
    public int Counted(int i) => Start == Start.Current ? Current[i] : Next[i];

    public void RequireDisjoint()
    {
        var table = (long)States * States * sizeof(float);
        TensorArguments.RequireDisjoint(
            NamedMemory.Written("measure", Measure, table),
            NamedMemory.Read("current", Current, Transitions * 4L),
            NamedMemory.Read("next", Next, Transitions * 4L),
            NamedMemory.Read("done", Done, Transitions),
            NamedMemory.Written("scratch", Scratch, Scratch == null ? 0 : table));
    }
}
