namespace Postcopy.Uffd.Qemu;

/// <summary>The numbers of QEMU's migration stream that stand alone. Everything on the wire is big endian but the received bitmap.</summary>
public static class QemuWire
{
    /// <summary>QEMU_VM_FILE_MAGIC, "QEVM": the first four bytes of a migration, absent after a reconnect.</summary>
    public const uint FileMagic = 0x5145564d;

    /// <summary>QEMU_VM_FILE_VERSION, the only stream version since 2008.</summary>
    public const uint FileVersion = 3;

    /// <summary>The name of the section with the guest's memory.</summary>
    public const string RamSectionName = "ram";

    /// <summary>The version of the ram section in every QEMU with postcopy.</summary>
    public const uint RamSectionVersion = 4;

    /// <summary>The instance of the ram section.</summary>
    public const uint RamSectionInstance = 0;

    /// <summary>Stands behind a received bitmap so that a length that went wrong is noticed.</summary>
    public const ulong ReceivedBitmapEnd = 0x0123456789abcdef;

    /// <summary>MIGRATION_RESUME_ACK_VALUE: the only value of a RESUME_ACK that lets the source go on.</summary>
    public const uint ResumeAckValue = 1;

    /// <summary>The PING right after OPEN_RETURN_PATH; with preempt, sources from 8.0 on wait for its PONG.</summary>
    public const uint PingReturnPathOpen = 1;

    /// <summary>The PING before the package.</summary>
    public const uint PingBeforePackage = 2;

    /// <summary>The PING inside the package, before RUN.</summary>
    public const uint PingInPackage = 3;

    /// <summary>The PING after the package.</summary>
    public const uint PingAfterPackage = 4;

    /// <summary>
    /// The PING right before RUN that sources from 10.2 on send. Its PONG is the point of no return: before it the source may
    /// start its guest again, after it never.
    /// </summary>
    public const uint PingPointOfNoReturn = 0x42;

    /// <summary>
    /// A PING of our own, by a source that sends checksums before it ends the stream: when its PONG is here, everything that
    /// arrived damaged on the main connection has been asked for again. QEMU would answer it like any other.
    /// </summary>
    public const uint PingPagesVerified = 0x5043;

    /// <summary>The target page of every target with 4 KiB pages; other targets announce theirs in the configuration.</summary>
    public const int DefaultTargetPageBits = 12;

    /// <summary>How a channel of the capability multifd begins.</summary>
    internal const uint MultifdMagic = 0x11223344;

    /// <summary>The u8 version that starts the payload of a discard command.</summary>
    internal const byte DiscardVersion = 0;

    /// <summary>The ranges that QEMU puts into one discard command at most.</summary>
    internal const int DiscardRangesPerCommand = 12;

    /// <summary>The u8 that precedes an XBZRLE delta.</summary>
    internal const byte XbzrleEncoding = 1;
}
