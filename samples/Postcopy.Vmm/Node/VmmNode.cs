using System.Net.Sockets;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Migration;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Node;

/// <summary>
/// A VMM process: has a guest or waits for one, lets it run for some heartbeats, sends it on, and again, until it has
/// taken part in enough migrations. What stays in the end is stopped and checked page by page. A guest of somebody else has
/// no heartbeats and no known content: it is sent on at once, and runs here as long as it likes.
/// </summary>
internal sealed class VmmNode : IDisposable
{
    private static readonly TimeSpan s_stopLimit = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan s_progressEvery = TimeSpan.FromMilliseconds(200);

    private readonly NodeOptions _options;
    private readonly TextWriter _out;
    private readonly KvmSystem _kvm;
    private readonly Socket? _listener;
    private readonly VmDescription? _description;
    private VirtualMachine? _machine;

    // A migration that failed before the point of no return: the guest is still here, and is looked after first.
    private VmmException? _failure;
    private bool _limited;

    internal VmmNode(NodeOptions options, TextWriter output)
    {
        _options = options;
        _out = TextWriter.Synchronized(output);
        _description = options.VmDescriptionFile is { } file ? VmDescription.ParseTrailing(File.ReadAllBytes(file)) : null;
        _kvm = KvmSystem.Open();
        if (options.Listen is { } listen)
        {
            // Without it no guest could come in, and its source would be the one to learn that.
            _ = UffdHandle.Probe();
            _listener = new Socket(listen.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            _listener.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, true);
            _listener.Bind(listen);
            _listener.Listen();
            Say($"listening on {_listener.LocalEndPoint}");
        }
    }

    internal NodeResult Result { get; } = new();

    private bool IsOurs => GuestSettings.AreIn(_machine!.Ram);

    /// <summary>Does all of it.</summary>
    internal async Task RunAsync(CancellationToken cancellationToken)
    {
        using CancellationTokenSource limited = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        try
        {
            if (_options.Boots)
            {
                _limited = true;
                limited.CancelAfter(_options.Timeout);
                Boot();
            }

            for (int hop = 0; hop < _options.Hops && _failure is null; hop++)
            {
                if (_machine is null)
                {
                    await ReceiveAsync(limited);
                }
                else
                {
                    await BeatsAsync(limited.Token);
                    await SendAsync(limited.Token);
                }
            }

            if (_machine is not null && IsOurs)
            {
                await BeatsAsync(limited.Token);
                Check();
            }
        }
        catch (OperationCanceledException e) when (!cancellationToken.IsCancellationRequested)
        {
            throw new VmmException($"Not finished within {_options.Timeout.TotalSeconds:0} s (--timeout).", e);
        }

        if (_machine is not null && !IsOurs)
        {
            await StayAsync(cancellationToken);
        }

        if (_failure is not null)
        {
            throw _failure;
        }
    }

    public void Dispose()
    {
        if (_machine is { } machine)
        {
            if (machine.IsRunning)
            {
                machine.Stop(s_stopLimit);
            }

            machine.Dispose();
        }

        _listener?.Dispose();
        _kvm.Dispose();
    }

    private void Boot()
    {
        _machine = new VirtualMachine(_kvm, _options.Vcpus, GuestMemory.Allocate(new GuestMemoryOptions { Length = _options.MemoryBytes }));
        GuestSettings settings = new() { LongMode = _options.LongMode, BeatInterval = _options.BeatInterval };
        uint pages = (uint)((_options.MemoryBytes - settings.Base) / GuestSettings.PageBytes / _options.Vcpus);
        (settings with { PagesPerVcpu = pages }).Load(_machine);
        _machine.Serial.OnLine = Print;
        _machine.Start();
        Say($"a guest of our own runs here: {_options.Vcpus} vCPUs, {_options.MemoryBytes >> 20} MiB, {(_options.LongMode ? "long" : "protected")} mode");
    }

