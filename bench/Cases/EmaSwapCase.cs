using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;
using TorchSharp.Modules;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>
/// A model that takes its averages for an evaluation and its own weights back: <see cref="EmaModel.Swap"/> against what diffusers'
/// <c>EMAModel</c> does (store, copy, restore), with the memory to store in allocated beforehand.
/// </summary>
/// <remarks>
/// Pointing the parameters at other memory (<c>set_</c>) would copy nothing. It is no rewriting of this: whatever else views the
/// parameters' memory, tied weights say, would go on seeing the old values.
/// </remarks>
internal sealed class EmaSwapCase(string name, string description, Func<IReadOnlyList<long[]>> shapes) : KernelCase
{
    private ParameterList? _model;
    private EmaModel? _ema;
    private (Tensor Parameter, Tensor Average, Tensor Stored)[] _tensors = [];

    public override string Path => "ema";

    public override string Name => name;

    public override string Description => description;

    public override string DType => "f32";

    /// <summary>There and back, each time two tensors read and written.</summary>
    public override long Bytes => _tensors.Sum(entry => entry.Parameter.numel()) * sizeof(float) * 8;

    public override bool InPlace => true;

    public override CaseArm Ours => new("EmaModel.Swap", () => _ema!.Swap().Dispose());

    public override IReadOnlyList<CaseArm> BestCandidates => [new("copy_ three times per tensor, into memory at hand", StoreCopyRestore)];

    public override CaseArm? Published => new("clone, copy_ twice per tensor", CloneCopyRestore);

    public override void Prepare(CaseSettings settings)
    {
        AuxRuntime.CpuThreads = settings.Threads;
        torch.manual_seed(settings.Seed);
        _model = torch.nn.ParameterList([.. shapes().Select(shape => new Parameter(torch.randn(shape)))]);
        _ema = new EmaModel(_model, EmaSchedule.Constant(0.5)) { Backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true) };
        using IDisposable noGrad = torch.no_grad();
        foreach (Parameter parameter in _model.parameters()) parameter.add_(1);
        _ema.Update();
        IReadOnlyDictionary<string, Tensor> averages = _ema.StateDict();
        _tensors = [.. _model.named_parameters().Select(entry =>
            ((Tensor)entry.parameter, averages[entry.name], torch.empty_like(entry.parameter)))];
    }

    public override double Verify()
    {
        using IDisposable noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        Tensor[] weights = [.. _tensors.Select(entry => entry.Parameter.clone())];
        Tensor[] averages = [.. _tensors.Select(entry => entry.Average.clone())];
        using (_ema!.Swap()) Require(averages, "inside the swap");
        Require(weights, "after the swap");
        return 0;

        void Require(Tensor[] expected, string when)
        {
            for (int i = 0; i < expected.Length; i++)
            {
                if (!torch.equal(_tensors[i].Parameter, expected[i]).all().item<bool>())
                    throw new VerificationException($"parameter {i} is not what it should be {when}");
            }
        }
    }

    public override void Dispose()
    {
        _ema?.Dispose();
        _model?.Dispose();
        foreach (var entry in _tensors) entry.Stored.Dispose();
        _tensors = [];
    }

    private void StoreCopyRestore()
    {
        using IDisposable noGrad = torch.no_grad();
        foreach (var entry in _tensors) entry.Stored.copy_(entry.Parameter);
        foreach (var entry in _tensors) entry.Parameter.copy_(entry.Average);
        foreach (var entry in _tensors) entry.Parameter.copy_(entry.Stored);
    }

    private void CloneCopyRestore()
    {
        using IDisposable noGrad = torch.no_grad();
        Tensor[] stored = [.. _tensors.Select(entry => entry.Parameter.clone())];
        foreach (var entry in _tensors) entry.Parameter.copy_(entry.Average);
        for (int i = 0; i < stored.Length; i++) _tensors[i].Parameter.copy_(stored[i]);
        foreach (Tensor tensor in stored) tensor.Dispose();
    }
}
