using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.TokenPruning;

/// <summary>
/// Scores, selection and compaction of all layers of a group, one after the other in device memory, while no other test launches anything.
/// </summary>
[Collection(ProcessWide.Name)]
public class TokenPipelineCudaTests
{
    private const int Batch = 2, Heads = 4, Tokens = 70, Depth = 8, Kept = 9, Layers = 12;

    public TokenPipelineCudaTests() => CudaDriver.Require();

    /// <summary>
    /// Two for scores of few rows, whose columns are added when all logits are there, one that ranks and emits, one for all tensors.
    /// </summary>
    [Fact]
    public unsafe void A_group_of_layers_is_pruned_by_four_launches()
    {
        using var devices = new Devices();
        var scores = devices.Add(new float[Batch * Tokens], Batch, Tokens);
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(TokenScores.WorkspaceBytes(Batch, Heads, Heads, 1, Tokens)));
        var tensors = new ScoreTensors
        {
            Queries = devices.Add(TokenMergeTests.Values(Batch * Heads * Depth, 1), Batch, Heads, 1, Depth),
            Keys = devices.Add(TokenMergeTests.Values(Batch * Heads * Tokens * Depth, 2), Batch, Heads, Tokens, Depth),
            Scores = scores, Workspace = workspace.View(workspace.Length),
        };
        var flat = TensorView.FromPointer(
            (void*)scores.Address, DType.Float32, [Batch * Tokens], device: scores.Device);
        var bounds = devices.Add([0, Tokens, Batch * Tokens]);
        var selection = new SelectionViews { Indices = devices.Add(new int[Batch * Kept]), Offsets = devices.Add(new int[Batch + 1]) };
        List<(float[] Before, TensorView After)> layers = [];
        List<TokenRows> rows = [];
        for (var layer = 0; layer < Layers; layer++)
        {
            var values = TokenMergeTests.Values(Batch * Tokens * Depth, layer);
            layers.Add((values, devices.Add(new float[Batch * Kept * Depth], Batch * Kept, Depth)));
            rows.Add(TokenRows.Ragged(devices.Add(values, Batch * Tokens, Depth), layers[^1].After));
        }

        var launches = CudaDriver.IsStandin ? CudaDriver.Launches : 0;
        TokenScores.Run(tensors);
        TokenSelect.Run(flat, bounds, Budget.Count(Kept), selection);
        TokenCompact.Run([.. rows], bounds, selection);
        if (CudaDriver.IsStandin)
            Assert.Equal(launches + 4, CudaDriver.Launches);

        var found = Devices.Read<float>(scores);
        int[] kept =
        [
            .. Enumerable.Range(0, Batch).SelectMany(b => Enumerable.Range(b * Tokens, Tokens)
                .OrderByDescending(token => found[token]).Take(Kept).Order()),
        ];
        Assert.Equal(kept, Devices.Read<int>(selection.Indices));
        foreach (var (before, after) in layers)
            Assert.Equal(kept.SelectMany(token => before[(token * Depth)..((token + 1) * Depth)]), Devices.Read<float>(after));
        devices.CheckMargins();
    }
}
