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

    public void Dispose()
    {
        _reader.Dispose();
        _stream.Dispose();
    }
}
