using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Predictive;

/// <summary>The objectives over pairs for TorchSharp tensors, against autograd on the expressions that people write.</summary>
[RequiresLibtorch]
public class ObjectiveTests
{
    private static readonly FbOptions Options = new() { Discount = 0.9, Convention = FbConvention.MetaMotivo, Orthonormality = 0.7 };

    [Theory]
    [InlineData(FbTarget.Mean)]
    [InlineData(FbTarget.Minimum)]
    public void Forward_backward_gradients_are_those_of_autograd_on_the_published_expression(FbTarget target)
    {
        using var scope = torch.NewDisposeScope();
        var batch = new Batch(2, 40, 7, torch.float64);
        using var objective = new ForwardBackwardObjective(Options with { Target = target });

        var loss = objective.Loss(batch.Forward, batch.Backward, batch.TargetForward, batch.TargetBackward, batch.Done);
        (loss * 3).backward();
        var (forward, backward) = (batch.Forward.grad!.clone(), batch.Backward.grad!.clone());
        batch.ZeroGradients();
        var expected = batch.Published(target);
        (expected * 3).backward();

        Assert.Equal(expected.item<double>(), loss.item<double>(), 1e-12);
        Assert.Equal(loss.item<double>(), objective.Terms.Total, 1e-12);
        Assert.InRange((forward - batch.Forward.grad).abs().max().item<double>(), 0, 1e-14);
        Assert.InRange((backward - batch.Backward.grad).abs().max().item<double>(), 0, 1e-14);
        Assert.Null(batch.TargetForward.grad);
    }

    [Fact]
    public void InfoNce_gradients_are_those_of_autograd_on_cross_entropy()
    {
        using var scope = torch.NewDisposeScope();
        var queries = torch.randn(30, 6, dtype: torch.float64, requires_grad: true);
        var keys = torch.randn(30, 6, dtype: torch.float64, requires_grad: true);
        using var objective = new InfoNceObjective(new() { Similarity = InfoNceSimilarity.Dot, Temperature = 2, LogSumExpPenalty = 0.1 });

        var loss = objective.Loss(queries, keys);
        loss.backward();
        var (query, key) = (queries.grad!.clone(), keys.grad!.clone());
        (queries.grad, keys.grad) = (null, null);
        var logits = queries.matmul(keys.t()) / 2;
        var expected = torch.nn.functional.cross_entropy(logits, torch.arange(30)) + 0.1 * logits.logsumexp(1).pow(2).mean();
        expected.backward();

        Assert.Equal(expected.item<double>(), loss.item<double>(), 1e-12);
        Assert.Equal(loss.item<double>(), objective.Terms.Total, 1e-12);
        Assert.InRange((query - queries.grad!).abs().max().item<double>(), 0, 1e-14);
        Assert.InRange((key - keys.grad!).abs().max().item<double>(), 0, 1e-14);
    }

    [Fact]
    public void Gradients_reach_the_networks_in_front()
    {
        using var scope = torch.NewDisposeScope();
        using var network = torch.nn.Linear(5, 7);
        var batch = new Batch(1, 20, 7, torch.float32);
        using var objective = new ForwardBackwardObjective(Options);
        var b = network.forward(torch.randn(20, 5));

        objective.Loss(batch.Forward, b, batch.TargetForward, batch.TargetBackward, batch.Done).backward();

        Assert.True(network.weight.grad!.abs().max().item<float>() > 0);
        Assert.True(batch.Forward.grad!.abs().max().item<float>() > 0);
    }

    [Fact]
    public void What_needs_no_gradient_gets_none()
    {
        using var scope = torch.NewDisposeScope();
        var batch = new Batch(2, 20, 7, torch.float32);
        using var objective = new ForwardBackwardObjective(Options);
        var frozen = batch.Backward.detach();

        objective.Loss(batch.Forward, frozen, batch.TargetForward, batch.TargetBackward, batch.Done).backward();
        Assert.NotNull(batch.Forward.grad);
        Assert.Null(frozen.grad);
        Assert.False(objective.Loss(
            batch.Forward.detach(), frozen, batch.TargetForward, batch.TargetBackward, batch.Done).requires_grad);
        using (torch.no_grad())
            Assert.False(objective.Loss(
                batch.Forward, frozen, batch.TargetForward, batch.TargetBackward, batch.Done).requires_grad);
    }

