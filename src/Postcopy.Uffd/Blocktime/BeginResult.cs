namespace Postcopy.Uffd;

/// <summary>The answer to <see cref="BlocktimeTracker.Begin"/>: what the message meant, and the episode it opened.</summary>
public readonly struct BeginResult : IEquatable<BeginResult>
{
    internal BeginResult(BeginKind kind, BlocktimeTicket ticket)
    {
        Kind = kind;
        Ticket = ticket;
    }

    /// <summary>What the message meant.</summary>
    public BeginKind Kind { get; }

    /// <summary>
    /// The episode to confirm or cancel; none for a duplicate, and none when a full table left the episode
    /// unmeasured (the report counts those).
    /// </summary>
    public BlocktimeTicket Ticket { get; }

    /// <inheritdoc/>
    public bool Equals(BeginResult other) => Kind == other.Kind && Ticket == other.Ticket;

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is BeginResult other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => unchecked((Ticket.GetHashCode() * 3) + (int)Kind);

    /// <summary>Whether kind and ticket agree.</summary>
    public static bool operator ==(BeginResult left, BeginResult right) => left.Equals(right);

    /// <summary>Whether kind or ticket differ.</summary>
    public static bool operator !=(BeginResult left, BeginResult right) => !left.Equals(right);
}
