namespace Postcopy.Uffd.Qemu;

/// <summary>
/// Applies XBZRLE, the delta form of a page in precopy: run lengths alternate between bytes that stay and bytes that follow,
/// beginning with those that stay.
/// </summary>
public static class XbzrleDelta
{
    /// <summary>Changes a page by a delta; false, with the page in part changed, when the delta is malformed.</summary>
    /// <param name="delta">The delta, as handed out by <see cref="QemuStreamReader.Data"/>.</param>
    /// <param name="page">The page's previous content, in a buffer of the caller's: a copy, not the guest memory itself.</param>
    public static bool TryApply(ReadOnlySpan<byte> delta, Span<byte> page)
    {
        int at = 0;
        bool first = true;
        while (!delta.IsEmpty)
        {
            // Only the very first run may be empty: a page that changes from its first byte on.
            if (!TryReadRun(ref delta, out int same) || (same == 0 && !first) || same > page.Length - at)
            {
                return false;
            }

            first = false;
            at += same;
            if (delta.IsEmpty)
            {
                return true;
            }

            if (!TryReadRun(ref delta, out int changed) || changed == 0 || changed > page.Length - at || changed > delta.Length)
            {
                return false;
            }

            delta[..changed].CopyTo(page[at..]);
            delta = delta[changed..];
            at += changed;
        }

        return true;
    }

    /// <summary>Reads a ULEB128 of one or two bytes.</summary>
    private static bool TryReadRun(ref ReadOnlySpan<byte> delta, out int run)
    {
        run = 0;
        if (delta.IsEmpty)
        {
            return false;
        }

        run = delta[0] & 0x7f;
        if ((delta[0] & 0x80) == 0)
        {
            delta = delta[1..];
            return true;
        }

        if (delta.Length < 2 || (delta[1] & 0x80) != 0)
        {
            return false;
        }

        run |= delta[1] << 7;
        delta = delta[2..];
        return true;
    }
}
