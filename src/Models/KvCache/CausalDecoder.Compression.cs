namespace AuxCore.Models;

public sealed partial class CausalDecoder
{
    /// <summary>
    /// From now on, compresses the caches that prompts are read into, until the result is disposed:
    /// <c>using var scope = model.CompressKv(new SnapKv(64), KvBudget.Tokens(512));</c>
    /// </summary>
    /// <param name="scorer">Which tokens are kept.</param>
    /// <param name="budget">How many.</param>
    /// <param name="options">How; the defaults without.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public KvCompression CompressKv(IKvScorer scorer, KvBudget budget, KvCompressionOptions? options = null) =>
        new(this, scorer, budget, options ?? new());
}
