using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using TorchSharp.Modules;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// One parameter of an <see cref="AdamW"/> with its moments, which lie in memory that the optimiser owns, and its count of steps.
/// TorchSharp's
/// <c>state_dict</c> shows it as an <see cref="OptimizerState"/>.
/// </summary>
internal sealed class AdamWState : OptimizerState
{
    public AdamWState(string name, int group, Parameter parameter, Tensor firstMoment, Tensor secondMoment)
        : base(parameter)
    {
        Name = name;
        Group = group;
        FirstMoment = firstMoment;
        SecondMoment = secondMoment;
        Shape = parameter.shape;
        Place = new(parameter.device_type, parameter.device_index);
    }

    public string Name { get; }

    public int Group { get; }

    /// <summary>Another one, of the same shape, after the module replaced it.</summary>
    public Parameter Parameter
    {
        get => _parameter;
        set => (_parameter, Place) = (value, new(value.device_type, value.device_index));
    }

    /// <summary>Where the parameter is, read once.</summary>
    public ParameterGradients.Place Place { get; private set; }

    public Tensor FirstMoment { get; }

    public Tensor SecondMoment { get; }

    /// <summary>The parameter in float32, where it is of a 16-bit type.</summary>
    public Tensor? Master { get; set; }

    public long[] Shape { get; }

    /// <summary>Steps that the parameter has taken: its moments' bias is corrected by them.</summary>
    public long Step { get; set; }

    /// <summary>Whether the step under way moves it.</summary>
    public bool TakesPart { get; set; }

    /// <summary>A new master, and the parameter's value in it, where the parameter is of a 16-bit type.</summary>
    public void MakeMaster()
    {
        Master?.Dispose();
        Master = null;
        if (Parameter.dtype == torch.ScalarType.Float32)
            return;
        using var noGrad = torch.no_grad();
        Master = Parameter.to(torch.ScalarType.Float32).DetachFromDisposeScope();
    }

    public AdamWTensors Tensors(IReadOnlyList<Tensor>? averages) => new(
        Parameter.ToTensorView(Name), FirstMoment.ToTensorView(), SecondMoment.ToTensorView(), Master?.ToTensorView(),
        averages is null ? null : [.. averages.Select(average => average.ToTensorView())]);

    public override void Initialize(OptimizerOptions options)
    {
        FirstMoment.fill_(0);
        SecondMoment.fill_(0);
        MakeMaster();
        Step = 0;
    }

    public override void to(torch.Device device)
    {
        if (device.type != Parameter.device_type)
            throw new NotSupportedException($"'{Name}' is on {Parameter.device}; AdamW keeps the moments where the parameter is");
    }

    public override void SaveStateDict(BinaryWriter writer)
    {
        writer.Write(Step);
        FirstMoment.Save(writer);
        SecondMoment.Save(writer);
        SaveConditionalStateTensor(writer, Master);
    }

    public override void LoadStateDict(BinaryReader reader)
    {
        using var scope = torch.NewDisposeScope();
        var step = reader.ReadInt64();
        Tensor? first = null, second = null, master = null;
        TensorExtensionMethods.Load(ref first, reader);
        TensorExtensionMethods.Load(ref second, reader);
        LoadConditionalStateTensor(reader, ref master, torch.CPU);
        Assign(step, first!, second!, master);
    }

    public override void LoadStateDict(OptimizerState source)
    {
        if (source is not AdamWState state)
            throw new ArgumentException($"the state of '{Name}' is of {source?.GetType()}, not of AuxCore's AdamW", nameof(source));
        Assign(state.Step, state.FirstMoment, state.SecondMoment, state.Master);
    }

    public override bool ApproximatelyEquals(OptimizerState other) =>
        other is AdamWState state && state.Step == Step
        && state.FirstMoment.allclose(FirstMoment) && state.SecondMoment.allclose(SecondMoment);

    public void Free()
    {
        Master?.Dispose();
        Master = null;
    }

    private void Assign(long step, Tensor first, Tensor second, Tensor? master)
    {
        foreach (var tensor in (Tensor?[])[first, second, master])
        {
            if (tensor is not null && !tensor.shape.AsSpan().SequenceEqual(Shape))
                throw new ArgumentException(
                    $"the state of '{Name}' has shape {TensorView.Format(tensor.shape)}, not {TensorView.Format(Shape)}");
        }

        using var noGrad = torch.no_grad();
        FirstMoment.copy_(first);
        SecondMoment.copy_(second);
        if (master is not null)
            Master?.copy_(master);
        Step = step;
    }
}
