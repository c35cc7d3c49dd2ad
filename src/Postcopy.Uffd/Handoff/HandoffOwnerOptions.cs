using Microsoft.Extensions.Logging;

namespace Postcopy.Uffd;

/// <summary>How a VMM process has its faults served by another.</summary>
public sealed record HandoffOwnerOptions
{
    /// <summary>How the userfaultfd is opened. A KVM guest needs one that handles faults of kernel mode (hazard H22).</summary>
    public UffdOpenOptions Open { get; init; } = new();

    /// <summary>How long a handler may take to answer; the default is 5 s.</summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>
    /// A handler that shows no sign of life for so long is killed and counts as hung; the default is 5 s, and
    /// <see cref="Timeout.InfiniteTimeSpan"/> waits for ever. It shows one every 100 ms from a thread of its own.
    /// </summary>
    public TimeSpan HandlerTimeout { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>Where it logs; null logs nothing.</summary>
    public ILoggerFactory? LoggerFactory { get; init; }

    internal void Validate()
    {
        if (Patience <= TimeSpan.Zero)
        {
            throw new ArgumentOutOfRangeException(nameof(Patience), Patience, "A handler gets more than 0 for its answer.");
        }

        if (HandlerTimeout < TimeSpan.FromMilliseconds(500) && HandlerTimeout != Timeout.InfiniteTimeSpan)
        {
            throw new ArgumentOutOfRangeException(nameof(HandlerTimeout), HandlerTimeout, "A handler shows life every 100 ms, on a busy host later: give it 500 ms or more.");
        }
    }
}
