using AuxCore.Models;

namespace AuxCore.Tests.Environments;

/// <summary>One lane of a game whose state a test sets.</summary>
internal static class ArcadeLane
{
    public const int None = 0, Left = 1, Up = 2, Right = 3, Down = 4, Fire = 5;

    /// <summary>Begins an episode with the random numbers of a seed.</summary>
    public static LaneRandom Begin(this ArcadeRules rules, int seed = 1)
    {
        var random = new LaneRandom((ulong)seed, 0);
        rules.Start(0, ref random);
        return random;
    }

    /// <summary>Steps by one action after another; the rewards together, and whether the last of them ended the episode.</summary>
    public static (int Reward, bool Ends) Play(this ArcadeRules rules, params ReadOnlySpan<int> actions)
    {
        var random = new LaneRandom(99, 0);
        var (sum, over) = (0, false);
        foreach (var action in actions)
        {
            Assert.False(over, "The episode was over before.");
            (var reward, over) = rules.Step(0, action, ref random);
            sum += reward;
        }

        return (sum, over);
    }

    /// <summary>The cells that are on in a channel.</summary>
    public static (int X, int Y)[] Cells(this ArcadeRules rules, int channel)
    {
        var bits = new byte[ObservationBits.Bytes(rules.Channels * 100)];
        rules.Observe(0, new Picture(bits));
        return [.. Enumerable.Range(0, 100).Where(cell => IsOn(100 * channel + cell)).Select(cell => (cell % 10, cell / 10))];

        bool IsOn(int at) => (bits[at / 8] >> at % 8 & 1) != 0;
    }
}
