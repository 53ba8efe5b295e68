using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests.Predictive;

/// <summary>The probe: closed forms of least squares.</summary>
[RequiresLibtorch]
public class LinearReadoutTests
{
    [Fact]
    public void What_is_linear_in_the_features_is_read_exactly()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        var features = torch.randn(50, 7, dtype: torch.float64);
        var (weights, offset) = (torch.randn(7, 3, dtype: torch.float64), torch.randn(3, dtype: torch.float64));
        var targets = features.mm(weights) + offset;

        using var readout = LinearReadout.Fit(features, targets);

        Assert.Equal(7, readout.Rank);
        Assert.InRange((readout.Weights - weights).abs().max().item<double>(), 0, 1e-13);
        Assert.InRange((readout.Intercept - offset).abs().max().item<double>(), 0, 1e-13);
        Assert.InRange((readout.Predict(features) - targets).abs().max().item<double>(), 0, 1e-13);
        Assert.Equal(1, readout.Explained(features, targets), 1e-12);
        Assert.InRange(readout.MeanSquaredError(features, targets), 0, 1e-25);
    }

    [Theory]
    [InlineData(0, false)]
    [InlineData(0, true)]
    [InlineData(2.5, false)]
    [InlineData(2.5, true)]
    public void Noise_and_ridge_give_the_solution_of_the_normal_equations(double ridge, bool intercept)
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(2);
        var features = torch.randn(40, 5, dtype: torch.float64) + 3;
        var targets = torch.randn(40, 2, dtype: torch.float64) + 1;

        using var readout = LinearReadout.Fit(features, targets, ridge, intercept);

        var (x, y) = intercept ? (features - features.mean([0]), targets - targets.mean([0])) : (features, targets);
        var expected = torch.linalg.solve(x.t().mm(x) + ridge * torch.eye(5, dtype: torch.float64), x.t().mm(y));
        Assert.InRange((readout.Weights - expected).abs().max().item<double>(), 0, 1e-12);
        if (intercept)
            Assert.InRange((readout.Predict(features) - targets).mean([0]).abs().max().item<double>(), 0, 1e-13);
        else
            Assert.Equal(0, readout.Intercept.abs().max().item<double>());

        // Least squares leave nothing along the features.
        var left = x.t().mm(targets - readout.Predict(features)) - ridge * readout.Weights;
        Assert.InRange(left.abs().max().item<double>(), 0, 1e-11);
    }

    [Fact]
    public void Features_that_repeat_get_the_weights_of_least_norm()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(3);
        var one = torch.randn(30, 2, dtype: torch.float64);
        var features = torch.cat([one, one, torch.ones(30, 1, dtype: torch.float64)], 1); // a constant says nothing beside an intercept
        var targets = one.mm(torch.tensor(new double[,] { { 2 }, { -4 } })) + 5;

        using var readout = LinearReadout.Fit(features, targets);

        Assert.Equal(2, readout.Rank);
        double[] expected = [1, -2, 1, -2, 0];
        for (var i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], readout.Weights[i, 0].item<double>(), 1e-12);
        Assert.Equal(5, readout.Intercept[0].item<double>(), 1e-12);
    }

    [Fact]
    public void More_features_than_rows_fit_the_rows()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(4);
        var (features, targets) = (torch.randn(10, 60, dtype: torch.float64), torch.randn(10, 1, dtype: torch.float64));
        using var readout = LinearReadout.Fit(features, targets, intercept: false);
        Assert.Equal(10, readout.Rank);
        Assert.InRange(readout.MeanSquaredError(features, targets), 0, 1e-24);
    }

    [Fact]
    public void Features_without_information_explain_nothing()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(5);
        var targets = torch.randn(2000, 1);
        using var constant = LinearReadout.Fit(torch.full([2000, 3], 7f), targets);
        Assert.Equal(0, constant.Rank);
        Assert.Equal(0, constant.Explained(torch.full([2000, 3], 7f), targets), 1e-12);
        Assert.Equal(targets.mean().item<float>(), constant.Intercept[0].item<double>(), 1e-6);

        using var noise = LinearReadout.Fit(torch.randn(2000, 3), targets);
        Assert.InRange(noise.Explained(torch.randn(2000, 3), targets), -0.02, 0.02);
        Assert.True(double.IsNaN(noise.Explained(torch.randn(5, 3), torch.ones(5, 1))));
    }

    [Fact]
    public void Float32_and_bfloat16_are_widened_and_history_is_cut()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(6);
        var features = torch.randn(50, 4, dtype: torch.bfloat16).requires_grad_();
        var targets = features.detach().to(torch.float32).sum([1], keepdim: true);
        using var readout = LinearReadout.Fit(features, targets);
        Assert.False(readout.Weights.requires_grad);
        Assert.Equal(torch.float64, readout.Weights.dtype);
        Assert.InRange((readout.Weights - 1).abs().max().item<double>(), 0, 1e-6); // the sum was rounded to float32
        Assert.False(readout.Predict(features).requires_grad);
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        var (features, targets) = (torch.randn(6, 3), torch.randn(6, 2));
        static void Refused<TException>(string message, Action action) where TException : Exception =>
            Assert.Contains(message, Assert.Throws<TException>(action).Message, StringComparison.Ordinal);

        Refused<ArgumentException>("features: Float32[6] is no matrix", () => LinearReadout.Fit(torch.randn(6), targets));
        Refused<ArgumentException>("features: Int64[6, 3]", () => LinearReadout.Fit(features.to(torch.int64), targets));
        Refused<ArgumentException>("features: Float32[0, 3] has no elements", () => LinearReadout.Fit(torch.randn(0, 3), targets));
        Refused<ArgumentException>("targets: Float32[5, 2] does not match [6, k]", () => LinearReadout.Fit(features, targets[..5]));
        Refused<ArgumentException>("targets: Float32[6]", () => LinearReadout.Fit(features, torch.randn(6)));
        Refused<ArgumentOutOfRangeException>("ridge", () => LinearReadout.Fit(features, targets, ridge: -1));
        Refused<ArgumentOutOfRangeException>("ridge", () => LinearReadout.Fit(features, targets, ridge: double.NaN));
        Refused<ArgumentNullException>("features", () => LinearReadout.Fit(null!, targets));
        Refused<ArgumentNullException>("targets", () => LinearReadout.Fit(features, null!));
        var poisoned = features.clone();
        poisoned[4, 1] = float.NaN;
        Refused<ArgumentException>("features: row 4", () => LinearReadout.Fit(poisoned, targets));
        Refused<ArgumentException>("targets: row 4", () => LinearReadout.Fit(features, poisoned));
        var gone = torch.randn(6, 3);
        gone.Dispose();
        Refused<ObjectDisposedException>("features was disposed", () => LinearReadout.Fit(gone, targets));

        var readout = LinearReadout.Fit(features, targets);
        Refused<ArgumentException>("does not match [m, 3]", () => readout.Predict(torch.randn(6, 4)));
        Refused<ArgumentException>("targets: Float32[6, 3]", () => readout.Explained(features, features));
        Assert.True(double.IsNaN(readout.MeanSquaredError(poisoned, targets)));
        readout.Dispose();
        Refused<ObjectDisposedException>("LinearReadout", () => readout.Predict(features));
    }

    [Fact]
    public void Nothing_is_left_behind()
    {
        using var scope = torch.NewDisposeScope();
        var (features, targets) = (torch.randn(6, 3), torch.randn(6, 2));
        TensorLeaks.None(() =>
        {
            using var readout = LinearReadout.Fit(features, targets);
            readout.Predict(features).Dispose();
            readout.Explained(features, targets);
            readout.MeanSquaredError(features, targets);
        });
    }
}
