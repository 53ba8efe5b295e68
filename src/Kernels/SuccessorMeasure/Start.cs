namespace AuxCore.Kernels;

/// <summary>
/// Which successor measure is meant: at which state of a transition s → s′ it begins to count. With P the matrix of transition
/// probabilities and γ the discount, Ψ = I + γ · M⁺.
/// </summary>
public enum Start
{
    /// <summary>Ψ = Σ γᵏ Pᵏ = (I − γP)⁻¹: the current state counts, undiscounted. Proto-value networks learn this one.</summary>
    Current,

    /// <summary>M⁺ = PΨ: the next state is the first to count. Forward-backward representations learn this one.</summary>
    Next,
}
