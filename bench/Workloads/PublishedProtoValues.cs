using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// The update of <see cref="ProtoValueNetwork"/> as google-research's <c>pvn/offline.py</c> has it, in TorchSharp's operations: all heads
/// of all actions by einsum, autograd, libtorch's Adam, a moving average tensor by tensor. Rewards may be any numbers, so that it also
/// learns random cumulants.
/// </summary>
internal sealed class PublishedProtoValues : IDisposable
{
    private readonly ProtoValueSettings _settings;
    private readonly ConvolutionalEncoder _target;
    private readonly TorchSharp.Modules.Parameter _heads;
    private readonly Tensor _targetHeads, _weight = torch.tensor(0f);
    private readonly torch.optim.Optimizer _optimizer;
    private readonly (Tensor Source, Tensor Average)[] _pairs;

    /// <param name="settings">Sizes and rates.</param>
    /// <param name="like">Whose weights it begins with.</param>
    public PublishedProtoValues(ProtoValueSettings settings, ProtoValueNetwork like)
    {
        _settings = settings;
        (Encoder, _target) = (Copy(), Copy());
        _heads = new(like.Heads.detach().clone());
        _targetHeads = _heads.detach().clone();
        using (torch.no_grad()) _weight.fill_(1 - settings.TargetDecay);
        _pairs = [.. Encoder.parameters().Zip(_target.parameters(), (source, average) => ((Tensor)source, (Tensor)average)),
            (_heads, _targetHeads)];
        _optimizer = torch.optim.Adam(Encoder.parameters().Append(_heads), settings.LearningRate, eps: settings.Epsilon);

        ConvolutionalEncoder Copy()
        {
            var copy = new ConvolutionalEncoder(
                settings.Channels, settings.Height, settings.Width, settings.Features, settings.Filters, settings.Seed);
            using var noGrad = torch.no_grad();
            foreach (var (source, own) in like.Encoder.parameters().Zip(copy.parameters())) own.copy_(source);
            return copy;
        }
    }

    /// <summary>What is trained for its features.</summary>
    public ConvolutionalEncoder Encoder { get; }

    /// <summary>The heads: [T, A, F].</summary>
    public Tensor Heads => _heads;

    /// <summary>One training step; rewards are [B, T], float32.</summary>
    public double Update(TransitionBatch batch, Tensor rewards)
    {
        using var scope = torch.NewDisposeScope();
        Tensor target;
        using (torch.no_grad())
        {
            Tensor next = torch.einsum("bf,taf->bta", _target.forward(batch.NextObservations), _targetHeads).mean([2L]);
            target = next * batch.Done.logical_not().to(torch.float32).unsqueeze(1) * _settings.Discount + rewards;
        }

        Tensor all = torch.einsum("bf,taf->bta", Encoder.forward(batch.Observations), _heads);
        Tensor index = batch.Actions.view(-1, 1, 1).expand(all.shape[0], all.shape[1], 1);
        Tensor loss = (0.5 * (target - all.gather(2, index).squeeze(2)).square()).mean();
        _optimizer.zero_grad();
        loss.backward();
        using (torch.no_grad())
        {
            foreach ((Tensor source, Tensor average) in _pairs) average.lerp_(source, _weight);
        }

        _optimizer.step();
        return loss.item<float>();
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        _heads.Dispose();
        _targetHeads.Dispose();
        _weight.Dispose();
        _target.Dispose();
        Encoder.Dispose();
    }
}
