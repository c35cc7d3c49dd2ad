using System.Diagnostics;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>The steps that place, discard and poison the one page.</content>
internal sealed partial class PostcopyTrial
{
    private readonly ManualResetEventSlim _faultingThreadIsBack = new(initialState: true);

    /// <summary>A thread touches the missing page, the message is read, the page copied, the thread goes on.</summary>
    private bool Fault(UffdHandle uffd, GuestMemory memory, Buffer source)
    {
        byte seen = 0;
        _faultingThreadIsBack.Reset();
        Thread thread = new(() =>
        {
            seen = ReadByte(memory.Address);
            _faultingThreadIsBack.Set();
        })
        {
            IsBackground = true,
            Name = "postcopy trial",
        };
        thread.UnsafeStart();

        if (!TryReadMessage(uffd, out UffdMessage message))
        {
            _checks.Add(HostCheck.Fail("fault", $"no message came within {s_patience.TotalSeconds:0} s of a touch of a missing page",
                "is the memory locked or populated by another part of the process?"));
            return false;
        }

        UffdResult copy = uffd.Copy(memory.Address, source.Address, (nuint)pageSize.Bytes);
        bool right = message.Event == UffdEvent.Pagefault && pageSize.AlignDown(message.Address) == memory.Address;
        if (!right || !copy.IsDone)
        {
            _checks.Add(HostCheck.Fail("fault", $"message '{message}' for the page at 0x{(ulong)memory.Address:x}, COPY: {copy}",
                copy.Outcome == UffdOutcome.AlreadyPresent ? "on hugetlb memory this is also the answer of an exhausted pool: enlarge it" : "report this with the kernel's version"));
            return false;
        }

        if (!_faultingThreadIsBack.Wait(s_patience) || seen != Buffer.Pattern)
        {
            _checks.Add(HostCheck.Fail("fault", $"the thread read 0x{seen:x2} instead of 0x{Buffer.Pattern:x2}, or was not woken", "report this with the kernel's version"));
            return false;
        }

        _checks.Add(HostCheck.Ok("fault", $"a thread waited for its page and read what was copied{(message.ThreadId == 0 ? "" : ", and the message named it")}"));
        return true;
    }

    private bool RunOperations(UffdHandle uffd, GuestMemory memory, Buffer source)
    {
        nuint page = (nuint)pageSize.Bytes;
        if (!Discard(memory))
        {
            return true;
        }

        UffdResult again = uffd.Copy(memory.Address, source.Address, page);
        _checks.Add(again.IsDone
            ? HostCheck.Ok("discard", "a discarded page is missing again")
            : HostCheck.Fail("discard", $"a page stayed after its discard; COPY: {again}", "another mapping or a lock keeps it: nothing may map or lock guest memory during postcopy"));

        _checks.Add(Operations.HasFlag(UffdOperations.Zeropage)
            ? Try("zeropage", memory, () => uffd.Zeropage(memory.Address, page), "zero pages cost no memory", "zero pages are copied")
            : HostCheck.Ok("zeropage", "not for this kind of memory; zero pages are copied"));
        if (kind == GuestMemoryKind.Anonymous)
        {
            _checks.Add(Operations.HasFlag(UffdOperations.Move)
                ? Try("move", memory, () => uffd.Move(memory.Address, source.Address, page), "pages can be moved in without a copy, whole huge pages too", "huge pages are split by postcopy")
                : HostCheck.Warn("move", "not offered: huge pages are split by postcopy", "use Linux 6.8 or newer"));
            if (Operations.HasFlag(UffdOperations.Move) && PageSize.Host.Bytes == HostPageAssembler.TargetPageBytes)
            {
                _checks.Add(HugeMove(uffd));
            }
        }

        if (memory.File is { } file)
        {
            _checks.Add(Operations.HasFlag(UffdOperations.Continue)
                ? Continue(uffd, memory, file)
                : HostCheck.Warn("continue", "no minor faults: pages that another process wrote cannot be mapped atomically", "use Linux 5.14 or newer"));
        }

        // The last step, because only a discard heals the page and not every kernel's does.
        _checks.Add(Operations.HasFlag(UffdOperations.Poison)
            ? Try("poison", memory, () => uffd.Poison(memory.Address, page), "missing pages can be made to fail loudly", "a shutdown with missing pages can only wait or feed zeros")
            : HostCheck.Warn("poison", "not offered: a shutdown with missing pages can only wait or feed zeros", "use Linux 6.6 or newer"));
        return true;
    }

    private HostCheck Try(string name, GuestMemory memory, Func<UffdResult> operation, string works, string lost)
    {
        _ = Discard(memory);
        UffdResult result = operation();
        if (!result.IsDone)
        {
            Operations &= name switch
            {
                "zeropage" => ~UffdOperations.Zeropage,
                "move" => ~UffdOperations.Move,
                "continue" => ~UffdOperations.Continue,
                _ => ~UffdOperations.Poison,
            };
        }

        return result.IsDone ? HostCheck.Ok(name, works) : HostCheck.Warn(name, $"offered, but answered {result}: {lost}", "report this with the kernel's version");
    }

    private HostCheck Continue(UffdHandle uffd, GuestMemory memory, SafeFileHandle file)
    {
        nuint page = (nuint)pageSize.Bytes;
        nuint alias = Libc.mmap(0, page, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, file, 0);
        if (alias == Libc.MAP_FAILED)
        {
            return HostCheck.Warn("continue", "a second mapping of the memory could not be made", "raise RLIMIT_AS or vm.max_map_count");
        }

        try
        {
            return Try("continue", memory, () =>
            {
                _ = Libc.memset(alias, Buffer.Pattern, page);
                return uffd.Continue(memory.Address, page);
            }, "pages that another process wrote can be mapped in", "pages that another process wrote cannot be mapped atomically");
        }
        finally
        {
            _ = Libc.munmap(alias, page);
        }
    }

    private bool Discard(GuestMemory memory)
    {
        // Shared memory keeps its page in the page cache until the file's hole is punched.
        int advice = memory.IsShared ? Libc.MADV_REMOVE : Libc.MADV_DONTNEED;
        if (Libc.madvise(memory.Address, (nuint)pageSize.Bytes, advice) == 0)
        {
            return true;
        }

        int errno = System.Runtime.InteropServices.Marshal.GetLastPInvokeError();
        if (!_checks.Exists(c => c.Name == "discard"))
        {
            _checks.Add(HostCheck.Fail("discard", $"madvise failed with {Errno.Describe(errno)}",
                kind == GuestMemoryKind.Hugetlb ? "discarding huge pages needs Linux 5.18" : "is the memory locked?"));
        }

        return false;
    }

    private static unsafe byte ReadByte(nuint address)
    {
        byte value;
        // SAFETY: one byte into a local; the native call waits in preemptive mode while the page is missing.
        _ = Libc.memcpy((nuint)(&value), address, 1);
        return value;
    }

    private static unsafe bool TryReadMessage(UffdHandle uffd, out UffdMessage message)
    {
        message = default;
        Span<UffdMessage> one = stackalloc UffdMessage[1];
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < s_patience)
        {
            Libc.PollFd poll = new() { fd = uffd.Descriptor, events = Libc.POLLIN };
            Libc.Timespec rest = new() { tv_sec = 1 };
            // SAFETY: both structs are locals; the handle lives until the trial ends.
            _ = Libc.ppoll(&poll, 1, &rest, null);
            if (uffd.Read(one, out _) == 1)
            {
                message = one[0];
                return true;
            }
        }

        return false;
    }
}
