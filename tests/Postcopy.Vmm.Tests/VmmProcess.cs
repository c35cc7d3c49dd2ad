using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Postcopy.Vmm.Node;

namespace Postcopy.Vmm.Tests;

/// <summary>The sample as a user starts it: a process of its own.</summary>
internal sealed class VmmProcess : IAsyncDisposable
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(150);

    private readonly Process _process;
    private readonly string _resultFile = Path.GetTempFileName();
    private readonly TaskCompletionSource<IPEndPoint> _listening = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Task<string> _output;
    private readonly Task<string> _errors;

    internal VmmProcess(bool withResult, params string[] arguments)
        : this(withResult, path: null, arguments)
    {
    }

    /// <param name="withResult">It writes what it did, for <see cref="Result"/>.</param>
    /// <param name="path">Where it looks for other programs; null for the test's own PATH.</param>
    /// <param name="arguments">Of the command line.</param>
    internal VmmProcess(bool withResult, string? path, string[] arguments)
    {
        ProcessStartInfo start = new("dotnet")
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        };
        string[] all = [Path.Combine(AppContext.BaseDirectory, "postcopy-vmm.dll"), .. arguments, .. withResult ? ["--result-file", _resultFile] : (string[])[]];
        foreach (string argument in all)
        {
            start.ArgumentList.Add(argument);
        }

        start.Environment["PATH"] = path ?? start.Environment["PATH"];
        _process = Process.Start(start)!;
        _output = ReadAsync();
        _errors = _process.StandardError.ReadToEndAsync();
    }

    /// <summary>Where it listens, as soon as it does.</summary>
    internal Task<IPEndPoint> ListeningAsync() => _listening.Task.WaitAsync(s_limit);

    internal NodeResult Result => NodeResult.Read(_resultFile);

    internal async Task<(int Code, string Output, string Errors)> EndAsync()
    {
        await _process.WaitForExitAsync().WaitAsync(s_limit);
        return (_process.ExitCode, await _output, await _errors);
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
        }

        await _process.WaitForExitAsync();
        _process.Dispose();
        File.Delete(_resultFile);
    }

    private async Task<string> ReadAsync()
    {
        const string listening = "listening on ";
        StringBuilder text = new();
        while (await _process.StandardOutput.ReadLineAsync() is { } line)
        {
            _ = text.Append(line).Append('\n');
            if (line.StartsWith(listening, StringComparison.Ordinal))
            {
                _ = _listening.TrySetResult(IPEndPoint.Parse(line[listening.Length..]));
            }
        }

        _ = _listening.TrySetException(new InvalidOperationException($"It ended without listening: {text}"));
        _ = _listening.Task.Exception;
        return text.ToString();
    }

    /// <summary>A port that was free a moment ago.</summary>
    internal static string FreeEndpoint()
    {
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return socket.LocalEndPoint!.ToString()!;
    }
}
