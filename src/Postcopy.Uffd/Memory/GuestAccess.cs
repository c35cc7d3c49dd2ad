using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// The one place where bytes go in or out of guest memory that may be missing. libc's memcpy runs in preemptive mode:
/// a thread that waits here for a page does not stop a garbage collection, and so not the fault thread (hazard H1).
/// The managed side of each copy is pinned and never guest memory.
/// </summary>
internal static class GuestAccess
{
    internal static unsafe void Read(nuint address, Span<byte> to)
    {
        // SAFETY: the span is pinned for the call; the caller checked that the range lies in a live mapping.
        fixed (byte* p = to)
        {
            _ = Libc.memcpy((nuint)p, address, (nuint)to.Length);
        }
    }

    internal static unsafe void Write(nuint address, ReadOnlySpan<byte> from)
    {
        // SAFETY: as in Read.
        fixed (byte* p = from)
        {
            _ = Libc.memcpy(address, (nuint)p, (nuint)from.Length);
        }
    }

    internal static void CheckRange(long offset, long length, long limit, string what)
    {
        if (offset < 0 || length < 0 || offset > limit - length)
        {
            throw new ArgumentOutOfRangeException(nameof(offset),
                $"The range of {length} bytes at offset {offset} does not lie inside {what}, which has {limit} bytes.");
        }
    }
}
