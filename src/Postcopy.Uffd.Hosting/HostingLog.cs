using Microsoft.Extensions.Logging;

namespace Postcopy.Uffd.Hosting;

/// <summary>Every log message of the hosting package.</summary>
internal static partial class HostingLog
{
    [LoggerMessage(EventId = 200, EventName = "Listening", Level = LogLevel.Information, Message = "Waiting for a source on {Address}")]
    internal static partial void Listening(ILogger logger, string address);

    [LoggerMessage(EventId = 201, EventName = "Received", Level = LogLevel.Information, Message = "The guest is here: {Bytes} bytes, complete {Duration} after the switch")]
    internal static partial void Received(ILogger logger, long bytes, TimeSpan duration);

    [LoggerMessage(EventId = 202, EventName = "GivenUp", Level = LogLevel.Warning, Message = "The host stops; the migration is given up in state {State}")]
    internal static partial void GivenUp(ILogger logger, PostcopyState state);

    [LoggerMessage(EventId = 203, EventName = "MigrationFailed", Level = LogLevel.Critical, Message = "The migration failed")]
    internal static partial void Failed(ILogger logger, Exception why);

    [LoggerMessage(EventId = 204, EventName = "GuestFailed", Level = LogLevel.Error, Message = "The guest's Failed member threw")]
    internal static partial void GuestFailed(ILogger logger, Exception why);

    [LoggerMessage(EventId = 205, EventName = "Refused", Level = LogLevel.Warning, Message = "A connection was refused: {Why}")]
    internal static partial void Refused(ILogger logger, string why);
}
