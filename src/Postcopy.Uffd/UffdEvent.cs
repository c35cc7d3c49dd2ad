namespace Postcopy.Uffd;

/// <summary>The kind of a message: <c>UFFD_EVENT_*</c>.</summary>
public enum UffdEvent : byte
{
    /// <summary>A thread waits for a page.</summary>
    Pagefault = 0x12,

    /// <summary>The process forked; the message carries the child's descriptor.</summary>
    Fork = 0x13,

    /// <summary>A registered range was moved by mremap(2).</summary>
    Remap = 0x14,

    /// <summary>Pages were thrown away by madvise(2).</summary>
    Remove = 0x15,

    /// <summary>A registered range was unmapped.</summary>
    Unmap = 0x16,
}
