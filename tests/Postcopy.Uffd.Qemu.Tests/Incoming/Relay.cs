using System.Net.Sockets;

namespace Postcopy.Uffd.Qemu.Tests.Incoming;

/// <summary>A network between a source and a destination: passes bytes on, breaks, stands still, holds back.</summary>
internal sealed class Relay : IDisposable
{
    private readonly Socket _source;
    private readonly Socket _destination;
    private readonly Thread[] _threads;
    private readonly ManualResetEventSlim _open = new(true);
    private readonly ManualResetEventSlim _flowing = new(true);
    private long _forwarded;
    private volatile bool _disposed;

    internal Relay(Socket source, Socket destination, Cut? forward = null, Cut? backward = null)
    {
        _source = source;
        _destination = destination;
        _threads = [Start(source, destination, forward, isForward: true), Start(destination, source, backward, isForward: false)];
    }

    /// <summary>Set when the connection was cut.</summary>
    internal ManualResetEventSlim WasCut { get; } = new();

    /// <summary>Bytes that came from the source, held ones included.</summary>
    internal long FromSource => Volatile.Read(ref _forwarded);

    /// <summary>What passed from the source.</summary>
    internal List<byte> Recording { get; } = [];

    /// <summary>Both ends see a closed connection.</summary>
    internal void Break()
    {
        WasCut.Set();
        Close(_source);
        Close(_destination);
    }

    /// <summary>From now on nothing passes, not even that one end has closed.</summary>
    internal void StandStill() => _flowing.Reset();

    /// <summary>What the source sends is kept here until <see cref="Release"/>, and then passed on in one piece.</summary>
    internal void Hold() => _open.Reset();

    internal void Release() => _open.Set();

    public void Dispose()
    {
        _disposed = true;
        _open.Set();
        _flowing.Set();
        Break();
        foreach (Thread thread in _threads)
        {
            thread.Join();
        }

        _source.Dispose();
        _destination.Dispose();
    }

    private static void Close(Socket socket)
    {
        try
        {
            socket.LingerState = new LingerOption(true, 0);
            socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // It is closed already.
        }

        // A peer that is blocked on a full window notices only a reset.
        socket.Dispose();
    }

    private Thread Start(Socket from, Socket to, Cut? cut, bool isForward)
    {
        Thread thread = new(() => Pump(from, to, cut, isForward)) { IsBackground = true, Name = "relay" };
        thread.Start();
        return thread;
    }

    private void Pump(Socket from, Socket to, Cut? cut, bool isForward)
    {
        byte[] buffer = new byte[64 << 10];
        List<byte> held = [];
        try
        {
            while (true)
            {
                int got = Receive(from, buffer, isForward && held.Count > 0);
                _flowing.Wait();
                if (got == 0 || _disposed)
                {
                    break;
                }

                if (got > 0 && isForward)
                {
                    _ = Interlocked.Add(ref _forwarded, got);
                }

                if (isForward && (!_open.IsSet || held.Count > 0))
                {
                    held.AddRange(buffer.AsSpan(0, Math.Max(got, 0)));
                    if (!_open.IsSet)
                    {
                        continue;
                    }

                    Send(to, held.ToArray());
                    held.Clear();
                    continue;
                }

                int pass = cut?.Pass(buffer.AsSpan(0, got)) ?? got;
                if (isForward)
                {
                    Recording.AddRange(buffer.AsSpan(0, pass));
                }

                Send(to, buffer.AsSpan(0, pass));
                if (pass < got || cut is { IsReached: true })
                {
                    break;
                }
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // One end is gone, and the other is to know.
        }

        if (!_disposed)
        {
            _flowing.Wait();
        }

        Break();
    }

    /// <summary>-1: nothing came for a moment, and held bytes may have been released.</summary>
    private static int Receive(Socket from, byte[] buffer, bool holding)
    {
        const int Moment = 2000;
        return holding && !from.Poll(Moment, SelectMode.SelectRead) ? -1 : from.Receive(buffer);
    }

    private static void Send(Socket to, ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            bytes = bytes[to.Send(bytes)..];
        }
    }
}
