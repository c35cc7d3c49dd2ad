namespace Postcopy.Uffd.Qemu;

/// <summary>What <see cref="QemuStreamReader.ReadNext"/> found.</summary>
public enum StreamRecordKind
{
    /// <summary>Nothing: only from <see cref="QemuStreamReader.TryReadBuffered"/>, when more bytes must be received first.</summary>
    None,

    /// <summary>The configuration was read; <see cref="MigrationStreamState.MachineType"/> is known.</summary>
    Configuration,

    /// <summary>The source listens to the return path from now on.</summary>
    OpenReturnPath,

    /// <summary>A PING that wants a PONG with <see cref="QemuStreamReader.PingValue"/>.</summary>
    Ping,

    /// <summary>POSTCOPY_ADVISE: postcopy may follow.</summary>
    PostcopyAdvise,

    /// <summary>The block list is complete: <see cref="MigrationStreamState.Blocks"/>.</summary>
    BlockList,

    /// <summary>A target page at <see cref="QemuStreamReader.Data"/>, plain or unpacked.</summary>
    Page,

    /// <summary>A target page of zeros.</summary>
    ZeroPage,

    /// <summary>A target page as a delta to its previous content (precopy only): see <see cref="XbzrleDelta"/>.</summary>
    XbzrlePage,

    /// <summary>
    /// A target page that is not what its checksum says: <see cref="QemuStreamReader.CorruptPage"/>. Its bytes must not be
    /// used; the page is still missing.
    /// </summary>
    CorruptPage,

    /// <summary>A ram section is complete, footer included.</summary>
    SectionEnd,

    /// <summary>Ranges that are, or will be, invalid here: <see cref="QemuStreamReader.Discards"/> of <see cref="QemuStreamReader.Block"/>.</summary>
    Discard,

    /// <summary>The device package with LISTEN and RUN: <see cref="QemuStreamReader.Package"/>.</summary>
    Package,

    /// <summary>Recovery: the source wants the received bitmap of <see cref="QemuStreamReader.Block"/>.</summary>
    ReceivedBitmapRequest,

    /// <summary>Recovery: the source has all bitmaps and wants a RESUME_ACK.</summary>
    PostcopyResume,

    /// <summary>EOF of the main stream, or the end mark of the urgent channel. Nothing follows on this channel.</summary>
    EndOfStream,
}
