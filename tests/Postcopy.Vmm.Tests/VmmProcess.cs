using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Postcopy.Vmm.Node;

namespace Postcopy.Vmm.Tests;

/// <summary>The sample as a user starts it: a process of its own.</summary>
internal sealed class VmmProcess : IAsyncDisposable
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(150);

    private readonly Process _process;
    private readonly string _resultFile = Path.GetTempFileName();
    private readonly Task<string> _output;
    private readonly Task<string> _errors;

    internal VmmProcess(bool withResult, params string[] arguments)
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

        _process = Process.Start(start)!;
        _output = _process.StandardOutput.ReadToEndAsync();
        _errors = _process.StandardError.ReadToEndAsync();
    }

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

    /// <summary>A port that was free a moment ago.</summary>
    internal static string FreeEndpoint()
    {
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return socket.LocalEndPoint!.ToString()!;
    }
}
