using System.Diagnostics;
using Microsoft.Extensions.Logging;

namespace Postcopy.Destination;

/// <summary>The newest warning or error, of the library's log or of this program, for the live view.</summary>
internal sealed class LastProblem : ILoggerFactory, ILogger
{
    private volatile Entry? _last;

    /// <summary>What it was and how long ago; null without any.</summary>
    internal string? Text => _last is { } last ? FormattableString.Invariant($"{Stopwatch.GetElapsedTime(last.At).TotalSeconds:0} s ago: {last.Text}") : null;

    public ILogger CreateLogger(string categoryName) => this;

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException("It keeps one message and has no providers.");

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => logLevel >= LogLevel.Warning;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (IsEnabled(logLevel))
        {
            Note(formatter(state, exception));
        }
    }

    public void Dispose()
    {
    }

    internal void Note(string text) => _last = new Entry(text.ReplaceLineEndings(" "), Stopwatch.GetTimestamp());

    private sealed record Entry(string Text, long At);
}
