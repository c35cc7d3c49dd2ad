using System.Diagnostics;
using System.Net.Sockets;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Migration;

/// <summary>What a source did.</summary>
internal sealed record OutgoingReport(QemuSourceState End, QemuSourceStatistics Statistics, long DirtyPages, int Reconnections, TimeSpan Duration);

/// <summary>
/// Sends a machine away: one pass over its memory with the guest running and KVM's dirty log on, then the guest stops,
/// its state goes ahead, and the pages it wrote meanwhile follow by postcopy.
/// </summary>
internal sealed class Outgoing : IMigrationSourceMemory
{
    /// <summary>The name of our RAM on the wire, QEMU's for a PC.</summary>
    internal const string RamName = "pc.ram";

    internal const string MachineType = "postcopy-vmm";

    // Time for the destination to notice, too, that the old connection is gone.
    private static readonly TimeSpan s_reconnectAfter = TimeSpan.FromMilliseconds(250);
    private static readonly TimeSpan s_stopLimit = TimeSpan.FromSeconds(20);

    private readonly VirtualMachine _machine;
    private readonly QemuSource _source;
    private readonly SourceRamBlock _ram;
    private long _dirty;
    private bool _wasRunning;

    /// <param name="machine">The machine, running and complete.</param>
    /// <param name="precopyPasses">1, or 0 to leave everything to postcopy.</param>
    /// <param name="bandwidth">Bytes a second of what nobody asked for; 0 is unlimited.</param>
    internal Outgoing(VirtualMachine machine, int precopyPasses = 1, long bandwidth = 0)
    {
        _machine = machine;
        _ram = new SourceRamBlock(RamName, machine.Ram.Length);
        Blocks = [_ram];
        _source = new QemuSource(this, new QemuSourceOptions
        {
            MachineType = MachineType,
            PrecopyPasses = precopyPasses,
            BackgroundBandwidth = bandwidth,
            Preempt = QemuPreemptMode.AtSwitch,
            UsePointOfNoReturn = true,
            StopGuest = StopGuest,
        });
    }

    public IReadOnlyList<SourceRamBlock> Blocks { get; }

    internal QemuSource Source => _source;

    /// <summary>Changes the state before it is sent: tests make one that KVM does not take.</summary>
    internal Action<MachineState>? Spoil { get; init; }

    public void ReadPages(SourceRamBlock block, long offset, Span<byte> destination) => _machine.Ram.Read(offset, destination);

    /// <summary>
    /// Sends it. A connection that breaks in postcopy is made anew. When it fails before the point of no return, the guest
    /// runs on here; after it never, whatever happens: the destination may be running it.
    /// </summary>
    /// <param name="connect">Makes a connection to the destination.</param>
    /// <param name="reconnections">How many broken connections to make anew.</param>
    /// <param name="cancellationToken">Gives up.</param>
    internal async Task<OutgoingReport> RunAsync(
        Func<CancellationToken, Task<MigrationChannel>> connect, int reconnections = 20, CancellationToken cancellationToken = default)
    {
        long start = Stopwatch.GetTimestamp();
        MigrationChannel Urgent() => connect(cancellationToken).GetAwaiter().GetResult();
        _machine.LogDirty(on: true);
        int used = 0;
        try
        {
            QemuSourceState state = await _source.RunAsync(await connect(cancellationToken), Urgent, cancellationToken);
            while (state == QemuSourceState.PostcopyPaused && used < reconnections)
            {
                used++;
                await Task.Delay(s_reconnectAfter, cancellationToken);
                state = await TryResumeAsync(connect, Urgent, cancellationToken);
            }

            return new OutgoingReport(state, _source.Statistics, _dirty, used, Stopwatch.GetElapsedTime(start));
        }
        finally
        {
            if (!_source.IsPastPointOfNoReturn)
            {
                GoOnHere();
            }
        }
    }

    /// <summary>The destination may be away for a while: that is one attempt lost, not the guest.</summary>
    private async Task<QemuSourceState> TryResumeAsync(
        Func<CancellationToken, Task<MigrationChannel>> connect, Func<MigrationChannel> urgent, CancellationToken cancellationToken)
    {
        MigrationChannel main;
        try
        {
            main = await connect(cancellationToken);
        }
        catch (Exception e) when (e is SocketException or VmmException)
        {
            return QemuSourceState.PostcopyPaused;
        }

        return await _source.ResumeAsync(main, urgent, cancellationToken);
    }

    /// <summary>On the source's thread, when the precopy pass is over.</summary>
    private ReadOnlyMemory<byte> StopGuest()
    {
        _wasRunning = _machine.IsRunning;
        _machine.Stop(s_stopLimit);
        foreach (PageRange range in _machine.TakeDirty())
        {
            _dirty += range.Length / 4096;
            _source.MarkDirty(RamName, range.Offset, range.Length);
        }

        MachineState state = MachineState.Save(_machine, _wasRunning);
        Spoil?.Invoke(state);
        return state.Encode();
    }

    private void GoOnHere()
    {
        _machine.LogDirty(on: false);
        if (_wasRunning && !_machine.IsRunning)
        {
            _machine.Start();
        }
    }
}
