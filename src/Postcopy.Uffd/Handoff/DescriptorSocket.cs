using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// A Unix stream socket that carries descriptors beside its bytes (SCM_RIGHTS, unix(7)). Non-blocking underneath; every
/// wait has an end. Descriptors are close-on-exec from the moment they arrive, and those nobody takes are closed.
/// </summary>
internal sealed unsafe class DescriptorSocket : IDisposable
{
    /// <summary>Descriptors of one message: the kernel's limit (SCM_MAX_FD).</summary>
    internal const int MaxDescriptors = 253;

    private readonly SafeFileHandle _socket;

    private DescriptorSocket(SafeFileHandle socket) => _socket = socket;

    internal SafeFileHandle Handle => _socket;

    internal static DescriptorSocket Listen(string path, int backlog)
    {
        SafeFileHandle socket = Create();
        Libc.SockAddr_un address = Address(path);

        // Before bind: the node is made with the socket's own mode, so there is no moment in which a stranger can connect.
        _ = Libc.fchmod(socket, 0b110_000_000);
        bool bound = Libc.bind(socket, &address, (uint)sizeof(Libc.SockAddr_un)) == 0;
        int errno = bound ? 0 : Marshal.GetLastPInvokeError();
        if (errno == Errno.EADDRINUSE && IsLeftOver(address))
        {
            _ = Libc.unlink(path);
            bound = Libc.bind(socket, &address, (uint)sizeof(Libc.SockAddr_un)) == 0;
            errno = bound ? 0 : Marshal.GetLastPInvokeError();
        }

        if (!bound || Libc.listen(socket, backlog) != 0)
        {
            errno = bound ? Marshal.GetLastPInvokeError() : errno;
            socket.Dispose();
            throw new HandoffException($"Listening at {path} failed with {Errno.Describe(errno)}: " + errno switch
            {
                Errno.EADDRINUSE => "a handler listens there, or it is no socket.",
                Errno.ENOENT => "its directory does not exist.",
                _ => "may this user write to its directory?",
            });
        }

        return new DescriptorSocket(socket);
    }

    internal static DescriptorSocket Connect(string path)
    {
        SafeFileHandle socket = Create();
        Libc.SockAddr_un address = Address(path);
        if (Libc.connect(socket, &address, (uint)sizeof(Libc.SockAddr_un)) != 0)
        {
            int errno = Marshal.GetLastPInvokeError();
            socket.Dispose();
            throw new HandoffException($"Connecting to {path} failed with {Errno.Describe(errno)}: " + errno switch
            {
                Errno.ENOENT or Errno.ECONNREFUSED => "no handler listens there (yet).",
                Errno.EACCES => "the socket is another user's.",
                Errno.EAGAIN => "the handler's queue of connections is full.",
                _ => "is it a Unix stream socket?",
            });
        }

        return new DescriptorSocket(socket);
    }

    /// <summary>The next connection; null when none is waiting.</summary>
    internal DescriptorSocket? TryAccept()
    {
        SafeFileHandle socket = Libc.accept4(_socket, null, null, Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK);
        if (!socket.IsInvalid)
        {
            return new DescriptorSocket(socket);
        }

        int errno = Marshal.GetLastPInvokeError();
        return errno is Errno.EAGAIN or Errno.EINTR or Errno.ECONNABORTED
            ? null
            : throw new HandoffException($"Accepting a connection failed with {Errno.Describe(errno)}: raise RLIMIT_NOFILE when it is EMFILE.");
    }

    /// <summary>Who is at the other end, as the kernel knows it: at connect for a client, at listen for a server.</summary>
    internal Libc.UCred Peer()
    {
        Libc.UCred credentials;
        uint length = (uint)sizeof(Libc.UCred);
        // SAFETY: the kernel writes at most the bytes of the local.
        return Libc.getsockopt(_socket, Libc.SOL_SOCKET, Libc.SO_PEERCRED, &credentials, &length) == 0
            ? credentials
            : throw new HandoffException($"The peer's credentials cannot be had: {Errno.Describe(Marshal.GetLastPInvokeError())}.");
    }