    /// <summary>The time limit begins with the first connection: somebody may have to type the commands that make it.</summary>
    private async Task ReceiveAsync(CancellationTokenSource limited)
    {
        CancellationToken cancellationToken = limited.Token;
        Socket listener = _listener ?? throw new VmmException("There is no guest here, and nowhere to receive one: give --listen.");
        await using Incoming incoming = new(_kvm, _options.RecoverTimeout, _description)
        {
            OnLine = Print,
            OnConnection = () =>
            {
                if (!Interlocked.Exchange(ref _limited, true))
                {
                    limited.CancelAfter(_options.Timeout);
                }
            },
            OnRefused = _options.QmpSocket is { } socket ? refusal => GiveBackAsync(socket, cancellationToken) : null,
        };
        Task<IncomingReport> receiving = incoming.RunAsync(listener, cancellationToken);
        _ = await Task.WhenAny(incoming.Started, receiving);
        if (incoming.Started.IsCompletedSuccessfully)
        {
            Say((await incoming.Started).IsRunning ? "the guest runs here; its pages follow" : "the guest is here, stopped as it was at the source; its pages follow");
            await ShowProgressAsync(incoming, receiving);
        }

        IncomingReport report = await receiving;
        _machine = await incoming.Started;
        long wire = report.Wire.Pages + report.Wire.ZeroPages;
        Say($"complete: {wire} pages from {report.From}, {report.Completion.Faults.Requests} of them because a vCPU waited");
        BlocktimeFigures blocktime = BlocktimeFigures.From(report.Completion.Blocktime!);
        _out.Write(blocktime.Text);
        foreach (string row in blocktime.Timeline)
        {
            _out.WriteLine("  " + row);
        }

        _out.Flush();
        WriteTimeline(report);
        Result.Arrivals.Add(new NodeArrival(
            report.From, report.Downtime?.TotalMilliseconds, report.Completion.Duration.TotalMilliseconds, report.Wire.Pages, report.Wire.ZeroPages, report.Wire.PrecopyPages,
            report.Completion.Faults.Requests, report.Wire.UrgentPages, report.Wire.LostConnections, blocktime.TotalMs, blocktime.VcpuMs, blocktime.Timeline));
    }

    /// <summary>The picture of the last guest that came: every stall, to zoom into.</summary>
    private void WriteTimeline(IncomingReport report)
    {
        if (_options.TimelineFile is { } file)
        {
            using StreamWriter html = new(file);
            new BlocktimeTimeline(report.Completion.Blocktime!, title: $"A guest from {report.From}, on KVM").WriteHtml(html);
            Say($"timeline: {file}");
        }
    }

    /// <summary>The source keeps its connection open until this is done.</summary>
    private async Task GiveBackAsync(string socket, CancellationToken cancellationToken)
    {
        using QmpClient monitor = await QmpClient.ConnectAsync(socket, cancellationToken);
        await monitor.TakeGuestBackAsync(cancellationToken);
        Say("the guest cannot go on here; it goes on in QEMU");
    }

    private async Task ShowProgressAsync(Incoming incoming, Task receiving)
    {
        using PeriodicTimer timer = new(s_progressEvery);
        while (!receiving.IsCompleted)
        {
            Say($"missing {incoming.Destination.Blocks.MissingBytes >> 12} of {incoming.Destination.Blocks.TotalLength >> 12} pages, {incoming.Destination.Faults.Requests} asked for by faults");
            _ = await Task.WhenAny(receiving, timer.WaitForNextTickAsync().AsTask());
        }
    }

