using System.Net;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>What a source connects to: each connection is relayed to the destination, and can be broken.</summary>
internal sealed class RelayFront : IDisposable
{
    private readonly Socket _listener;
    private readonly EndPoint _target;
    private readonly Thread _thread;
    private readonly List<Relay> _relays = [];
    private readonly Queue<(Cut? Forward, Cut? Backward)> _cuts = [];

    internal RelayFront(EndPoint address, EndPoint target)
    {
        _target = target;
        _listener = new Socket(address.AddressFamily, SocketType.Stream, address is IPEndPoint ? ProtocolType.Tcp : ProtocolType.Unspecified);
        if (address is IPEndPoint)
        {
            // What is on its way through is lost with a break, as in any network; but not megabytes of it.
            _listener.ReceiveBufferSize = 64 << 10;
        }

        _listener.Bind(address);
        _listener.Listen(8);
        Address = _listener.LocalEndPoint!;
        _thread = new Thread(Accept) { IsBackground = true, Name = "relay-front" };
        _thread.Start();
    }

    internal EndPoint Address { get; }

    /// <summary>Where the next connection will break for which that was not said yet.</summary>
    internal void CutNext(Cut? forward, Cut? backward = null)
    {
        lock (_relays)
        {
            _cuts.Enqueue((forward, backward));
        }
    }

    /// <summary>What passed from the source on each connection, in the order of their acceptance.</summary>
    internal byte[][] Recordings
    {
        get
        {
            lock (_relays)
            {
                return [.. _relays.Select(r => r.Recording.ToArray())];
            }
        }
    }

    /// <summary>From now on nothing passes on those that are there, and neither end is told.</summary>
    internal void StandStill()
    {
        lock (_relays)
        {
            _relays.ForEach(r => r.StandStill());
        }
    }

    /// <summary>Breaks all connections.</summary>
    internal void Break()
    {
        lock (_relays)
        {
            _relays.ForEach(r => r.Break());
        }
    }

    public void Dispose()
    {
        _listener.Dispose();
        _thread.Join();
        _relays.ForEach(r => r.Dispose());
        if (Address is UnixDomainSocketEndPoint)
        {
            File.Delete(Address.ToString()!);
        }
    }

    private void Accept()
    {
        try
        {
            while (true)
            {
                Socket source = _listener.Accept();
                Socket destination = new(_target.AddressFamily, SocketType.Stream, _target is IPEndPoint ? ProtocolType.Tcp : ProtocolType.Unspecified);
                destination.Connect(_target);
                if (_target is IPEndPoint)
                {
                    source.NoDelay = destination.NoDelay = true;
                }

                lock (_relays)
                {
                    (Cut? forward, Cut? backward) = _cuts.TryDequeue(out (Cut?, Cut?) next) ? next : default;
                    _relays.Add(new Relay(source, destination, forward, backward));
                }
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Closed: the test is over.
        }
    }
}
