namespace Postcopy.Uffd.Qemu;

/// <summary>The low bits of a RAM record's first eight bytes (RAM_SAVE_FLAG_*); the rest is the offset in the block.</summary>
[Flags]
internal enum RamFlags : uint
{
    None = 0,
    Full = 0x001,
    Zero = 0x002,
    MemSize = 0x004,
    Page = 0x008,
    Eos = 0x010,
    Continue = 0x020,
    Xbzrle = 0x040,
    Hook = 0x080,
    CompressPage = 0x100,
    MultifdFlush = 0x200,

    /// <summary>A <see cref="PageChecksum"/> follows the head. Ours: QEMU has no flag above 0x200, for targets with pages of 1 KiB.</summary>
    Checksum = 0x400,
}
