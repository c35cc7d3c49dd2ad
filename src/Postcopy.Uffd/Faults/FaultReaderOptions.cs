namespace Postcopy.Uffd;

/// <summary>The fault thread: one per virtual machine, reading all its descriptors.</summary>
public sealed record FaultReaderOptions
{
    /// <summary>
    /// The thread's nice value, -20 to 19; null leaves it. A reader that waits for a processor is stall time that no
    /// figure shows (hazard H27). Below 0 needs CAP_SYS_NICE; refused is logged, not fatal.
    /// </summary>
    public int? Nice { get; init; }

    /// <summary>SCHED_FIFO priority, 1 to 99; null leaves the thread alone. Needs CAP_SYS_NICE; refused is logged, not fatal.</summary>
    public int? FifoPriority { get; init; }

    /// <summary>Messages read by one system call, 1 to 1024.</summary>
    public int BatchSize { get; init; } = 64;

    internal void Validate()
    {
        if (BatchSize is < 1 or > 1024)
        {
            throw new ArgumentOutOfRangeException(nameof(BatchSize), BatchSize, "The fault thread reads 1 to 1024 messages by one system call.");
        }
    }
}
