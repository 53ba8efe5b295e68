using AuxCore.Kernels;

namespace AuxCore.Tests.Ema;

public class ThreadTeamTests
{
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(7)]
    public void Every_part_runs_once(int parts)
    {
        for (var repeat = 0; repeat < 200; repeat++)
        {
            var runs = new int[parts];
            ThreadTeam.Run(parts, part => Interlocked.Increment(ref runs[part]));
            Assert.All(runs, count => Assert.Equal(1, count));
        }
    }

    [Fact]
    public void Parts_run_on_several_threads_at_once()
    {
        using var barrier = new Barrier(3);

        // Passes only if three parts are under way together; another test may hold the team, which then runs parts one by one: try again.
        var met = Enumerable.Range(0, 50).Any(_ =>
        {
            var together = 0;
            ThreadTeam.Run(3, _ => Interlocked.Add(ref together, barrier.SignalAndWait(200) ? 1 : 0));
            return together == 3;
        });

        Assert.True(met);
    }

    [Fact]
    public void Callers_that_meet_a_busy_team_do_their_work_themselves()
    {
        var total = 0;

        Parallel.For(0, 8, _ =>
        {
            for (var i = 0; i < 100; i++)
                ThreadTeam.Run(3, _ => Interlocked.Increment(ref total));
        });

        Assert.Equal(8 * 100 * 3, total);
    }

    [Fact]
    public void A_job_may_start_a_job()
    {
        var total = 0;

        ThreadTeam.Run(2, _ => ThreadTeam.Run(2, _ => Interlocked.Increment(ref total)));

        Assert.Equal(4, total);
    }
}