    private async Task SendAsync(CancellationToken cancellationToken)
    {
        VirtualMachine machine = _machine!;
        System.Net.IPEndPoint to = _options.To ?? throw new VmmException("There is a guest to send away and nowhere to: give --to.");
        Say($"sending the guest to {to}");
        Outgoing outgoing = new(machine, bandwidth: _options.Bandwidth);
        OutgoingReport report = await outgoing.RunAsync(async token => await ConnectAsync(to, token), cancellationToken: cancellationToken);
        await outgoing.Source.DisposeAsync();
        Result.Departures.Add(new NodeDeparture(report.End.ToString(), report.Duration.TotalMilliseconds, report.DirtyPages, report.Statistics.Requests, report.Reconnections));
        if (report.End != QemuSourceState.Completed)
        {
            _failure = new VmmException($"The guest could not be sent to {to} ({report.End}): {outgoing.Source.Error?.Message}");
            if (outgoing.Source.IsPastPointOfNoReturn)
            {
                throw _failure;
            }

            Say($"the guest goes on here: {outgoing.Source.Error?.Message}");
            return;
        }

        Say($"the guest is gone: {report.DirtyPages} pages were dirty at the switch, {report.Statistics.Requests} asked for");
        machine.Dispose();
        _machine = null;
    }

    private static async Task<MigrationChannel> ConnectAsync(System.Net.IPEndPoint to, CancellationToken cancellationToken)
    {
        Socket socket = new(to.AddressFamily, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        try
        {
            await socket.ConnectAsync(to, cancellationToken);
            return MigrationChannel.FromSocket(socket);
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw new VmmException($"No connection to {to}: {e.Message}. Is a VMM listening there (receive --listen)?", e);
        }
    }

    /// <summary>Waits until each vCPU has printed some more.</summary>
    private async Task BeatsAsync(CancellationToken cancellationToken)
    {
        VirtualMachine machine = _machine!;
        for (int i = 0; i < _options.Beats && machine.IsRunning && IsOurs; i++)
        {
            Task beats = Task.WhenAll(machine.Vcpus.Where(v => !v.Halted).Select(v => machine.Serial.NextAsync(l => Heartbeat.TryParse(l, out Heartbeat beat) && beat.Vcpu == v.Index)));
            if (await Task.WhenAny(beats, machine.Ended).WaitAsync(cancellationToken) != beats)
            {
                await machine.Ended;
                throw new VmmException("The guest halted.");
            }
        }
    }

    private async Task StayAsync(CancellationToken cancellationToken)
    {
        if (!_machine!.IsRunning)
        {
            Say("the guest was stopped at the source, so it stays stopped; there is nothing to wait for");
            return;
        }

        Say("the guest is not one of ours: it runs here until it halts, or until Ctrl-C");
        await _machine.Ended.WaitAsync(cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _machine.Stop(s_stopLimit);
        if (_machine.Serial.Pending is { Length: > 0 } rest)
        {
            Print(rest);
        }

        if (_machine.Ended.IsFaulted)
        {
            await _machine.Ended;
        }

        Say(_machine.Ended.IsCompleted ? "the guest halted" : "stopped, as asked");
    }

    private void Check()
    {
        VirtualMachine machine = _machine!;
        machine.Stop(s_stopLimit);
        MemoryCheck check = MemoryCheck.Run(machine);
        GuestReport[] reports = [.. machine.Vcpus.Select(v => GuestReport.Read(machine.Ram, v.Index))];
        Result.Guest = new NodeGuest(check.Pages, check.Wrong, check.FirstWrong, [.. reports.Select(r => (long)r.Touched)], [.. reports.Select(r => (long)r.Errors)]);
        Say($"the guest is stopped: {check}; it found {reports.Sum(r => r.Errors)} wrong itself in {reports.Sum(r => (long)r.Touched)} touches");
    }

    /// <summary>On a vCPU's thread, one at a time.</summary>
    private void Print(string line)
    {
        Say(Heartbeat.TryParse(line, out _) ? $"heartbeat {line}" : $"guest: {line}");
        Result.Lines.Add(line);
    }

    private void Say(string what)
    {
        _out.WriteLine(what);
        _out.Flush();
    }
}
