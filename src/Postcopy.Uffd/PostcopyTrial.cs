using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>
/// One trial of postcopy on scratch memory. Each step adds its check and says whether the next ones make sense.
/// The single page of each step is discarded before the next, so that a huge-page pool must spare one page only.
/// </summary>
internal sealed partial class PostcopyTrial(GuestMemoryKind kind, PageSize pageSize, UffdOpenOptions options)
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(5);

    private readonly List<HostCheck> _checks = [];

    internal IReadOnlyList<HostCheck> Checks => _checks;

    internal UffdOperations Operations { get; private set; }

    // Pages of a gigabyte take seconds to copy; the small steps are enough to tell that the kernel can.
    private bool TooLargeToTry => pageSize.Bytes >= PageSize.OneGiB.Bytes;

    internal void Run()
    {
        using UffdHandle? uffd = Open();
        if (uffd is null || !Handshake(uffd))
        {
            return;
        }

        GuestMemory? memory = Allocate();
        if (memory is null)
        {
            return;
        }

        bool free = true;
        try
        {
            if (!Unlocked(memory) || !Register(uffd, memory))
            {
                return;
            }

            if (TooLargeToTry)
            {
                _checks.Add(HostCheck.Warn("fault", $"not tried: one page of {pageSize} takes seconds to copy, and every vCPU that touches it waits for all of it",
                    "prefer pages of 2 MiB for postcopy"));
                return;
            }

            using Buffer source = new(pageSize.Bytes);
            free = Fault(uffd, memory, source) && RunOperations(uffd, memory, source);
        }
        finally
        {
            // A thread that is still blocked goes on with zeros when the registration ends; memory under a thread that
            // does not come back is never unmapped.
            TryUnregister(uffd, memory);
            if (free || _faultingThreadIsBack.Wait(s_patience))
            {
                memory.Dispose();
            }
        }
    }

    private UffdHandle? Open()
    {
        try
        {
            UffdHandle uffd = UffdHandle.Open(options);
            _checks.Add(HostCheck.Ok("open", uffd.OpenedBy));
            if (uffd.UserModeOnly)
            {
                _checks.Add(HostCheck.Warn("user-mode-only",
                    "only faults of user mode are handled; a KVM guest or a system call on a missing page fails with EFAULT",
                    $"for a KVM guest give user {Libc.geteuid()} the device: setfacl -m u:{Libc.geteuid()}:rw {options.DevicePath}"));
            }

            return uffd;
        }
        catch (UffdOpenException e)
        {
            _checks.Add(HostCheck.Fail("open",
                string.Join("; ", e.Attempts.Select(a => $"{a.Way}: {Errno.Describe(a.Errno)}")),
                string.Join(" Or: ", e.Attempts.Select(a => a.Remedy))));
        }
        catch (PlatformNotSupportedException e)
        {
            _checks.Add(HostCheck.Fail("open", e.Message, "run on 64-bit Linux on x64 or arm64"));
        }

        return null;
    }

    private bool Handshake(UffdHandle uffd)
    {
        UffdFeatures required = kind switch
        {
            GuestMemoryKind.Memfd => UffdFeatures.MissingShmem,
            GuestMemoryKind.Hugetlb => UffdFeatures.MissingHugetlbfs,
            _ => UffdFeatures.None,
        };
        try
        {
            UffdGrant grant = uffd.Negotiate(required, UffdFeatures.ThreadId | UffdFeatures.Move | UffdFeatures.Poison
                | UffdFeatures.MinorShmem | UffdFeatures.MinorHugetlbfs);
            _checks.Add(HostCheck.Ok("handshake", $"the kernel offers {grant.Offered}"));
            _checks.Add(grant.Has(UffdFeatures.ThreadId)
                ? HostCheck.Ok("thread-id", "messages name the faulting thread, so blocktime can be measured")
                : HostCheck.Warn("thread-id", "messages do not name the faulting thread: no blocktime", "use Linux 4.14 or newer"));
            return true;
        }
        catch (UffdException e)
        {
            _checks.Add(HostCheck.Fail("handshake", e.Message, "use a newer kernel, or another kind of memory"));
            return false;
        }
    }

    private GuestMemory? Allocate()
    {
        try
        {
            return GuestMemory.Allocate(new GuestMemoryOptions { Kind = kind, PageSize = pageSize, Length = pageSize.Bytes, Name = "postcopy-trial" });
        }
        catch (GuestMemoryException e)
        {
            _checks.Add(HostCheck.Fail("memory", e.Message, kind == GuestMemoryKind.Hugetlb ? "enlarge the pool as said" : "give the process more memory"));
            return null;
        }
    }

    private bool Unlocked(GuestMemory memory)
    {
        // mlockall(MCL_FUTURE) backs new memory at once, so no page of it would ever be missing (hazard H21).
        if (ProcessMaps.Overlapping(memory.Range, withFlags: true).Exists(m => m.IsLocked))
        {
            _checks.Add(HostCheck.Fail("locked-memory", "new memory is locked, so it is backed at once and never missing (mlockall with MCL_FUTURE)",
                "call munlockall() before the migration and lock again after its completion"));
            return false;
        }

        _checks.Add(HostCheck.Ok("locked-memory", "new memory is not locked"));
        return true;
    }

    private bool Register(UffdHandle uffd, GuestMemory memory)
    {
        bool minor = kind switch
        {
            GuestMemoryKind.Memfd => uffd.Granted.HasFlag(UffdFeatures.MinorShmem),
            GuestMemoryKind.Hugetlb => memory.IsShared && uffd.Granted.HasFlag(UffdFeatures.MinorHugetlbfs),
            _ => false,
        };
        try
        {
            Operations = uffd.Register(memory.Range, UffdModes.Missing | (minor ? UffdModes.Minor : 0)).Operations;
            _checks.Add(HostCheck.Ok("register", $"grants {Operations}"));
            return true;
        }
        catch (UffdException e)
        {
            _checks.Add(HostCheck.Fail("register", e.Message, "use another kind of memory, or a newer kernel"));
            return false;
        }
    }

    private static void TryUnregister(UffdHandle uffd, GuestMemory memory)
    {
        try
        {
            uffd.Unregister(memory.Range);
        }
        catch (UffdException)
        {
            // Only a mapping that was never registered as a whole is refused, and that has no waiters.
        }
    }

    /// <summary>Native memory outside every registration, as the source of copies must be (hazard H30).</summary>
    private sealed class Buffer : IDisposable
    {
        private readonly nuint _bytes;

        internal Buffer(long bytes)
        {
            _bytes = (nuint)bytes;
            Address = NativeZeroMemory.Map(_bytes);
            Fill(Pattern);
        }

        internal const byte Pattern = 0xA5;

        internal nuint Address { get; }

        internal void Fill(byte value) => _ = Libc.memset(Address, value, _bytes);

        public void Dispose() => NativeZeroMemory.Unmap(Address, _bytes);
    }
}
