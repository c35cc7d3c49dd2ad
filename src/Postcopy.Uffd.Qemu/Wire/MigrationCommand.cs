namespace Postcopy.Uffd.Qemu;

/// <summary>The commands of the main stream (MIG_CMD_*).</summary>
internal enum MigrationCommand : ushort
{
    Invalid = 0,
    OpenReturnPath = 1,
    Ping = 2,
    PostcopyAdvise = 3,
    PostcopyListen = 4,
    PostcopyRun = 5,
    PostcopyRamDiscard = 6,
    Packaged = 7,
    EnableColo = 8,
    PostcopyResume = 9,
    RecvBitmap = 10,
    SwitchoverStart = 11,
}
