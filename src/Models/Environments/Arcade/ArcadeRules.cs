using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// The rules of one game for many lanes, whose states lie side by side in one array. x goes right and y down, from 0 to 9. Timers are
/// tested before they are decremented, at the end of a step, unless a game says otherwise.
/// </summary>
internal abstract class ArcadeRules(int channels)
{
    public const int Size = 10, Cells = Size * Size, LastCell = Size - 1;
    public const int None = 0, Left = 1, Up = 2, Right = 3, Down = 4, Fire = 5, Actions = 6;

    /// <summary>How many planes an observation has.</summary>
    public int Channels { get; } = channels;

    /// <summary>Begins an episode.</summary>
    public abstract void Start(int lane, ref LaneRandom random);

    /// <summary>One step by an action that was executed, so after what makes actions stick.</summary>
    /// <returns>The reward, and whether the episode is over.</returns>
    public abstract (int Reward, bool Ends) Step(int lane, int action, ref LaneRandom random);

    /// <summary>Sets the bits of an observation, which are 0 before.</summary>
    public abstract void Observe(int lane, Picture picture);

    /// <summary>The rules of a game.</summary>
    public static ArcadeRules Of(ArcadeGame game, int lanes, bool ramping) => game switch
    {
        ArcadeGame.Breakout => new Breakout(lanes),
        ArcadeGame.Asterix => new Asterix(lanes, ramping),
        ArcadeGame.Freeway => new Freeway(lanes),
        ArcadeGame.Seaquest => new Seaquest(lanes, ramping),
        ArcadeGame.SpaceInvaders => new SpaceInvaders(lanes, ramping),
        _ => throw new ArgumentOutOfRangeException(nameof(game), game, "Not a game."),
    };

    /// <summary>x after an action; it stays on the grid.</summary>
    protected static int MoveX(int x, int action) => action switch
    {
        Left => Math.Max(0, x - 1),
        Right => Math.Min(LastCell, x + 1),
        _ => x,
    };

    /// <summary>y after an action; it stays within some rows.</summary>
    protected static int MoveY(int y, int action, int first, int last) => action switch
    {
        Up => Math.Max(first, y - 1),
        Down => Math.Min(last, y + 1),
        _ => y,
    };
}

/// <summary>A lane's stream of random numbers: a function of seed, lane and how many were drawn before.</summary>
internal struct LaneRandom(ulong key, uint lane)
{
    private const uint Purpose = 3; // the counter's last word; ArcadeEnvironment has others

    private ulong _draws;

    /// <summary>Uniform below a limit.</summary>
    public int Below(int limit) => (int)((ulong)Next() * (uint)limit >> 32);

    /// <summary>True with a probability.</summary>
    public bool Chance(double probability) => Next() < probability * (1UL << 32);

    /// <summary>Heads or tails, as a direction: −1 or +1.</summary>
    public int Sign() => 2 * Below(2) - 1;

    private uint Next()
    {
        var block = Philox.Block((uint)_draws, (uint)(_draws >> 32), lane, Purpose, key);
        _draws++;
        return (uint)block.Low;
    }
}

/// <summary>An observation as bits: channel · 100 + y · 10 + x, the lowest bit of a byte first.</summary>
internal readonly ref struct Picture(Span<byte> bits)
{
    private readonly Span<byte> _bits = bits;

    /// <summary>Sets a cell.</summary>
    public void Set(int channel, int x, int y)
    {
        var at = channel * ArcadeRules.Cells + y * ArcadeRules.Size + x;
        _bits[at >> 3] |= (byte)(1 << (at & 7));
    }

    /// <summary>Sets a cell, where it is on the grid.</summary>
    public void SetIfInside(int channel, int x, int y)
    {
        if ((uint)x < ArcadeRules.Size)
            Set(channel, x, y);
    }

    /// <summary>Sets the cells of a map.</summary>
    public void Set(int channel, in GridBits map)
    {
        for (var y = 0; y < ArcadeRules.Size; y++)
        {
            for (var row = (uint)map[y]; row != 0; row &= row - 1)
                Set(channel, System.Numerics.BitOperations.TrailingZeroCount(row), y);
        }
    }
}

/// <summary>A set of cells: a row is ten bits, x = 0 the lowest.</summary>
[InlineArray(ArcadeRules.Size)]
internal struct GridBits
{
    public const ushort FullRow = (1 << ArcadeRules.Size) - 1;

    private ushort _row;

    public readonly bool Has(int x, int y) => (this[y] >> x & 1) != 0;

    public void Add(int x, int y) => this[y] |= (ushort)(1 << x);

    public void Remove(int x, int y) => this[y] &= (ushort)~(1 << x);

    public readonly int Count()
    {
        var count = 0;
        foreach (var row in this)
            count += System.Numerics.BitOperations.PopCount(row);
        return count;
    }

    /// <summary>All cells one row up; the first row is lost.</summary>
    public void MoveUp()
    {
        for (var y = 1; y < ArcadeRules.Size; y++)
            this[y - 1] = this[y];
        this[ArcadeRules.LastCell] = 0;
    }

    /// <summary>All cells one row down; the last row is lost.</summary>
    public void MoveDown()
    {
        for (var y = ArcadeRules.LastCell; y > 0; y--)
            this[y] = this[y - 1];
        this[0] = 0;
    }
}

/// <summary>Something that swims or flies along its row.</summary>
internal struct Mover
{
    public sbyte X, Y, Direction, Timer, ShotTimer;

    public readonly bool IsAt(int x, int y) => X == x && Y == y;

    public readonly bool IsOutside => (uint)X >= ArcadeRules.Size;
}

/// <summary>Movers in the order in which they came.</summary>
internal struct MoverList
{
    /// <summary>More than can be on the grid: one comes a step at most and is gone after ten moves, a move each six steps.</summary>
    public const int Capacity = 64;

    private Items _items;

    public int Count { get; private set; }

    [UnscopedRef]
    public ref Mover this[int index] => ref _items[index];

    public void Add(Mover mover)
    {
        if (Count < Capacity)
            _items[Count++] = mover;
    }

    public void RemoveAt(int index)
    {
        Count--;
        for (var i = index; i < Count; i++)
            _items[i] = _items[i + 1];
    }

    /// <summary>Removes the newest of those in a cell.</summary>
    public bool RemoveFrom(int x, int y)
    {
        for (var i = Count - 1; i >= 0; i--)
        {
            if (!_items[i].IsAt(x, y))
                continue;
            RemoveAt(i);
            return true;
        }

        return false;
    }

    [InlineArray(Capacity)]
    private struct Items
    {
        private Mover _first;
    }
}
