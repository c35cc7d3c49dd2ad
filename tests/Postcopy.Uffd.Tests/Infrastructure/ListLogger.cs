using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>Keeps what is logged, one line each: level and message.</summary>
internal sealed class ListLogger : ILoggerFactory, ILogger
{
    private readonly ConcurrentQueue<(string Line, string? Thread)> _entries = new();

    internal IEnumerable<string> Lines => _entries.Select(e => e.Line);

    /// <summary>The names of the threads that logged lines with this text.</summary>
    internal IEnumerable<string?> ThreadsOf(string text) =>
        _entries.Where(e => e.Line.Contains(text, StringComparison.Ordinal)).Select(e => e.Thread).Distinct();

    public ILogger CreateLogger(string categoryName) => this;

    public void AddProvider(ILoggerProvider provider)
    {
    }

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => true;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
        _entries.Enqueue(($"{logLevel} {formatter(state, exception)}", Thread.CurrentThread.Name));

    public void Dispose()
    {
    }
}
