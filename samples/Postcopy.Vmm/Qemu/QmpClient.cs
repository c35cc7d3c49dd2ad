using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Qemu;

/// <summary>QEMU's monitor, as far as a migration needs it: one command at a time.</summary>
internal sealed class QmpClient : IDisposable
{
    private readonly StreamReader _reader;
    private readonly Stream _stream;

    private QmpClient(Stream stream)
    {
        _stream = stream;
        _reader = new StreamReader(stream, Encoding.UTF8);
    }

    internal static async Task<QmpClient> ConnectAsync(string path, CancellationToken cancellationToken)
    {
        Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancellationToken);
        QmpClient client = new(new NetworkStream(socket, ownsSocket: true));
        _ = await client._reader.ReadLineAsync(cancellationToken);
        _ = await client.ExecuteAsync("qmp_capabilities", null, cancellationToken);
        return client;
    }

    /// <summary>Runs a command and gives its result.</summary>
    /// <exception cref="VmmException">QEMU answered with an error.</exception>
    internal async Task<JsonNode?> ExecuteAsync(string command, JsonNode? arguments = null, CancellationToken cancellationToken = default)
    {
        JsonObject message = new() { ["execute"] = command };
        if (arguments is not null)
        {
            message["arguments"] = arguments;
        }

        await _stream.WriteAsync(Encoding.UTF8.GetBytes(message.ToJsonString() + "\n"), cancellationToken);
        while (true)
        {
            string line = await _reader.ReadLineAsync(cancellationToken)
                ?? throw new VmmException($"QEMU closed its monitor at '{command}'.");
            JsonNode answer = JsonNode.Parse(line)!;
            if (answer["error"] is { } error)
            {
                throw new VmmException($"QEMU refuses '{command}': {error["desc"]}");
            }

            if (answer.AsObject().TryGetPropertyValue("return", out JsonNode? result))
            {
                return result;
            }
        }
    }

    /// <summary>QEMU's word for where the migration stands.</summary>
    internal async Task<string> StatusAsync(CancellationToken cancellationToken = default) =>
        (await ExecuteAsync("query-migrate", null, cancellationToken))?["status"]?.GetValue<string>() ?? "none";

    /// <summary>Waits until the migration is in one of these states; which.</summary>
    internal async Task<string> WaitForStatusAsync(string[] wanted, CancellationToken cancellationToken)
    {
        using PeriodicTimer timer = new(TimeSpan.FromMilliseconds(20));
        string status = await StatusAsync(cancellationToken);
        while (!wanted.Contains(status))
        {
            _ = await timer.WaitForNextTickAsync(cancellationToken);
            status = await StatusAsync(cancellationToken);
        }

        return status;
    }

    /// <summary>
    /// Ends a migration in postcopy whose guest never ran at the destination, and lets it go on in QEMU. Only while the
    /// connection stands.
    /// </summary>
    internal async Task TakeGuestBackAsync(CancellationToken cancellationToken)
    {
        _ = await ExecuteAsync("migrate_cancel", null, cancellationToken);
        _ = await WaitForStatusAsync(["cancelled", "failed"], cancellationToken);
        _ = await ExecuteAsync("cont", null, cancellationToken);
    }

    public void Dispose()
    {
        _reader.Dispose();
        _stream.Dispose();
    }
}
