namespace Postcopy.Uffd.Benchmarks.Lab;

/// <summary>
/// Lets the host back memory before anything is measured: in a virtual machine the first touch of a page that the host
/// has not given yet costs several times what placing it does.
/// </summary>
internal static class WarmMemory
{
    internal static void Touch(long bytes)
    {
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = bytes });
        memory.Populate(0, bytes, forWriting: true);
    }
}
