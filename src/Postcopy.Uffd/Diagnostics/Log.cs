using Microsoft.Extensions.Logging;

namespace Postcopy.Uffd;

/// <summary>Every log message of the core, control path only; the fault thread logs nothing.</summary>
internal static partial class Log
{
    [LoggerMessage(EventId = 1, EventName = "StateChanged", Level = LogLevel.Information, Message = "Postcopy went from {From} to {To}")]
    internal static partial void StateChanged(ILogger logger, PostcopyState from, PostcopyState to);

    [LoggerMessage(EventId = 2, EventName = "Paused", Level = LogLevel.Warning, Message = "The link to the source is down: {Why}")]
    internal static partial void Paused(ILogger logger, string why);

    [LoggerMessage(EventId = 3, EventName = "Completed", Level = LogLevel.Information,
        Message = "Postcopy complete: {Bytes} bytes in {Duration}, {Requests} pages asked for by faults")]
    internal static partial void Completed(ILogger logger, long bytes, TimeSpan duration, long requests);

    [LoggerMessage(EventId = 4, EventName = "Failed", Level = LogLevel.Critical, Message = "Postcopy failed; missing pages stay missing")]
    internal static partial void Failed(ILogger logger, Exception why);

    [LoggerMessage(EventId = 5, EventName = "Stalled", Level = LogLevel.Warning,
        Message = "The page at offset {Offset} of RAM block {Block} has been open for {Age}")]
    internal static partial void Stalled(ILogger logger, string block, long offset, TimeSpan age);

    [LoggerMessage(EventId = 6, EventName = "Poisoned", Level = LogLevel.Error, Message = "Closed with {Missing} pages poisoned: {What}")]
    internal static partial void Poisoned(ILogger logger, long missing, string what);

    [LoggerMessage(EventId = 7, EventName = "Frozen", Level = LogLevel.Error,
        Message = "Closed with {Missing} pages missing; whoever touches one waits for ever: {What}")]
    internal static partial void Frozen(ILogger logger, long missing, string what);

    [LoggerMessage(EventId = 8, EventName = "UserModeOnly", Level = LogLevel.Warning,
        Message = "Only faults of user mode are handled: accesses by KVM and by system calls to missing pages fail (hazard H22)")]
    internal static partial void UserModeOnly(ILogger logger);

    [LoggerMessage(EventId = 9, EventName = "NoThreadIds", Level = LogLevel.Warning,
        Message = "This kernel names no thread in its fault messages (Linux 4.14); blocktime per vCPU cannot be computed")]
    internal static partial void NoThreadIds(ILogger logger);

    [LoggerMessage(EventId = 10, EventName = "PriorityRefused", Level = LogLevel.Warning,
        Message = "The fault thread could not get {What} {Value} (errno {Errno}); it needs CAP_SYS_NICE")]
    internal static partial void PriorityRefused(ILogger logger, string what, int value, int errno);

    [LoggerMessage(EventId = 11, EventName = "LockFailed", Level = LogLevel.Error,
        Message = "RAM block {Block} could not be locked (errno {Errno}); raise RLIMIT_MEMLOCK")]
    internal static partial void LockFailed(ILogger logger, string block, int errno);

    [LoggerMessage(EventId = 13, EventName = "UnregisterFailed", Level = LogLevel.Warning,
        Message = "RAM block {Block} could not be unregistered at {Range}; was it unmapped?")]
    internal static partial void UnregisterFailed(ILogger logger, string block, AddressRange range, Exception why);

    [LoggerMessage(EventId = 12, EventName = "CallbackFailed", Level = LogLevel.Error, Message = "The callback {Callback} threw")]
    internal static partial void CallbackFailed(ILogger logger, string callback, Exception why);

    [LoggerMessage(EventId = 20, EventName = "StuckFaults", Level = LogLevel.Error,
        Message = "The kernel held {Threads} threads on faults that were stuck ({Kind}): waiters were woken, or the fault thread kicked. Does somebody else read the descriptor, or place without waking?")]
    internal static partial void StuckFaults(ILogger logger, long threads, StuckFaultKind kind);

    [LoggerMessage(EventId = 21, EventName = "HandoffAccepted", Level = LogLevel.Information,
        Message = "Process {Process} handed over {Blocks} blocks of {Bytes} bytes (Firecracker: {Firecracker})")]
    internal static partial void HandoffAccepted(ILogger logger, int process, int blocks, long bytes, bool firecracker);

    [LoggerMessage(EventId = 22, EventName = "HandoffRefused", Level = LogLevel.Warning, Message = "A hand-over was refused: {Why}")]
    internal static partial void HandoffRefused(ILogger logger, string why);

    [LoggerMessage(EventId = 23, EventName = "HandoffSessionEnded", Level = LogLevel.Information, Message = "The memory of process {Process} is served no more: {Why}")]
    internal static partial void HandoffSessionEnded(ILogger logger, int process, HandoffSessionEnd why);

    [LoggerMessage(EventId = 24, EventName = "HandoffSessionFailed", Level = LogLevel.Critical, Message = "The memory of process {Process} cannot be served")]
    internal static partial void HandoffSessionFailed(ILogger logger, int process, Exception why);

    [LoggerMessage(EventId = 25, EventName = "HandedOver", Level = LogLevel.Information, Message = "{Missing} missing bytes are served by handler number {Generation} at {Path}")]
    internal static partial void HandedOver(ILogger logger, long missing, long generation, string path);

    [LoggerMessage(EventId = 26, EventName = "HandlerEnded", Level = LogLevel.Warning, Message = "The handler is no more ({Why}); {Missing} bytes are missing, and who touches them waits for the next one")]
    internal static partial void HandlerEnded(ILogger logger, HandlerEnd why, long missing);

    [LoggerMessage(EventId = 27, EventName = "NoHandler", Level = LogLevel.Warning, Message = "No handler could be had: {Why}")]
    internal static partial void NoHandler(ILogger logger, string why);
}
