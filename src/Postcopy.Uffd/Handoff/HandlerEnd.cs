namespace Postcopy.Uffd;

/// <summary>Why a handler serves no more, as the owner sees it.</summary>
public enum HandlerEnd
{
    /// <summary>Every page is there; the owner may complete.</summary>
    NothingMissing = 1,

    /// <summary>Its process has ended.</summary>
    Died,

    /// <summary>It showed no sign of life for <see cref="HandoffOwnerOptions.HandlerTimeout"/> and was killed.</summary>
    Hung,

    /// <summary>It closed the connection and lives on.</summary>
    Closed,

    /// <summary>The owner closed the connection.</summary>
    ClosedHere,
}
