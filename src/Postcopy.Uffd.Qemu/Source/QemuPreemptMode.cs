namespace Postcopy.Uffd.Qemu;

/// <summary>When a source opens the urgent channel of postcopy-preempt.</summary>
public enum QemuPreemptMode
{
    /// <summary>Never: requested pages travel on the main channel.</summary>
    None,

    /// <summary>At the beginning, and ended by a mark: QEMU 7.1 and 7.2.</summary>
    AtStart,

    /// <summary>At the switch, after the first PONG, and without an end mark: QEMU 8.0 and later.</summary>
    AtSwitch,
}
