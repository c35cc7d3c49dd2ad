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

    /// <summary>
    /// How long the thread looks for the next message before it sleeps, once the messages come that close to each other: a
    /// sleeping thread costs each fault two wake-ups (about 50 us here). From zero, which always sleeps, to 1 ms, or
    /// <see cref="Timeout.InfiniteTimeSpan"/>, which never does and keeps a processor busy. The default is 100 us.
    /// </summary>
    /// <remarks>
    /// Without faults nothing is spent. A look in vain is followed by sleep until messages are close again, and such looks
    /// take at most a tenth of a processor. Always sleeps where there is one processor: the vCPU needs it.
    /// </remarks>
    public TimeSpan SpinLimit { get; init; } = TimeSpan.FromTicks(1000);

    /// <summary>Messages read by one system call, 1 to 1024.</summary>
    public int BatchSize { get; init; } = 64;

    internal void Validate()
    {
        if (Nice is < -20 or > 19)
        {
            throw new ArgumentOutOfRangeException(nameof(Nice), Nice, "A nice value is -20 (first) to 19 (last); null leaves the fault thread's alone.");
        }

        if (FifoPriority is < 1 or > 99)
        {
            throw new ArgumentOutOfRangeException(nameof(FifoPriority), FifoPriority, "A SCHED_FIFO priority is 1 (last) to 99 (first); null leaves the fault thread in its class.");
        }

        if (BatchSize is < 1 or > 1024)
        {
            throw new ArgumentOutOfRangeException(nameof(BatchSize), BatchSize, "The fault thread reads 1 to 1024 messages by one system call.");
        }

        if (SpinLimit != Timeout.InfiniteTimeSpan && (SpinLimit < TimeSpan.Zero || SpinLimit > TimeSpan.FromMilliseconds(1)))
        {
            throw new ArgumentOutOfRangeException(nameof(SpinLimit), SpinLimit, "The fault thread spins for 0 to 1 ms, or for ever (Timeout.InfiniteTimeSpan).");
        }
    }
}