    [Fact]
    public void Strided_and_narrow_tensors_are_taken()
    {
        using var scope = torch.NewDisposeScope();
        var batch = new Batch(2, 20, 7, torch.float32);
        using var objective = new ForwardBackwardObjective(Options);
        var expected = objective.Loss(batch.Forward, batch.Backward, batch.TargetForward, batch.TargetBackward, batch.Done).item<float>();
        var strided = batch.Backward.detach().t().contiguous().t();
        Assert.False(strided.is_contiguous());
        Assert.Equal(
            expected, objective.Loss(batch.Forward, strided, batch.TargetForward, batch.TargetBackward, batch.Done).item<float>());

        var narrow = batch.Forward.detach().to(torch.bfloat16).requires_grad_();
        var loss = objective.Loss(
            narrow, batch.Backward.to(torch.bfloat16), batch.TargetForward.to(torch.bfloat16), batch.TargetBackward.to(torch.bfloat16),
            batch.Done.to(torch.uint8));
        loss.backward();
        Assert.Equal(torch.float32, loss.dtype);
        Assert.Equal(torch.bfloat16, narrow.grad!.dtype);
        Assert.InRange(Math.Abs(loss.item<float>() - expected), 0, 0.05 * Math.Abs(expected) + 0.05);
    }

    [Fact]
    public void A_NaN_is_a_NaN_loss()
    {
        using var scope = torch.NewDisposeScope();
        var batch = new Batch(2, 20, 7, torch.float32);
        using var objective = new ForwardBackwardObjective(Options);
        var poisoned = batch.Backward.detach().clone();
        poisoned[3, 2] = float.NaN;

        var loss = objective.Loss(batch.Forward, poisoned.requires_grad_(), batch.TargetForward, batch.TargetBackward, batch.Done);
        loss.backward(); // and nothing ends the process

        Assert.True(float.IsNaN(loss.item<float>()));
        using var contrast = new InfoNceObjective(new());
        Assert.True(float.IsNaN(contrast.Loss(poisoned, batch.Backward).item<float>()));
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        var batch = new Batch(2, 20, 7, torch.float32);
        using var objective = new ForwardBackwardObjective(Options);
        void Refused<TException>(
            string message, Tensor? forward = null, Tensor? backward = null, Tensor? target = null, Tensor? done = null)
            where TException : Exception =>
            Assert.Contains(message, Assert.Throws<TException>(() => objective.Loss(
                forward ?? batch.Forward, backward ?? batch.Backward, target ?? batch.TargetForward, batch.TargetBackward,
                done ?? batch.Done)).Message, StringComparison.Ordinal);

        Refused<ArgumentException>("is not of rank 3", forward: batch.Backward);
        Refused<ArgumentException>("Backward: float32[19, 7]", backward: batch.Backward.narrow(0, 0, 19));
        Refused<ArgumentException>("Backward: float64[20, 7]", backward: batch.Backward.to(torch.float64));
        Refused<ArgumentException>("TargetForward: float32[1, 20, 7]", target: batch.TargetForward.narrow(0, 0, 1));
        Refused<ArgumentException>("Done: float32[20]", done: batch.Done.to(torch.float32));
        Refused<ArgumentException>("Done: bool[19]", done: batch.Done.narrow(0, 0, 19));
        Refused<ArgumentException>("is not of rank 3", forward: torch.tensor(1f));
        var gone = torch.randn(20, 7);
        gone.Dispose();
        Refused<ObjectDisposedException>("backward was disposed", backward: gone);
        Assert.Throws<ArgumentNullException>(
            () => objective.Loss(batch.Forward, null!, batch.TargetForward, batch.TargetBackward, batch.Done));
        Assert.Throws<ArgumentOutOfRangeException>(() => new ForwardBackwardObjective(Options with { Discount = 1 }));
        Assert.Throws<ArgumentNullException>(() => new ForwardBackwardObjective(null!));
        Assert.Throws<InvalidOperationException>(() => objective.Terms);
        objective.Backend = AuxBackend.Ilgpu;
        Refused<BackendUnavailableException>("");

        using var contrast = new InfoNceObjective(new());
        Assert.Throws<ArgumentException>(() => contrast.Loss(torch.randn(4, 3), torch.randn(4, 2)));
        Assert.Throws<ArgumentException>(() => contrast.Loss(torch.randn(4), torch.randn(4)));
        Assert.Throws<ArgumentException>(() => contrast.Loss(torch.randn(1, 3), torch.randn(1, 3)));
        Assert.Throws<ObjectDisposedException>(() => contrast.Loss(gone, torch.randn(20, 7)));
        Assert.Throws<ArgumentNullException>(() => contrast.Loss(null!, torch.randn(20, 7)));
        Assert.Throws<ArgumentOutOfRangeException>(() => new InfoNceObjective(new() { Temperature = 0 }));
        Assert.Throws<InvalidOperationException>(() => contrast.Terms);
    }

