namespace Postcopy.Handler;

/// <summary>What the command line asks for.</summary>
internal sealed record HandlerOptions
{
    internal required string Socket { get; init; }

    internal required string Image { get; init; }

    internal int Workers { get; init; } = 1;

    internal bool Fill { get; init; }

    internal bool Keep { get; init; }

    internal bool FailOnCollection { get; init; }

    internal bool Firecracker { get; init; }
}
