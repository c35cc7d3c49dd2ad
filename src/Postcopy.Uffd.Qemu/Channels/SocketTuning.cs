using System.Net.Sockets;
using Postcopy.Uffd.Qemu.Interop;

namespace Postcopy.Uffd.Qemu;

/// <summary>What TCP does not do by itself, for a channel of any kind on top of it.</summary>
internal static class SocketTuning
{
    /// <summary>
    /// After a receive on TCP. A delayed acknowledgement holds back the source's next urgent page, which Nagle keeps until then: 44 ms
    /// at the 90th percentile instead of 3.8 (qemu-wire.md 0.11). The kernel forgets the wish after a while (tcp(7)), so it is renewed.
    /// </summary>
    internal static unsafe void AcknowledgeAtOnce(this SafeSocketHandle socket)
    {
        int on = 1;
        // SAFETY: four bytes of a local. A refusal costs latency only.
        _ = Libc.setsockopt(socket, Libc.IPPROTO_TCP, Libc.TCP_QUICKACK, &on, sizeof(int));
    }

    /// <summary>
    /// Lets the next close of a TCP socket reset the connection. An orderly one is not noticed by a peer that is blocked in
    /// send at a closed window: its probes are acknowledged until the kernel forgets the closed socket, a minute later.
    /// </summary>
    internal static void CloseWithReset(this Socket socket)
    {
        try
        {
            socket.LingerState = new LingerOption(enable: true, seconds: 0);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Closed already.
        }
    }
}
