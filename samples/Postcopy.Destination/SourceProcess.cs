using System.Diagnostics;

namespace Postcopy.Destination;

/// <summary>The embedded source's process and the Unix socket it connects to; both are gone when this is disposed.</summary>
internal sealed class SourceProcess : IDisposable
{
    private const int PatienceMilliseconds = 5000;

    private readonly string _folder;
    private Process? _process;

    private SourceProcess(string folder, Endpoint endpoint)
    {
        _folder = folder;
        Endpoint = endpoint;
    }

    internal Endpoint Endpoint { get; }

    internal static SourceProcess Prepare()
    {
        string folder = Directory.CreateTempSubdirectory("postcopy-").FullName;
        string path = Path.Combine(folder, "migration");
        return Endpoint.TryParse($"unix:{path}", out Endpoint? endpoint, out string allowed)
            ? new SourceProcess(folder, endpoint!)
            : throw new InvalidOperationException($"TMPDIR is too long for a socket: '{path}'; {allowed}.");
    }

    /// <summary>Starts this same program as the source, which then connects.</summary>
    internal void Start(DestinationOptions options)
    {
        string self = Environment.ProcessPath ?? throw new InvalidOperationException("This process does not know its own program file.");
        ProcessStartInfo start = new(self) { UseShellExecute = false };
        if (Path.GetFileNameWithoutExtension(self) == "dotnet")
        {
            start.ArgumentList.Add(Path.Combine(AppContext.BaseDirectory, $"{typeof(SourceProcess).Assembly.GetName().Name}.dll"));
        }

        foreach (string argument in SourceMain.Arguments(Endpoint, options))
        {
            start.ArgumentList.Add(argument);
        }

        _process = Process.Start(start) ?? throw new InvalidOperationException($"The embedded source '{self}' did not start.");
    }

    /// <summary>The exit code, or null when it did not end by itself in time.</summary>
    internal async Task<int?> WaitAsync(CancellationToken cancellation)
    {
        using CancellationTokenSource patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(PatienceMilliseconds);
        try
        {
            await _process!.WaitForExitAsync(patience.Token);
            return _process.ExitCode;
        }
        catch (OperationCanceledException)
        {
            return null;
        }
    }

    public void Dispose()
    {
        if (_process is { } process)
        {
            if (!process.WaitForExit(PatienceMilliseconds))
            {
                process.Kill();
                process.WaitForExit();
            }

            process.Dispose();
        }

        Directory.Delete(_folder, recursive: true);
    }
}
