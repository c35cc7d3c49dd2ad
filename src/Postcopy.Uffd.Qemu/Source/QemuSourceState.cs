namespace Postcopy.Uffd.Qemu;

/// <summary>Where a source stands, with QEMU's names.</summary>
public enum QemuSourceState
{
    /// <summary>Not started.</summary>
    None,

    /// <summary>Precopy: the block list, and pages while the guest would run here.</summary>
    Active,

    /// <summary>The package is sent, its point of no return not confirmed: a failure now lets the source's guest go on.</summary>
    PostcopyDevice,

    /// <summary>The destination owns the guest; pages follow.</summary>
    PostcopyActive,

    /// <summary>The connection broke in postcopy: <see cref="QemuSource.ResumeAsync"/> goes on over a new one.</summary>
    PostcopyPaused,

    /// <summary>On a new connection, before the destination's RESUME_ACK.</summary>
    PostcopyRecover,

    /// <summary>The destination has everything and said so.</summary>
    Completed,

    /// <summary>Over without success; see <see cref="QemuSource.Error"/>.</summary>
    Failed,

    /// <summary>Ended by this side.</summary>
    Cancelled,
}
