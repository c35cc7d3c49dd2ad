namespace Postcopy.Uffd.Qemu;

/// <summary>The messages from the destination to the source (MIG_RP_MSG_*).</summary>
public enum ReturnPathMessageType : ushort
{
    /// <summary>Never sent; a source that gets it pauses, and a 7.2 source cannot be resumed after that.</summary>
    Invalid = 0,

    /// <summary>The last message: 0 for success, anything else for an error.</summary>
    Shut = 1,

    /// <summary>Answers a PING with its value.</summary>
    Pong = 2,

    /// <summary>Asks for pages of a named block.</summary>
    ReqPagesId = 3,

    /// <summary>Asks for pages of the block that was named last.</summary>
    ReqPages = 4,

    /// <summary>Answers the recovery's RECV_BITMAP command.</summary>
    RecvBitmap = 5,

    /// <summary>Answers the recovery's POSTCOPY_RESUME command.</summary>
    ResumeAck = 6,

    /// <summary>Tells a source with switchover-ack that the destination is ready for the switch.</summary>
    SwitchoverAck = 7,

    /// <summary>
    /// Asks for pages of a named block again, although they were sent: they arrived damaged. Ours, and only sent to a source
    /// that sends checksums (<see cref="QemuSourceOptions.PageChecksums"/>); laid out as <see cref="ReqPagesId"/>.
    /// </summary>
    ResendPagesId = 0x5043,
}
