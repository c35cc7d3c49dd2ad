namespace Postcopy.Uffd;

/// <summary>What a registered range reports: <c>UFFDIO_REGISTER_MODE_*</c>.</summary>
[Flags]
public enum UffdModes : ulong
{
    /// <summary>Nothing; the kernel refuses it.</summary>
    None = 0,

    /// <summary>Faults on pages that are not there (Linux 4.3).</summary>
    Missing = 1,

    /// <summary>Writes to write-protected pages (Linux 5.7).</summary>
    WriteProtect = 2,

    /// <summary>Faults on shared pages that are in the page cache and not mapped here (Linux 5.13).</summary>
    Minor = 4,
}
