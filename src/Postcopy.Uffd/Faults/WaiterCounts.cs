using System.Globalization;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// How many threads the kernel holds on one userfaultfd, from <c>/proc/self/fdinfo</c>: <c>pending</c> counts those
/// whose message nobody has read yet, <c>total</c> all of them (<c>userfaultfd_show_fdinfo</c> in fs/userfaultfd.c).
/// </summary>
/// <param name="Pending">Waiters with an unread message.</param>
/// <param name="Total">All waiters.</param>
internal readonly record struct WaiterCounts(long Pending, long Total)
{
    private const int Longest = 512;

    /// <summary>Waiters whose message was read.</summary>
    internal long Read => Total - Pending;

    /// <summary>Asks the kernel; false when the descriptor is closed, is another file by now, or there is no /proc.</summary>
    internal static unsafe bool TryRead(int descriptor, out WaiterCounts counts)
    {
        counts = default;
        using SafeFileHandle file = Libc.open(string.Create(CultureInfo.InvariantCulture, $"/proc/self/fdinfo/{descriptor}"), Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (file.IsInvalid)
        {
            return false;
        }

        byte* text = stackalloc byte[Longest];
        // SAFETY: the buffer is a local of that many bytes.
        nint length = Libc.read(file, text, Longest);
        return length > 0 && TryParse(new ReadOnlySpan<byte>(text, (int)length), out counts);
    }

    internal static bool TryParse(ReadOnlySpan<byte> text, out WaiterCounts counts)
    {
        bool found = TryFind(text, "pending:"u8, out long pending) & TryFind(text, "total:"u8, out long total);
        counts = found ? new WaiterCounts(pending, total) : default;
        return found;
    }

    private static bool TryFind(ReadOnlySpan<byte> text, ReadOnlySpan<byte> name, out long value)
    {
        value = 0;
        int at = text.IndexOf(name);
        if (at < 0)
        {
            return false;
        }

        bool any = false;
        foreach (byte c in text[(at + name.Length)..])
        {
            if (c is >= (byte)'0' and <= (byte)'9')
            {
                value = (value * 10) + (c - '0');
                any = true;
            }
            else if (any || c == (byte)'\n')
            {
                break;
            }
        }

        return any;
    }
}
