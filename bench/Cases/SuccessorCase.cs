namespace AuxCore.Bench.Cases;

/// <summary>A case of the successor measure.</summary>
internal abstract class SuccessorCase(string name, string description) : TensorCase("successor-measure", name, description);
