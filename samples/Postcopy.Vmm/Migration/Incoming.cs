using System.Globalization;
using System.Net.Sockets;
using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Migration;

/// <summary>What a destination did.</summary>
internal sealed record IncomingReport(string From, CompletionReport Completion, QemuIncomingStatistics Wire, TimeSpan? Downtime);

/// <summary>
/// Takes a machine in, from another of these programs or from QEMU: its state first, then the guest runs here and its
/// pages come by postcopy.
/// </summary>
internal sealed class Incoming : IAsyncDisposable
{
    private static readonly TimeSpan s_stopLimit = TimeSpan.FromSeconds(20);

    private readonly KvmSystem _kvm;
    private readonly PostcopyDestination _destination;
    private readonly QemuIncoming _incoming;
    private readonly TaskCompletionSource<VirtualMachine> _started = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly VmDescription? _description;
    private readonly List<GuestMemory> _unused = [];
    private readonly VcpuSlot?[] _slots = new VcpuSlot?[VirtualMachine.MostVcpus];
    private GuestMemory? _ram;
    private VirtualMachine? _machine;
    private MachineState? _state;
    private bool _complete;
    private bool _disposed;
    private Exception? _refusal;
    private TimeSpan? _downtime;

    internal Incoming(KvmSystem kvm, TimeSpan recoverTimeout, VmDescription? description = null, PlacerOptions? placer = null)
    {
        _kvm = kvm;
        _description = description;
        _destination = new PostcopyDestination(new PostcopyOptions { Blocktime = new BlocktimeOptions { MaxSlots = VirtualMachine.MostVcpus, TimelineCapacity = 1 << 16 }, Placer = placer ?? new PlacerOptions() });
        _incoming = new QemuIncoming(_destination, new QemuIncomingOptions
        {
            CreateBlock = CreateBlock,
            OnPackage = TakeDevicesAsync,
            OnRunning = RunGuest,
            RecoverTimeout = recoverTimeout,
        });
    }

    /// <summary>Ends when the guest runs here.</summary>
    internal Task<VirtualMachine> Started => _started.Task;

    internal PostcopyDestination Destination => _destination;

    /// <summary>What came over the wire so far.</summary>
    internal QemuIncomingStatistics Wire => _incoming.Statistics;

    /// <summary>Called with each line that the guest prints here.</summary>
    internal Action<string>? OnLine { get; init; }

    /// <summary>Called with each connection that a source makes.</summary>
    internal Action? OnConnection { get; init; }

    /// <summary>
    /// Called when the state is refused and nothing has run here, while the connection still stands. A QEMU before 10.2 does
    /// not take its guest back by itself, but its operator can have it back now: migrate_cancel, then cont. Once the
    /// connection is closed such a QEMU (7.2) ends in postcopy-paused, and a cancel there never finishes (measured).
    /// </summary>
    internal Func<Exception, Task>? OnRefused { get; init; }

    /// <summary>Receives until the guest is complete and the source knows it.</summary>
    /// <exception cref="VmmException">The guest's state cannot be taken; it never ran here.</exception>
    /// <exception cref="QemuIncomingException">It failed; the message says whether the source may go on.</exception>
    internal async Task<IncomingReport> RunAsync(Socket listener, CancellationToken cancellationToken = default)
    {
        try
        {
            CompletionReport report = await _incoming.RunAsync(async token =>
            {
                Socket socket = await listener.AcceptAsync(token);
                OnConnection?.Invoke();
                socket.NoDelay = true;
                // Requested pages must not stand behind megabytes of others in the socket (qemu-wire.md, 8).
                socket.ReceiveBufferSize = 64 << 10;
                return MigrationChannel.FromSocket(socket);
            }, cancellationToken);
            _complete = true;
            return new IncomingReport(_incoming.MachineType, report, _incoming.Statistics, _downtime);
        }
        catch (Exception e)
        {
            _ = _started.TrySetException(e);
            _ = _started.Task.Exception;
            if (_refusal is { } refusal)
            {
                throw new VmmException($"The guest was refused, and nothing of it ran here: {refusal.Message}", e);
            }

            throw;
        }
    }

    /// <summary>Gives the connections up, as a failing network would: the source may resume over new ones.</summary>
    internal void BreakConnection() => _incoming.Pause("as asked");

    /// <summary>
    /// Ends it. A machine that is complete is the caller's; of any other the missing pages are poisoned, so that vCPUs that
    /// wait for one leave the guest with an error instead of going on with zeros, and it is gone.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, true))
        {
            return;
        }

        await _incoming.DisposeAsync();
        await _destination.CloseAsync(MissingPagePolicy.Poison);
        if (!_complete && _machine is { } machine)
        {
            machine.Stop(s_stopLimit);
            machine.Dispose();
        }

        foreach (GuestMemory memory in _unused)
        {
            memory.Dispose();
        }
    }

    /// <summary>RAM at address 0 is ours; firmware and device memory of a PC are received and not used.</summary>
    private RamBlockSpec CreateBlock(StreamRamBlock wanted)
    {
        GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = wanted.Length, PageSize = new PageSize(wanted.PageSize) });
        if (wanted.Name == Outgoing.RamName)
        {
            _ram = memory;
        }
        else
        {
            _unused.Add(memory);
        }

        return new RamBlockSpec { Name = wanted.Name, Memory = memory };
    }

    /// <summary>Before the point of no return: whatever is wrong with the state comes out here, and the source goes on.</summary>
    private async ValueTask TakeDevicesAsync(DevicePackage package, CancellationToken cancellationToken)
    {
        try
        {
            TakeDevices(package);
        }
        catch (Exception e)
        {
            _refusal = e;
            if (OnRefused is not null)
            {
                await OnRefused(e);
            }

            throw;
        }
    }

    private void TakeDevices(DevicePackage package)
    {
        IReadOnlyList<DeviceSection> sections = package.Split(_description);
        GuestMemory ram = _ram ?? throw new VmmException($"The source has no RAM block '{Outgoing.RamName}'; take a guest over from -machine pc without memory backends.");
        int vcpus = sections.Count(s => s.Name == MachineState.VcpuSection);
        bool ours = vcpus > 0;
        _machine = new VirtualMachine(_kvm, ours ? vcpus : QemuMachine.CountCpus(sections), ram);
        _machine.Serial.OnLine = OnLine;
        _state = ours ? MachineState.Decode(sections) : QemuMachine.Decode(sections, _machine);
        _state.Restore(_machine);
    }

    private void RunGuest()
    {
        _downtime = _state!.StoppedAt?.Elapsed();
        if (_state!.Running)
        {
            _machine!.Start(AddVcpu, LeaveVcpu);
        }

        _ = _started.TrySetResult(_machine!);
    }

    /// <summary>On the vCPU's thread, before it enters the guest: faults carry this thread's id.</summary>
    private void AddVcpu(Vcpu vcpu) =>
        _slots[vcpu.Index] = _destination.Blocktime!.AddVcpu(HostThread.CurrentId, vcpu.Index.ToString(CultureInfo.InvariantCulture));

    /// <summary>It waits for nothing any more, and does not count where all are asked whether they stand still.</summary>
    private void LeaveVcpu(Vcpu vcpu)
    {
        if (_slots[vcpu.Index] is { } slot)
        {
            BlocktimeTracker tracker = _destination.Blocktime!;
            tracker.LeaveGuest(slot, tracker.Now());
            tracker.SetIdle(slot, idle: true);
        }
    }
}