    /// <summary>Waits for something to read, or the end of the stream; false when the time is over.</summary>
    internal bool Wait(short events, TimeSpan limit)
    {
        Libc.PollFd poll = new() { fd = (int)_socket.DangerousGetHandle(), events = events };
        Libc.Timespec time = new() { tv_sec = (long)limit.TotalSeconds, tv_nsec = limit.Ticks % TimeSpan.TicksPerSecond * 100 };
        // SAFETY: two locals.
        return Libc.ppoll(&poll, 1, &time, null) > 0;
    }

    /// <summary>Sends all bytes; the descriptors travel with the first of them.</summary>
    /// <exception cref="HandoffException">The peer has gone or takes nothing.</exception>
    internal void Send(ReadOnlySpan<byte> bytes, ReadOnlySpan<SafeHandle> descriptors, TimeSpan limit)
    {
        long start = Stopwatch.GetTimestamp();
        int* numbers = stackalloc int[MaxDescriptors];
        int taken = 0;
        try
        {
            foreach (SafeHandle descriptor in descriptors)
            {
                bool added = false;
                descriptor.DangerousAddRef(ref added);
                numbers[taken++] = (int)descriptor.DangerousGetHandle();
            }

            for (int sent = 0; sent < bytes.Length;)
            {
                nint n = SendOnce(bytes[sent..], numbers, sent == 0 ? taken : 0);
                if (n > 0)
                {
                    sent += (int)n;
                    continue;
                }

                int errno = Marshal.GetLastPInvokeError();
                TimeSpan left = limit - Stopwatch.GetElapsedTime(start);
                if (errno is not (Errno.EAGAIN or Errno.EINTR))
                {
                    throw new HandoffException($"The peer took {sent} of {bytes.Length} bytes, then the send failed with {Errno.Describe(errno)}" +
                        (errno == Errno.EBADF ? ": a descriptor is closed." : ": it has gone."));
                }

                if (left <= TimeSpan.Zero || (errno == Errno.EAGAIN && !Wait(Libc.POLLOUT, left)))
                {
                    throw new HandoffException($"The peer took {sent} of {bytes.Length} bytes in {limit.TotalSeconds:0.#} s and no more.");
                }
            }
        }
        finally
        {
            for (int i = 0; i < taken; i++)
            {
                descriptors[i].DangerousRelease();
            }
        }
    }

