using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Qemu.Interop;

/// <summary>struct ucred of unix(7): who is at the other end of a Unix socket, as the kernel noted at connect.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly struct PeerCredentials
{
    private readonly int _pid;
    private readonly uint _uid;
    private readonly uint _gid;

    internal int Process => _pid;

    internal uint User => _uid;

    internal static unsafe bool TryOf(SafeHandle socket, out PeerCredentials peer)
    {
        uint length = (uint)sizeof(PeerCredentials);
        fixed (PeerCredentials* into = &peer)
        {
            // SAFETY: the kernel writes at most the structure's size.
            return Libc.getsockopt(socket, Libc.SOL_SOCKET, Libc.SO_PEERCRED, into, &length) == 0;
        }
    }
}
