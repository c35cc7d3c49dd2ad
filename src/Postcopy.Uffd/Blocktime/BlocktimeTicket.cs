namespace Postcopy.Uffd;

/// <summary>Names one fault episode by slot and sequence number, so that a late party cannot touch the next one.</summary>
/// <remarks>The default value names no episode; every method accepts it and does nothing.</remarks>
public readonly struct BlocktimeTicket : IEquatable<BlocktimeTicket>
{
    internal BlocktimeTicket(int owner, long sequence)
    {
        OwnerPlusOne = owner + 1;
        Sequence = sequence;
    }

    /// <summary>Whether the ticket names no episode: a duplicate, or one that found every table full.</summary>
    public bool IsNone => OwnerPlusOne == 0;

    // Zero is "none", so that default(BlocktimeTicket) is harmless.
    // 1..MaxSlots name a vCPU slot, numbers above it an entry of the table of other threads.
    internal int OwnerPlusOne { get; }

    internal long Sequence { get; }

    /// <inheritdoc/>
    public bool Equals(BlocktimeTicket other) => OwnerPlusOne == other.OwnerPlusOne && Sequence == other.Sequence;

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is BlocktimeTicket other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => unchecked((OwnerPlusOne * 397) ^ (int)Sequence);

    /// <summary>Whether both name the same episode.</summary>
    public static bool operator ==(BlocktimeTicket left, BlocktimeTicket right) => left.Equals(right);

    /// <summary>Whether they name different episodes.</summary>
    public static bool operator !=(BlocktimeTicket left, BlocktimeTicket right) => !left.Equals(right);
}
