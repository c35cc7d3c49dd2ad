using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;
using static Postcopy.Uffd.Interop.Userfaultfd;

namespace Postcopy.Uffd;

/// <content>
/// The hot operations: no exception, no allocation. Two rules of the kernel shape all of them (measured on 6.18,
/// kernel-uapi section 5). First: full success returns 0; any progress returns EAGAIN with the bytes done, whatever
/// the reason of the stop; no progress returns the reason. Second: the output field is not written for EINVAL of the
/// range check nor for ESRCH, so it is set to 0 before and read only after 0 or EAGAIN.
/// </content>
public sealed partial class UffdHandle
{
    /// <summary>
    /// Reads as many messages as are there and fit. Pending faults come before older events (measured), so a batch
    /// is handled events first (hazard H4).
    /// </summary>
    /// <param name="into">
    /// Room for at least one message, in native or pinned memory that is not guest memory.
    /// </param>
    /// <param name="outcome">Done; TargetGone never comes here: an exited target reads as empty for ever (hazard H37).</param>
    /// <returns>Messages read; 0 when there are none.</returns>
    public unsafe int Read(Span<UffdMessage> into, out UffdOutcome outcome)
    {
        // SAFETY: the kernel writes at most the bytes of the span, which stays fixed during the call.
        fixed (UffdMessage* p = into)
        {
            while (true)
            {
                nint n = Libc.read(this, p, (nuint)into.Length * UffdMessage.Size);
                if (n >= 0)
                {
                    outcome = UffdOutcome.Done;
                    return (int)(n / UffdMessage.Size);
                }

                switch (Marshal.GetLastPInvokeError())
                {
                    case Errno.EINTR:
                        continue;
                    case Errno.EAGAIN:
                        outcome = UffdOutcome.Done;
                        return 0;
                    case Errno.EINVAL:
                        outcome = UffdOutcome.InvalidArgument;
                        return 0;
                    default:
                        outcome = UffdOutcome.Unexpected;
                        return 0;
                }
            }
        }
    }

    /// <summary>Wakes every thread that waits in the range; each touches its page again. Harmless when nobody waits.</summary>
    /// <param name="start">Page-aligned start.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <returns>Done, also for a range nobody registered; InvalidArgument for a bad range.</returns>
    public unsafe UffdResult Wake(nuint start, nuint length)
    {
        uffdio_range argument = new() { start = start, len = length };
        // SAFETY: the struct is a local of the size that the ioctl number encodes.
        int errno = Control(UFFDIO_WAKE, &argument);
        return errno == 0
            ? new UffdResult(UffdOutcome.Done, (long)length, 0)
            : Interpret(errno, 0, UffdOutcome.Unexpected, UffdOutcome.Unexpected);
    }

    /// <summary>Copies pages into missing ones, atomically each, and wakes their waiters.</summary>
    /// <param name="destination">Page-aligned start in the registered range.</param>
    /// <param name="source">
    /// Bytes to copy; needs no alignment. Safety: it must stay readable for <paramref name="length"/> bytes during the
    /// call and must not lie in a range registered with any userfaultfd of the caller (hazard H30).
    /// </param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <param name="flags">Modes.</param>
    public unsafe UffdResult Copy(nuint destination, nuint source, nuint length, UffdPlaceFlags flags = UffdPlaceFlags.None)
    {
        uffdio_copy argument = new() { dst = destination, src = source, len = length, mode = (ulong)flags, copy = 0 };
        // SAFETY: the struct is a local of the size that the ioctl number encodes; the kernel checks both addresses.
        int errno = Control(UFFDIO_COPY, &argument);
        return errno == 0
            ? new UffdResult(UffdOutcome.Done, (long)length, 0)
            : Interpret(errno, argument.copy, UffdOutcome.NotRegistered, UffdOutcome.SourceUnreadable);
    }

    /// <summary>Maps the zero page into missing pages and wakes their waiters. Not for hugetlb memory.</summary>
    /// <param name="start">Page-aligned start.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <param name="flags">None or DontWake.</param>
    public unsafe UffdResult Zeropage(nuint start, nuint length, UffdPlaceFlags flags = UffdPlaceFlags.None)
    {
        uffdio_zeropage argument = new() { range = Range(start, length), mode = (ulong)flags, zeropage = 0 };
        // SAFETY: as in Copy.
        int errno = Control(UFFDIO_ZEROPAGE, &argument);
        return errno == 0
            ? new UffdResult(UffdOutcome.Done, (long)length, 0)
            : Interpret(errno, argument.zeropage, UffdOutcome.NotRegistered, UffdOutcome.BeyondEndOfFile);
    }

    /// <summary>
    /// Moves pages out of private anonymous memory of this process into missing ones, without copying (Linux 6.8).
    /// The source becomes a hole.
    /// </summary>
    /// <param name="destination">Page-aligned start in the registered range.</param>
    /// <param name="source">Page-aligned private anonymous memory. Safety: nothing may use it while it is moved.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <param name="flags">Modes.</param>
    public unsafe UffdResult Move(nuint destination, nuint source, nuint length, UffdMoveFlags flags = UffdMoveFlags.None)
    {
        uffdio_move argument = new() { dst = destination, src = source, len = length, mode = (ulong)flags, move = 0 };
        // SAFETY: as in Copy.
        int errno = Control(UFFDIO_MOVE, &argument);
        return errno == 0
            ? new UffdResult(UffdOutcome.Done, (long)length, 0)
            : Interpret(errno, argument.move, UffdOutcome.SourceHoleOrUnmapped, UffdOutcome.SourceUnreadable);
    }

