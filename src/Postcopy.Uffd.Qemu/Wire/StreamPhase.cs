namespace Postcopy.Uffd.Qemu;

/// <summary>How far the stream has come, in QEMU's order; each command is legal in its phase only.</summary>
public enum StreamPhase
{
    /// <summary>Nothing is announced yet.</summary>
    None,

    /// <summary>POSTCOPY_ADVISE came: the block list and precopy pages may follow.</summary>
    Advise,

    /// <summary>At least one discard came: no pages until the package.</summary>
    Discard,

    /// <summary>The package with LISTEN and RUN came: pages come in postcopy, on the main and on the urgent channel.</summary>
    Running,

    /// <summary>EOF: nothing more comes on the main channel.</summary>
    End,
}
