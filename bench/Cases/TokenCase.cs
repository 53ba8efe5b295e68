namespace AuxCore.Bench.Cases;

/// <summary>A case of visual-token pruning.</summary>
internal abstract class TokenCase(string name, string description) : TensorCase("token-pruning", name, description);
