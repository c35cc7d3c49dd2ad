using System.Net.Sockets;

namespace Postcopy.Uffd.Qemu;

internal static class SocketClosing
{
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
