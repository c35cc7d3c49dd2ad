using System.Net;
using System.Net.Sockets;

namespace Postcopy.Vmm.Tests;

/// <summary>
/// A network that fails once: it passes bytes on between a source and a destination, and when so many have gone one way, all
/// connections are reset. Those made later are passed on as if nothing had happened.
/// </summary>
internal sealed class CuttingProxy : IAsyncDisposable
{
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
    private readonly EndPoint _target;
    private readonly long _cutAfter;
    private readonly bool _back;
    private readonly Lock _lock = new();
    private readonly List<Socket> _open = [];
    private readonly CancellationTokenSource _ending = new();
    private readonly Task _accepting;
    private long _bytes;
    private bool _cut;

    /// <param name="target">Where the destination listens.</param>
    /// <param name="cutAfter">How many bytes go by, on all connections, before the cut.</param>
    /// <param name="back">They are counted from the destination to the source, or else the other way.</param>
    internal CuttingProxy(string target, long cutAfter, bool back = false)
    {
        _target = IPEndPoint.Parse(target);
        _cutAfter = cutAfter;
        _back = back;
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen();
        _accepting = AcceptAsync();
    }

    internal string Address => _listener.LocalEndPoint!.ToString()!;

    internal int Port => ((IPEndPoint)_listener.LocalEndPoint!).Port;

    /// <summary>True when the network has failed.</summary>
    internal bool HasCut => Volatile.Read(ref _cut);

    public async ValueTask DisposeAsync()
    {
        await _ending.CancelAsync();
        await _accepting;
        _listener.Dispose();
        Close();
        _ending.Dispose();
    }

    private async Task AcceptAsync()
    {
        while (!_ending.IsCancellationRequested)
        {
            try
            {
                Socket near = await _listener.AcceptAsync(_ending.Token);
                Socket far = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
                near.NoDelay = true;
                lock (_lock)
                {
                    _open.AddRange([near, far]);
                }

                await far.ConnectAsync(_target, _ending.Token);
                _ = PassAsync(near, far, counts: !_back);
                _ = PassAsync(far, near, counts: _back);
            }
            catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
            {
                // The next connection may go better.
            }
        }
    }

    private async Task PassAsync(Socket from, Socket to, bool counts)
    {
        byte[] buffer = new byte[16 << 10];
        try
        {
            for (int got = await from.ReceiveAsync(buffer); got > 0; got = await from.ReceiveAsync(buffer))
            {
                if (counts && Interlocked.Add(ref _bytes, got) >= _cutAfter && !Interlocked.Exchange(ref _cut, true))
                {
                    Close();
                    return;
                }

                for (int sent = 0; sent < got;)
                {
                    sent += await to.SendAsync(buffer.AsMemory(sent, got - sent));
                }
            }

            to.Shutdown(SocketShutdown.Send);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // One side is gone; so is the other.
            from.Dispose();
            to.Dispose();
        }
    }

    private void Close()
    {
        lock (_lock)
        {
            foreach (Socket socket in _open)
            {
                // Without a linger time closing is a reset, at both ends.
                socket.Close(timeout: 0);
            }

            _open.Clear();
        }
    }
}