    /// <summary>
    /// Maps pages that are in the page cache of shared memory into this mapping and wakes their waiters (Linux 5.13;
    /// the range must be registered for minor faults).
    /// </summary>
    /// <param name="start">Page-aligned start.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <param name="flags">Modes.</param>
    public unsafe UffdResult Continue(nuint start, nuint length, UffdPlaceFlags flags = UffdPlaceFlags.None)
    {
        uffdio_continue argument = new() { range = Range(start, length), mode = (ulong)flags, mapped = 0 };
        // SAFETY: as in Copy.
        int errno = Control(UFFDIO_CONTINUE, &argument);
        return errno == 0
            ? new UffdResult(UffdOutcome.Done, (long)length, 0)
            : Interpret(errno, argument.mapped, UffdOutcome.NotRegistered, UffdOutcome.NotInPageCache);
    }

    /// <summary>
    /// Makes missing pages deadly: a touch gets SIGBUS (or EFAULT in a system call) instead of zeros (Linux 6.6). A
    /// later COPY heals the page.
    /// </summary>
    /// <param name="start">Page-aligned start.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <param name="flags">None or DontWake.</param>
    public unsafe UffdResult Poison(nuint start, nuint length, UffdPlaceFlags flags = UffdPlaceFlags.None)
    {
        uffdio_poison argument = new() { range = Range(start, length), mode = (ulong)flags, updated = 0 };
        // SAFETY: as in Copy.
        int errno = Control(UFFDIO_POISON, &argument);
        return errno == 0
            ? new UffdResult(UffdOutcome.Done, (long)length, 0)
            : Interpret(errno, argument.updated, UffdOutcome.NotRegistered, UffdOutcome.BeyondEndOfFile);
    }

    /// <summary>Sets or lifts write protection; lifting wakes the waiters unless told not to.</summary>
    /// <param name="start">Page-aligned start.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <param name="protect">True sets the protection, false lifts it.</param>
    /// <param name="dontWake">With lifting: do not wake. The kernel refuses it together with protecting.</param>
    public unsafe UffdResult WriteProtect(nuint start, nuint length, bool protect, bool dontWake = false)
    {
        uffdio_writeprotect argument = new() { range = Range(start, length), mode = (protect ? 1UL : 0) | (dontWake ? 2UL : 0) };
        // SAFETY: as in Copy.
        int errno = Control(UFFDIO_WRITEPROTECT, &argument);
        return errno == 0
            ? new UffdResult(UffdOutcome.Done, (long)length, 0)
            : Interpret(errno, 0, UffdOutcome.NotRegistered, UffdOutcome.Unexpected);
    }

    /// <summary>The ioctl, and its errno; 0 when it succeeded. Errno is only asked for after a failure: most calls need two fewer calls of the runtime.</summary>
    private unsafe int Control(nuint request, void* argument)
    {
        bool referenced = false;
        try
        {
            DangerousAddRef(ref referenced);
            return Libc.ioctl_descriptor((int)handle, request, argument) == 0 ? 0 : Libc.LastError;
        }
        finally
        {
            if (referenced)
            {
                DangerousRelease();
            }
        }
    }

    private static uffdio_range Range(nuint start, nuint length) => new() { start = start, len = length };

    /// <summary>The errno contract of all placing operations; two errnos differ in meaning between them.</summary>
    internal static UffdResult Interpret(int errno, long field, UffdOutcome onNoEntry, UffdOutcome onFault) => errno switch
    {
        // A positive field is progress; anything else is a negative errno or untouched, never a length.
        Errno.EAGAIN when field > 0 => new UffdResult(UffdOutcome.Partial, field, errno),
        Errno.EAGAIN => new UffdResult(UffdOutcome.AddressSpaceChanging, 0, errno),
        Errno.EEXIST => new UffdResult(UffdOutcome.AlreadyPresent, 0, errno),
        Errno.ENOENT => new UffdResult(onNoEntry, 0, errno),
        Errno.ESRCH or Errno.ENOSPC => new UffdResult(UffdOutcome.TargetGone, 0, errno),
        Errno.EINVAL => new UffdResult(UffdOutcome.InvalidArgument, 0, errno),
        Errno.EFAULT => new UffdResult(onFault, 0, errno),
        Errno.EBUSY => new UffdResult(UffdOutcome.SourceBusy, 0, errno),
        Errno.ENOMEM => new UffdResult(UffdOutcome.OutOfMemory, 0, errno),
        Errno.EHWPOISON => new UffdResult(UffdOutcome.SourcePoisoned, 0, errno),
        _ => new UffdResult(UffdOutcome.Unexpected, 0, errno),
    };
}
