namespace Postcopy.Uffd.Hosting;

/// <summary>Settings of a hosted destination; plain values, so that they can come from configuration. Checked at the host's start.</summary>
public sealed class PostcopyHostingOptions
{
    /// <summary>Where to listen: <c>tcp:HOST:PORT</c> with a numeric address, or <c>unix:PATH</c>. Required; there is no default that lets strangers in.</summary>
    public string Listen { get; set; } = "";

    /// <summary>Permissions of a Unix socket's file, octal as in chmod(1); the default is 600.</summary>
    public string SocketMode { get; set; } = "600";

    /// <summary>Users, by number, who may connect over a Unix socket, beside the service's own and root; none by default.</summary>
    public ICollection<uint> AllowedUsers { get; } = [];

    /// <summary>PEM file of the TLS certificate; null, the default, is no TLS. Given together with <see cref="TlsKey"/>.</summary>
    public string? TlsCertificate { get; set; }

    /// <summary>PEM file of its private key.</summary>
    public string? TlsKey { get; set; }

    /// <summary>PEM file of the authority that must have signed the source's certificate; null lets any source in.</summary>
    public string? TlsAuthority { get; set; }

    /// <summary>The source has the capability postcopy-preempt (see QemuIncomingOptions.Preempt).</summary>
    public bool Preempt { get; set; }

    /// <summary>How long to wait for a new connection after one was lost in postcopy, 0 to 7 days; 0 gives up at once. The default is 10 minutes.</summary>
    public TimeSpan RecoverTimeout { get; set; } = TimeSpan.FromMinutes(10);

    /// <summary>How long the main connection may stand still before it counts as lost, 100 ms to 1 day; the default is 30 s.</summary>
    public TimeSpan StallTimeout { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>How long a page may stay away before the health check says degraded and the log warns, 10 ms to 1 day; the default is 5 s.</summary>
    public TimeSpan StallAlarm { get; set; } = TimeSpan.FromSeconds(5);

    /// <summary>Whether blocktime is measured; it is by default.</summary>
    public bool Blocktime { get; set; } = true;

    /// <summary>Follow balloons and other changes of the address space (see PostcopyOptions.FollowMemoryEvents).</summary>
    public bool FollowMemoryEvents { get; set; }

    /// <summary>Take a descriptor for faults of user mode when there is no other. Wrong for KVM guests (H22); off by default.</summary>
    public bool AllowUserModeOnly { get; set; }

    /// <summary>Ends the application when the migration failed; off by default, because a frozen guest can still be looked at.</summary>
    public bool StopApplicationOnFailure { get; set; }
}
