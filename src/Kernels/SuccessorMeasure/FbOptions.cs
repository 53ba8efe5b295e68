namespace AuxCore.Kernels;

/// <summary>
/// Which published code's scale <see cref="ForwardBackwardLoss"/> follows. The gradient of the temporal-difference part is the same in
/// both.
/// </summary>
public enum FbConvention
{
    /// <summary>
    /// <c>controllable_agent</c> (Touati, Rapin and Ollivier 2023). The diagonal part is −mean F·B; the orthonormality term is twice
    /// <see cref="MetaMotivo"/>'s.
    /// </summary>
    ControllableAgent,

    /// <summary>
    /// <c>metamotivo</c> (Tirinzoni et al. 2025). The diagonal part is −mean (F·B − γ · target): its value differs by the targets' share,
    /// through which no gradient goes.
    /// </summary>
    MetaMotivo,
}

/// <summary>How the targets of several forward heads become one.</summary>
public enum FbTarget
{
    /// <summary>Their mean: bilinear, so no n × n matrix is needed.</summary>
    Mean,

    /// <summary>Their minimum, element by element, as in <c>controllable_agent</c>.</summary>
    Minimum,

    /// <summary>
    /// Their mean less <see cref="FbOptions.Penalty"/> times their disagreement, the mean of |difference| over all pairs of heads, as in
    /// <c>metamotivo</c>. With two heads a penalty of ½ is the minimum; a penalty of 0 is the mean.
    /// </summary>
    Penalised,
}

/// <summary>Which algorithm <see cref="ForwardBackwardLoss"/> uses. All of them compute the same loss.</summary>
public enum FbForm
{
    /// <summary><see cref="Gram"/> where the target is the mean, else <see cref="Tiled"/>.</summary>
    Auto,

    /// <summary>From d × d Gram matrices: about n · d² operations. The target must be the mean.</summary>
    Gram,

    /// <summary>From tiles of the n × n matrices: about n² · d operations, and no memory of that size.</summary>
    Tiled,
}

/// <summary>What <see cref="ForwardBackwardLoss"/> computes.</summary>
public sealed record FbOptions
{
    /// <summary>γ, within [0, 1).</summary>
    public required double Discount { get; init; }

    /// <summary>The scale of the terms.</summary>
    public required FbConvention Convention { get; init; }

    /// <summary>λ, the weight of the orthonormality term; at least 0.</summary>
    public double Orthonormality { get; init; } = 1;

    /// <summary>How the heads' targets become one.</summary>
    public FbTarget Target { get; init; } = FbTarget.Mean;

    /// <summary>The weight of disagreement in <see cref="FbTarget.Penalised"/>; at least 0, and not used otherwise.</summary>
    public double Penalty { get; init; }

    /// <summary>
    /// Whether F · B is (1 − γ) times the successor measure, so that its rows sum to 1: the diagonal part then weighs 1 − γ.
    /// </summary>
    public bool Normalised { get; init; }

    /// <summary>The algorithm.</summary>
    public FbForm Form { get; init; } = FbForm.Auto;

    /// <summary>Whether the target is bilinear in the heads, which <see cref="FbForm.Gram"/> needs.</summary>
    internal bool TargetIsMean => Target == FbTarget.Mean || (Target == FbTarget.Penalised && Penalty == 0);

    /// <summary>The form that runs.</summary>
    internal bool IsGram => Form == FbForm.Gram || (Form == FbForm.Auto && TargetIsMean);

    /// <summary>The weight of the diagonal part.</summary>
    internal double DiagonalWeight => Normalised ? 1 - Discount : 1;

    /// <summary>λ times the convention's factor.</summary>
    internal double OrthonormalityWeight => Orthonormality * (Convention == FbConvention.ControllableAgent ? 2 : 1);

    /// <summary>Checks the values against each other.</summary>
    internal void Check(string name)
    {
        if (!(Discount >= 0 && Discount < 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(name, Discount, $"{name}.Discount: a discount lies within [0, 1).");
        if (!(Orthonormality >= 0 && double.IsFinite(Orthonormality)))
            throw new ArgumentOutOfRangeException(name, Orthonormality, $"{name}.Orthonormality: a weight is finite and at least 0.");
        if (!(Penalty >= 0 && double.IsFinite(Penalty)))
            throw new ArgumentOutOfRangeException(name, Penalty, $"{name}.Penalty: a penalty is finite and at least 0.");
        if (!Enum.IsDefined(Convention) || !Enum.IsDefined(Target) || !Enum.IsDefined(Form))
            throw new ArgumentOutOfRangeException(name, $"{name}: Convention {Convention}, Target {Target} or Form {Form} is none.");
        if (Form == FbForm.Gram && !TargetIsMean)
            throw new ArgumentException(
                $"{name}: the Gram form needs a target that is the mean of the heads, not {Target}; use FbForm.Auto or Tiled", name);
    }
}

/// <summary>The sizes of a forward-backward batch.</summary>
/// <param name="Heads">E: the forward heads.</param>
/// <param name="Count">n: the transitions.</param>
/// <param name="Dimension">d: the length of F and B.</param>
public readonly record struct FbShape(int Heads, int Count, int Dimension);

/// <summary>The parts of a forward-backward loss, each with its weight; the loss is their sum.</summary>
/// <param name="OffDiagonal">Half the mean square of the temporal differences of pairs i ≠ j, over all heads.</param>
/// <param name="Diagonal">What draws F and B of the same transition together.</param>
/// <param name="OrthonormalityOffDiagonal">What makes B of different transitions orthogonal.</param>
/// <param name="OrthonormalityDiagonal">What keeps B from vanishing.</param>
public readonly record struct FbTerms(
    double OffDiagonal, double Diagonal, double OrthonormalityOffDiagonal, double OrthonormalityDiagonal)
{
    /// <summary>The loss.</summary>
    public double Total => OffDiagonal + Diagonal + OrthonormalityOffDiagonal + OrthonormalityDiagonal;
}
