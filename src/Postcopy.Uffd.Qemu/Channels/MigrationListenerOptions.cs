using System.Net.Security;

namespace Postcopy.Uffd.Qemu;

/// <summary>How connections of a source are accepted.</summary>
public sealed record MigrationListenerOptions
{
    /// <summary>
    /// The kernel's receive buffer of a TCP connection, in bytes; 0 leaves the system's default. Requested pages queue
    /// behind what the kernel has buffered, so a small one pays (64 KiB instead of the default took the median of one
    /// request in flight from 11 to 4.9 ms, qemu-wire.md 8); the default is 128 KiB.
    /// </summary>
    public int ReceiveBufferBytes { get; init; } = 128 << 10;

    /// <summary>TLS for every connection; null for none. The source is the client (QEMU: tls-creds-x509, endpoint=client).</summary>
    public SslServerAuthenticationOptions? Tls { get; init; }

    /// <summary>How long a TLS handshake may take; the default is 10 s.</summary>
    public TimeSpan HandshakeTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>
    /// Permissions of a Unix socket's file; the default lets only the owner connect. Another user's process needs them, and its
    /// user in <see cref="AllowedUsers"/>.
    /// </summary>
    public UnixFileMode SocketMode { get; init; } = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    /// <summary>
    /// Users, by number, whose processes may connect over a Unix socket, beside this process's own user and root. The kernel says who
    /// connects (SO_PEERCRED); whoever may not is closed at once. None by default. Over TCP, use <see cref="Tls"/>.
    /// </summary>
    public IReadOnlyCollection<uint> AllowedUsers { get; init; } = [];

    /// <summary>
    /// Hears who was refused and why: a user who may not, a TLS handshake that failed. For the log; called on a pool thread, must not throw.
    /// </summary>
    public Action<string>? OnRefused { get; init; }
}
