using AuxCore.Bench.Workloads;

namespace AuxCore.Tests.Bench;

[RequiresLibtorch]
public class SubspacesTests
{
    [Theory]
    [InlineData(0)]
    [InlineData(0.001)]
    [InlineData(30)]
    [InlineData(89)]
    [InlineData(90)]
    public void A_plane_that_is_tilted_has_that_angle(double degrees)
    {
        var (cos, sin) = (Math.Cos(degrees * Math.PI / 180), Math.Sin(degrees * Math.PI / 180));
        double[,] flat = { { 1, 0 }, { 0, 1 }, { 0, 0 } }, tilted = { { 1, 0 }, { 0, cos }, { 0, sin } };

        Assert.Equal(degrees, Subspaces.LargestAngle(flat, tilted), 1e-5);
        Assert.Equal(degrees, Subspaces.LargestAngle(tilted, flat), 1e-5);
    }

    [Fact]
    public void A_basis_that_was_turned_in_its_space_is_turned_back()
    {
        var (cos, sin) = (Math.Cos(0.7), Math.Sin(0.7));
        double[,] basis = { { 1, 0 }, { 0, 1 }, { 0, 0 } }, turned = { { cos, -sin }, { sin, cos }, { 0, 0 } };

        var back = Subspaces.Turned(turned, towards: basis);

        for (var row = 0; row < 3; row++)
        {
            for (var column = 0; column < 2; column++)
                Assert.Equal(basis[row, column], back[row, column], 1e-12);
        }
    }
}
