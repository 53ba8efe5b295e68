namespace AuxCore.Models;

/// <summary>The games of an <see cref="ArcadeEnvironment"/>. The channels of their observations are listed in this order.</summary>
public enum ArcadeGame
{
    /// <summary>A ball, a paddle, three rows of bricks. Channels: paddle, ball, the ball's last cell, brick.</summary>
    Breakout,

    /// <summary>Gold to collect, enemies to avoid, which cross the grid. Channels: player, enemy, cell behind each, gold.</summary>
    Asterix,

    /// <summary>
    /// A road of eight lanes to cross; an episode has 2,501 steps. Channels: chicken, car, and one a speed for the cell behind each car.
    /// </summary>
    Freeway,

    /// <summary>
    /// A submarine that shoots, saves divers and needs air. Channels: its front, its back, own bullet, cell behind each that swims, enemy
    /// bullet, fish, enemy submarine, oxygen, divers aboard, diver.
    /// </summary>
    Seaquest,

    /// <summary>
    /// Waves of aliens. Channels: cannon, alien, alien of a wave that moves left, of one that moves right, own bullet, enemy bullet.
    /// </summary>
    SpaceInvaders,
}