    [Fact]
    public void Losses_leave_no_tensors_behind()
    {
        using var scope = torch.NewDisposeScope();
        var batch = new Batch(2, 20, 7, torch.float32);
        using var objective = new ForwardBackwardObjective(Options);
        using var contrast = new InfoNceObjective(new());
        void Step()
        {
            using var step = torch.NewDisposeScope();
            objective.Loss(batch.Forward, batch.Backward, batch.TargetForward, batch.TargetBackward, batch.Done).backward();
            contrast.Loss(batch.Backward, batch.TargetBackward).backward();
        }

        Step(); // from here on the objectives have their terms, and the leaves their gradients
        _ = (batch.Forward.grad, batch.Backward.grad);
        TensorLeaks.None(Step);
    }

    private sealed class Batch
    {
        public Batch(int heads, int n, int d, torch.ScalarType type)
        {
            torch.manual_seed(n);
            Forward = torch.randn(heads, n, d, dtype: type, requires_grad: true);
            Backward = torch.randn(n, d, dtype: type, requires_grad: true);
            TargetForward = torch.randn(heads, n, d, dtype: type);
            TargetBackward = torch.randn(n, d, dtype: type);
            Done = torch.rand(n) < 0.2;
        }

        public Tensor Forward { get; }

        public Tensor Backward { get; }

        public Tensor TargetForward { get; }

        public Tensor TargetBackward { get; }

        public Tensor Done { get; }

        public void ZeroGradients() => (Forward.grad, Backward.grad) = (null, null);

        // With n × n matrices, in the words of the paper's code.
        public Tensor Published(FbTarget target)
        {
            var (heads, n) = (Forward.shape[0], Forward.shape[1]);
            var targets = torch.matmul(TargetForward, TargetBackward.t());
            var one = target == FbTarget.Mean ? targets.mean([0]) : torch.minimum(targets[0], targets[1]);
            one = (Options.Discount * (1 - Done.to(Forward.dtype))).unsqueeze(1) * one;
            var offDiagonal = 1 - torch.eye(n, dtype: Forward.dtype);
            var difference = torch.matmul(Forward, Backward.t()) - one;
            var covariance = torch.matmul(Backward, Backward.t());
            var pairs = n * (n - 1.0);
            return 0.5 * (difference * offDiagonal).pow(2).sum() / pairs - difference.diagonal(0, 1, 2).mean() * heads
                + Options.Orthonormality * (0.5 * (covariance * offDiagonal).pow(2).sum() / pairs - covariance.diagonal().mean());
        }
    }
}
