using System.Net;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Migration;

namespace Postcopy.Vmm.Tests;

/// <summary>A migration over TCP between two machines of this process.</summary>
internal sealed class Migrate : IAsyncDisposable
{
    private readonly EndPoint? _address;
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);

    internal Migrate(KvmSystem kvm, VirtualMachine from, int passes = 1, long bandwidth = 0, Action<MachineState>? spoil = null)
    {
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen();
        _address = _listener.LocalEndPoint;
        Out = new Outgoing(from, passes, bandwidth) { Spoil = spoil };
        In = new Incoming(kvm, recoverTimeout: TestMachine.Limit);
    }

    internal Outgoing Out { get; }

    internal Incoming In { get; }

    /// <summary>Runs both ends; the machine at the destination and both reports.</summary>
    internal async Task<(VirtualMachine Machine, IncomingReport In, OutgoingReport Out)> RunAsync()
    {
        Task<IncomingReport> receiving = In.RunAsync(_listener);
        Task<OutgoingReport> sending = SendAsync();
        await Task.WhenAll(receiving, sending).WaitAsync(TimeSpan.FromSeconds(120));
        return (await In.Started, await receiving, await sending);
    }

    internal Task<IncomingReport> ReceiveAsync() => In.RunAsync(_listener);

    internal Task<OutgoingReport> SendAsync(int reconnections = 20) => Out.RunAsync(ConnectAsync, reconnections);

    /// <summary>The connections are gone, and nobody listens any more.</summary>
    internal async Task DestinationDiesAsync()
    {
        _listener.Dispose();
        await In.DisposeAsync();
    }

    public async ValueTask DisposeAsync()
    {
        await In.DisposeAsync();
        await Out.Source.DisposeAsync();
        _listener.Dispose();
    }

    private async Task<MigrationChannel> ConnectAsync(CancellationToken cancellationToken)
    {
        Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        await socket.ConnectAsync(_address!, cancellationToken);
        return MigrationChannel.FromSocket(socket);
    }
}
