using Microsoft.Extensions.Logging;

namespace Postcopy.Uffd;

/// <summary>How a handler process accepts guest memory.</summary>
public sealed record HandoffListenerOptions
{
    /// <summary>
    /// Where it listens: the path of a Unix socket, at most 107 bytes. The node is made with mode 0600, so only the same
    /// user and root can connect.
    /// </summary>
    public required string Path { get; init; }

    /// <summary>
    /// Other users whose processes may hand memory over, by user id. The same user and root always may; the kernel says
    /// who a peer is. The socket's mode must let them connect too: change it after the listener is made.
    /// </summary>
    public IReadOnlyCollection<uint> AllowedUsers { get; init; } = [];

    /// <summary>Accept this library's hand-over; the default is yes.</summary>
    public bool AcceptPostcopy { get; init; } = true;

    /// <summary>Accept Firecracker's handshake; the default is no. It has no take-over and no answer.</summary>
    public bool AcceptFirecracker { get; init; }

    /// <summary>How long a peer may take for its whole message; the default is 5 s.</summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>The fault thread of each session.</summary>
    public FaultReaderOptions FaultReader { get; init; } = new();

    /// <summary>How pages are placed.</summary>
    public PlacerOptions Placer { get; init; } = new();

    /// <summary>As <see cref="PostcopyOptions.StuckFaultCheck"/>.</summary>
    public TimeSpan StuckFaultCheck { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>Where the control path logs; null logs nothing.</summary>
    public ILoggerFactory? LoggerFactory { get; init; }

    internal void Validate()
    {
        FaultReader.Validate();
        PostcopyOptions.ValidateStuckFaultCheck(StuckFaultCheck, nameof(StuckFaultCheck));
        if (!AcceptPostcopy && !AcceptFirecracker)
        {
            throw new ArgumentException("A handler that accepts neither this library's hand-over nor Firecracker's handshake accepts nothing.", nameof(AcceptPostcopy));
        }

        if (Patience <= TimeSpan.Zero || Patience > TimeSpan.FromHours(1))
        {
            throw new ArgumentOutOfRangeException(nameof(Patience), Patience, "A peer gets more than 0 and at most 1 hour for its message.");
        }
    }
}
