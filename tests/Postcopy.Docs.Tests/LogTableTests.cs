using System.Reflection;
using Microsoft.Extensions.Logging;
using Postcopy.Uffd;
using Postcopy.Uffd.Hosting;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Docs.Tests;

/// <summary>docs/observability.md has every log message, and no other.</summary>
public sealed class LogTableTests
{
    [Fact]
    public void TheTableIsWhatTheCodeLogs()
    {
        string[] code =
        [
            .. new[] { typeof(PostcopyDestination), typeof(QemuIncoming), typeof(PostcopyReceiver) }.SelectMany(package => package.Assembly.GetTypes()
                .SelectMany(t => t.GetMethods(BindingFlags.Static | BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public | BindingFlags.DeclaredOnly))
                .Select(m => m.GetCustomAttribute<LoggerMessageAttribute>())
                .OfType<LoggerMessageAttribute>()
                .Select(m => (m.EventId, Row: $"| {m.EventId} | {m.EventName} | {m.Level} | {package.Assembly.GetName().Name} | {m.Message} |")))
                .OrderBy(m => m.EventId)
                .Select(m => m.Row),
        ];
        Assert.True(code.Length > 20);
        Assert.Equal(code.Length, code.Select(row => row.Split('|')[1]).Distinct().Count());
        Assert.Equal(code.Length, code.Select(row => row.Split('|')[2]).Distinct().Count());
        Assert.Equal(code, Repository.Read("docs/observability.md").Split("## Log messages")[1].Split("## ")[0].Split('\n').Where(line => line.StartsWith("| ", StringComparison.Ordinal)).Skip(1));
    }
}