    /// <summary>Reads what is there, at least one byte; descriptors that come with it are added to the list.</summary>
    /// <returns>Bytes; 0 at the end of the stream.</returns>
    /// <exception cref="HandoffException">Nothing came in time, the peer broke off, or it sent more descriptors than fit.</exception>
    internal int Receive(Span<byte> into, List<SafeFileHandle> descriptors, TimeSpan limit)
    {
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            nint n = ReceiveOnce(into, descriptors);
            if (n >= 0)
            {
                return (int)n;
            }

            int errno = Marshal.GetLastPInvokeError();
            if (errno is not (Errno.EAGAIN or Errno.EINTR))
            {
                throw new HandoffException($"Reading from the peer failed with {Errno.Describe(errno)}.");
            }

            TimeSpan left = limit - Stopwatch.GetElapsedTime(start);
            if (left <= TimeSpan.Zero || (errno == Errno.EAGAIN && !Wait(Libc.POLLIN, left)))
            {
                throw new HandoffException($"The peer sent nothing for {limit.TotalSeconds:0.#} s.");
            }
        }
    }

    /// <summary>For a socket that has gone through its handshake: true when the other end is closed.</summary>
    internal bool IsAtEnd()
    {
        byte one;
        List<SafeFileHandle> dropped = [];
        nint n = ReceiveOnce(new Span<byte>(&one, 1), dropped);
        bool end = n == 0 || (n < 0 && Marshal.GetLastPInvokeError() is not (Errno.EAGAIN or Errno.EINTR));
        dropped.ForEach(d => d.Dispose());
        return end;
    }

    public void Dispose() => _socket.Dispose();

    private nint SendOnce(ReadOnlySpan<byte> bytes, int* descriptors, int count)
    {
        byte* control = stackalloc byte[ControlBytes(MaxDescriptors)];
        fixed (byte* p = bytes)
        {
            Libc.IoVec part = new() { iov_base = p, iov_len = (nuint)bytes.Length };
            Libc.MsgHdr message = new() { msg_iov = &part, msg_iovlen = 1 };
            if (count > 0)
            {
                Libc.CMsgHdr* header = (Libc.CMsgHdr*)control;
                header->cmsg_len = (nuint)(sizeof(Libc.CMsgHdr) + (count * sizeof(int)));
                header->cmsg_level = Libc.SOL_SOCKET;
                header->cmsg_type = Libc.SCM_RIGHTS;
                new ReadOnlySpan<int>(descriptors, count).CopyTo(new Span<int>(header + 1, count));
                message.msg_control = control;
                message.msg_controllen = (nuint)ControlBytes(count);
            }

            // SAFETY: all that the header points to is pinned or on this stack.
            return Libc.sendmsg(_socket, &message, Libc.MSG_NOSIGNAL);
        }
    }

    private nint ReceiveOnce(Span<byte> into, List<SafeFileHandle> descriptors)
    {
        int bytes = ControlBytes(MaxDescriptors);
        byte* control = stackalloc byte[bytes];
        nint n;
        Libc.MsgHdr message;
        fixed (byte* p = into)
        {
            Libc.IoVec part = new() { iov_base = p, iov_len = (nuint)into.Length };
            message = new() { msg_iov = &part, msg_iovlen = 1, msg_control = control, msg_controllen = (nuint)bytes };
            // SAFETY: all that the header points to is pinned or on this stack; the kernel says how much it wrote.
            n = Libc.recvmsg(_socket, &message, Libc.MSG_CMSG_CLOEXEC);
        }

        if (n < 0)
        {
            return n;
        }

        // SAFETY: the kernel's own list of control messages; each is as long as it says and aligned to a word.
        for (nuint at = 0; at + (nuint)sizeof(Libc.CMsgHdr) <= message.msg_controllen;)
        {
            Libc.CMsgHdr* header = (Libc.CMsgHdr*)(control + at);
            if (header->cmsg_level == Libc.SOL_SOCKET && header->cmsg_type == Libc.SCM_RIGHTS)
            {
                int count = (int)(header->cmsg_len - (nuint)sizeof(Libc.CMsgHdr)) / sizeof(int);
                foreach (int descriptor in new ReadOnlySpan<int>(header + 1, count))
                {
                    descriptors.Add(new SafeFileHandle((nint)descriptor, ownsHandle: true));
                }
            }

            at += (header->cmsg_len + (nuint)sizeof(nuint) - 1) & ~((nuint)sizeof(nuint) - 1);
        }

        return (message.msg_flags & Libc.MSG_CTRUNC) == 0
            ? n
            : throw new HandoffException("The peer sent more descriptors than one message can carry, or this process has no room for them: raise RLIMIT_NOFILE.");
    }

    /// <summary>The node of a handler that was killed: a socket at which nobody listens any more.</summary>
    private static bool IsLeftOver(Libc.SockAddr_un address)
    {
        using SafeFileHandle probe = Create();
        return Libc.connect(probe, &address, (uint)sizeof(Libc.SockAddr_un)) != 0 && Marshal.GetLastPInvokeError() == Errno.ECONNREFUSED;
    }

    private static int ControlBytes(int descriptors) =>
        sizeof(Libc.CMsgHdr) + (((descriptors * sizeof(int)) + sizeof(nuint) - 1) & ~(sizeof(nuint) - 1));

    private static SafeFileHandle Create()
    {
        SafeFileHandle socket = Libc.socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0);
        return !socket.IsInvalid
            ? socket
            : throw new HandoffException($"No Unix socket: {Errno.Describe(Marshal.GetLastPInvokeError())}; raise RLIMIT_NOFILE when it is EMFILE.");
    }

    private static Libc.SockAddr_un Address(string path)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(path);
        const int longest = 107;
        if (bytes.Length is 0 or > longest || Array.IndexOf(bytes, (byte)0) >= 0)
        {
            throw new HandoffException($"The path of a Unix socket has 1 to {longest} bytes and no zero byte; '{path}' has {bytes.Length}.");
        }

        Libc.SockAddr_un address = new() { sun_family = Libc.AF_UNIX };
        bytes.AsSpan().CopyTo(new Span<byte>(address.sun_path, longest));
        return address;
    }
}
