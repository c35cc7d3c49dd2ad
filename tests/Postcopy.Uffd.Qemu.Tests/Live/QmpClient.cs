using System.Net.Sockets;
using System.Text;
using System.Text.Json;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>QEMU's monitor protocol over a Unix socket: one command, one answer; events are passed over.</summary>
internal sealed class QmpClient : IDisposable
{
    private readonly Socket _socket;
    private readonly StreamReader _reader;

    internal QmpClient(string path)
    {
        _socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 20_000 };
        Assert.True(SpinWait.SpinUntil(() => TryConnect(path), TimeSpan.FromSeconds(20)), $"Nobody listens at {path}.");
        _reader = new StreamReader(new NetworkStream(_socket), Encoding.UTF8);
        _ = _reader.ReadLine();
        Execute("qmp_capabilities");
    }

    /// <summary>Runs a command; its "return" value.</summary>
    internal JsonElement Execute(string command, string arguments = "{}")
    {
        _socket.Send(Encoding.UTF8.GetBytes($"{{\"execute\": \"{command}\", \"arguments\": {arguments}}}\n"));
        while (true)
        {
            string line = _reader.ReadLine() ?? throw new IOException($"QEMU closed the monitor in {command}.");
            JsonElement answer = JsonDocument.Parse(line).RootElement;
            if (answer.TryGetProperty("return", out JsonElement value))
            {
                return value;
            }

            if (answer.TryGetProperty("error", out JsonElement error))
            {
                throw new InvalidOperationException($"{command}: {error.GetProperty("desc").GetString()}");
            }
        }
    }

    /// <summary>The socket's file is there before QEMU listens on it.</summary>
    private bool TryConnect(string path)
    {
        try
        {
            _socket.Connect(new UnixDomainSocketEndPoint(path));
            return true;
        }
        catch (SocketException e) when (e.SocketErrorCode is SocketError.ConnectionRefused or SocketError.AddressNotAvailable)
        {
            return false;
        }
    }

    internal string MigrationStatus() =>
        Execute("query-migrate").TryGetProperty("status", out JsonElement status) ? status.GetString()! : "none";

    internal void WaitForStatus(string wanted)
    {
        string last = "";
        Assert.True(
            SpinWait.SpinUntil(
                () =>
                {
                    Thread.Sleep(10);
                    return (last = MigrationStatus()) == wanted;
                },
                TimeSpan.FromSeconds(20)),
            $"the source is '{last}', not '{wanted}': {Execute("query-migrate")}\n{Threads()}");
    }

    /// <summary>Where the kernel holds each thread of the process on the other side.</summary>
    private string Threads()
    {
        int process = ProcessId;
        return string.Join(
            '\n',
            Directory.EnumerateDirectories($"/proc/{process}/task").Select(task => $"{Path.GetFileName(task)} {Text(task, "comm")} in {Text(task, "wchan")} syscall {Text(task, "syscall")}"));

        static string Text(string task, string name)
        {
            try
            {
                return File.ReadAllText(Path.Combine(task, name)).Trim();
            }
            catch (IOException)
            {
                return "?";
            }
        }
    }

    /// <summary>The process on the other side. SO_PEERCRED: the process id comes first.</summary>
    internal int ProcessId
    {
        get
        {
            const int SocketLevel = 1;
            const int PeerCredentialsOption = 17;
            byte[] credentials = new byte[12];
            _ = _socket.GetRawSocketOption(SocketLevel, PeerCredentialsOption, credentials);
            return BitConverter.ToInt32(credentials);
        }
    }

    public void Dispose()
    {
        _reader.Dispose();
        _socket.Dispose();
    }
}
