namespace AuxCore.Models;

/// <summary>What becomes of the positions of tokens that are kept.</summary>
public enum PositionMode
{
    /// <summary>They stay as they were, with gaps: FastV. Keys that were rotated with them stay valid.</summary>
    Keep,

    /// <summary>They are numbered anew from 0, without gaps: PyramidDrop. Keys that were rotated before have to be turned.</summary>
    Renumber,
}
