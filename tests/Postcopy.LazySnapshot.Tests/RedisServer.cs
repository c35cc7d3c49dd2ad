using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace Postcopy.LazySnapshot.Tests;

/// <summary>A Redis of the test's own, on loopback, in a folder of its own; it can be killed and started again.</summary>
internal sealed class RedisServer : IDisposable
{
    private const string Server = "/usr/bin/redis-server";
    private const string Client = "/usr/bin/redis-cli";

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("redis-");
    private readonly string[] _arguments;
    private Process? _process;

    internal RedisServer(bool cluster = false)
    {
        Assert.SkipUnless(File.Exists(Server), $"Needs {Server}: apt-get install redis-server.");
        Port = FreePort();

        // Everything is in its file before it answers: what was written is there after a kill.
        _arguments =
        [
            "--port", $"{Port}", "--bind", "127.0.0.1", "--dir", _folder.FullName, "--save", "", "--appendonly", "yes", "--appendfsync", "no",
            .. cluster ? new[] { "--cluster-enabled", "yes", "--cluster-node-timeout", "2000" } : [],
        ];
        Start();
    }

    internal int Port { get; }

    internal string Address => $"127.0.0.1:{Port}";

    internal static async Task<string> CommandAsync(params string[] arguments)
    {
        using Process cli = Process.Start(new ProcessStartInfo(Client, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        string output = await cli.StandardOutput.ReadToEndAsync() + await cli.StandardError.ReadToEndAsync();
        await cli.WaitForExitAsync();
        return output;
    }

    internal void Start()
    {
        // setpriv: a test runner that is killed leaves no server behind.
        _process = Process.Start(new ProcessStartInfo("/usr/bin/setpriv", ["--pdeathsig", "KILL", Server, .. _arguments]) { RedirectStandardOutput = true })!;
        _process.OutputDataReceived += (_, _) => { };
        _process.BeginOutputReadLine();
        long start = Stopwatch.GetTimestamp();
        while (!Answers())
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(20), "redis-server does not answer");
            Thread.Sleep(20);
        }
    }

    /// <summary>A node that was just joined refuses writes until it has heard of the others.</summary>
    internal async Task WaitForClusterAsync(TimeSpan limit)
    {
        long start = Stopwatch.GetTimestamp();
        while (!(await CommandAsync("-p", $"{Port}", "CLUSTER", "INFO")).Contains("cluster_state:ok", StringComparison.Ordinal))
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < limit, $"the cluster's node at {Address} does not become ready");
            await Task.Delay(50);
        }
    }

    /// <summary>Values that it has handed out since it was started.</summary>
    internal async Task<long> HitsAsync()
    {
        string stats = await CommandAsync("-p", $"{Port}", "INFO", "stats");
        string line = stats.Split('\n').Single(l => l.StartsWith("keyspace_hits:", StringComparison.Ordinal));
        return long.Parse(line.Split(':')[1], System.Globalization.CultureInfo.InvariantCulture);
    }

    internal async Task WaitForHitsAsync(long hits, TimeSpan limit)
    {
        long start = Stopwatch.GetTimestamp();
        while (await HitsAsync() < hits)
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < limit, $"the server at {Address} has not handed out {hits} values");
            await Task.Delay(20);
        }
    }

    internal void Kill()
    {
        _process!.Kill();
        _process.WaitForExit();
        _process.Dispose();
        _process = null;
    }

    public void Dispose()
    {
        if (_process is not null)
        {
            Kill();
        }

        _folder.Delete(recursive: true);
    }

    private bool Answers()
    {
        try
        {
            using TcpClient client = new("127.0.0.1", Port);
            client.GetStream().Write("PING\r\n"u8);
            Span<byte> answer = stackalloc byte[1];
            return client.GetStream().Read(answer) == 1 && answer[0] == (byte)'+';
        }
        catch (Exception e) when (e is SocketException or IOException)
        {
            return false;
        }
    }

    private static int FreePort()
    {
        // A cluster's nodes talk on the port above by 10000.
        while (true)
        {
            using TcpListener listener = new(IPAddress.Loopback, 0);
            listener.Start();
            int port = ((IPEndPoint)listener.LocalEndpoint).Port;
            if (port < 55_000)
            {
                return port;
            }
        }
    }
}
