using System.Diagnostics;
using System.Globalization;
using System.Net;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Node;

namespace Postcopy.Vmm.Demo;

/// <summary>A VMM in a process of its own, and what it says while it runs.</summary>
internal sealed class DemoChild : IAsyncDisposable
{
    private const string Listening = "listening on ";
    private const string Missing = "missing ";
    private const string Beat = "heartbeat ";

    private readonly string _name;
    private readonly Process _process;
    private readonly string _resultFile = Path.GetTempFileName();
    private readonly TaskCompletionSource<IPEndPoint> _listening = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<string> _errors = [];
    private volatile string _beat = string.Empty;
    private volatile string _missing = string.Empty;
    private volatile bool _sending;
    private volatile bool _sentOn;

    internal DemoChild(string name, string[] arguments)
    {
        _name = name;

        // Started by "dotnet postcopy-vmm.dll" or as the program itself.
        string self = Environment.ProcessPath!;
        bool hosted = Path.GetFileNameWithoutExtension(self) == "dotnet";
        _process = new Process
        {
            StartInfo = new ProcessStartInfo(self) { RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false },
        };
        foreach (string argument in (string[])[.. hosted ? [typeof(DemoChild).Assembly.Location] : (string[])[], .. arguments, "--result-file", _resultFile])
        {
            _process.StartInfo.ArgumentList.Add(argument);
        }

        _process.OutputDataReceived += (_, e) => Hear(e.Data);
        _process.ErrorDataReceived += (_, e) => HearError(e.Data);
        _ = _process.Start();
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    /// <summary>Where it listens.</summary>
    internal Task<IPEndPoint> Endpoint => _listening.Task;

    /// <summary>True once the guest is or was here.</summary>
    internal bool HadGuest => _beat.Length > 0;

    /// <summary>What it does at the moment, in a few words.</summary>
    /// <param name="next">Where the guest goes from here; null when it stays.</param>
    internal string Now(DemoChild? next) =>
        _sentOn ? "gone"
        : next?.HadGuest == true ? "serves the pages that are left"
        : _process.HasExited ? "ended"
        : _beat.Length == 0 ? "waiting"
        : _missing.Length > 0 ? $"heartbeat {_beat}, {_missing}"
        : $"heartbeat {_beat}{(_sending ? ", being copied" : string.Empty)}";

    /// <summary>Waits for its end; what it did.</summary>
    internal async Task<NodeResult> ResultAsync(CancellationToken cancellationToken)
    {
        await _process.WaitForExitAsync(cancellationToken);
        if (_process.ExitCode != 0)
        {
            lock (_errors)
            {
                throw new VmmException($"{_name} failed: {string.Join(' ', _errors)}");
            }
        }

        return NodeResult.Read(_resultFile);
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

    private void Hear(string? line)
    {
        if (line is null)
        {
            return;
        }

        if (line.StartsWith(Listening, StringComparison.Ordinal))
        {
            _ = _listening.TrySetResult(IPEndPoint.Parse(line[Listening.Length..]));
        }
        else if (line.StartsWith(Beat, StringComparison.Ordinal) && Heartbeat.TryParse(line[Beat.Length..], out Heartbeat beat) && beat.Vcpu == 0)
        {
            _beat = beat.Count.ToString(CultureInfo.InvariantCulture);
        }
        else if (line.StartsWith(Missing, StringComparison.Ordinal))
        {
            _missing = line.Split(' ')[1] + " pages missing";
        }
        else if (line.StartsWith("complete", StringComparison.Ordinal))
        {
            _missing = string.Empty;
        }
        else if (line.StartsWith("sending the guest", StringComparison.Ordinal))
        {
            _sending = true;
        }
        else if (line.StartsWith("the guest is gone", StringComparison.Ordinal))
        {
            _sentOn = true;
        }
    }

    private void HearError(string? line)
    {
        if (line is not null)
        {
            lock (_errors)
            {
                _errors.Add(line);
            }

            _ = _listening.TrySetException(new VmmException($"{_name} does not start: {line}"));
        }
    }
}
