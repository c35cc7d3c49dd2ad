using System.CommandLine;
using System.Globalization;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Destination;

/// <summary>
/// The embedded source, in a process of its own: holds the seeded guest and speaks QEMU's migration stream, so that a
/// real QEMU can take its place. Started by the destination; hidden from help.
/// </summary>
internal static class SourceMain
{
    internal const string CommandName = "embedded-source";

    internal static Command Build()
    {
        Option<string> connect = new("--connect") { Required = true };
        Option<long> memory = new("--memory") { Required = true };
        Option<long> pageBytes = new("--page-bytes") { Required = true };
        Option<long> seed = new("--seed") { Required = true };
        Option<long> bandwidth = new("--bandwidth") { Required = true };
        Option<bool> preempt = new("--preempt");
        Command command = new(CommandName, "The embedded source") { connect, memory, pageBytes, seed, bandwidth, preempt };
        command.Hidden = true;
        command.SetAction((parsed, cancellation) => RunAsync(
            parsed.GetValue(connect)!,
            new SeededMemory(parsed.GetValue(seed), parsed.GetValue(memory), new PageSize(parsed.GetValue(pageBytes))),
            new QemuSourceOptions
            {
                MachineType = "none",
                BackgroundBandwidth = parsed.GetValue(bandwidth),
                Preempt = parsed.GetValue(preempt) ? QemuPreemptMode.AtSwitch : QemuPreemptMode.None,
            },
            cancellation));
        return command;
    }

    internal static IEnumerable<string> Arguments(Endpoint endpoint, DestinationOptions options) =>
    [
        CommandName, "--connect", endpoint.ToString(), "--memory", Text(options.MemoryBytes), "--page-bytes", Text(options.PageSize.Bytes),
        "--seed", Text(options.Seed), "--bandwidth", Text(options.Bandwidth), .. options.Preempt ? ["--preempt"] : Array.Empty<string>(),
    ];

    private static async Task<int> RunAsync(string connect, SeededMemory memory, QemuSourceOptions options, CancellationToken cancellation)
    {
        // Ctrl-C reaches the whole foreground group; the destination decides, and its end closes our socket.
        bool interrupted = false;
        using PosixSignalRegistration ignore = PosixSignalRegistration.Create(PosixSignal.SIGINT, context => context.Cancel = interrupted = true);
        if (!Endpoint.TryParse(connect, out Endpoint? endpoint, out string allowed))
        {
            await Console.Error.WriteLineAsync($"--connect: '{connect}' is not allowed; give {allowed}.");
            return CommandLine.UsageError;
        }

        await using QemuSource source = new(memory, options);
        QemuSourceState end = await source.RunAsync(Connect(endpoint!), options.Preempt == QemuPreemptMode.None ? null : () => Connect(endpoint!), cancellation);
        if (end == QemuSourceState.Completed)
        {
            return 0;
        }

        if (!Volatile.Read(ref interrupted))
        {
            await Console.Error.WriteLineAsync($"embedded source: {end}, {source.Error?.Message}");
        }

        return 1;
    }

    private static MigrationChannel Connect(Endpoint endpoint)
    {
        Socket socket = endpoint.CreateSocket();
        socket.Connect(endpoint.Address);
        return MigrationChannel.FromSocket(socket);
    }

    private static string Text(long value) => value.ToString(CultureInfo.InvariantCulture);
}
