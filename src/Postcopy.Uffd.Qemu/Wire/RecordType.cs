namespace Postcopy.Uffd.Qemu;

/// <summary>The byte that starts a record of the main stream (QEMU_VM_*).</summary>
internal enum RecordType : byte
{
    Eof = 0x00,
    SectionStart = 0x01,
    SectionPart = 0x02,
    SectionEnd = 0x03,
    SectionFull = 0x04,
    Subsection = 0x05,
    VmDescription = 0x06,
    Configuration = 0x07,
    Command = 0x08,
    SectionFooter = 0x7e,
}
