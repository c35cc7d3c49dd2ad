using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <content>Whether the guest can keep huge pages: MOVE of a whole one, into a stretch of its own that nobody or somebody touched.</content>
internal sealed partial class PostcopyTrial
{
    private const string HugeMoveCheck = "huge-move";
    private const string SmallPages = "the guest is left in small pages, which khugepaged or CollapseAsync join later";

    private HostCheck HugeMove(UffdHandle uffd)
    {
        using HugeStaging staging = new();
        GuestMemory target = GuestMemory.Allocate(new GuestMemoryOptions { Length = 2 * HugeStaging.Bytes, Name = "postcopy-trial" });
        try
        {
            _ = uffd.Register(target.Range, UffdModes.Missing);
            if (!staging.TryBack())
            {
                return HostCheck.Warn(HugeMoveCheck, $"the host gave no huge page: {SmallPages}", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, or free some memory");
            }

            UffdResult untouched = uffd.Move(target.Address, staging.Address, HugeStaging.Bytes);
            if (!untouched.IsDone || !PageTables.IsHuge(target.Address, HugeStaging.Bytes))
            {
                return HostCheck.Warn(HugeMoveCheck, $"a huge page was not moved as one ({untouched}): {SmallPages}", "use Linux 6.8 or newer");
            }

            staging.Moved();
            return TouchedMove(uffd, staging, target.Address + HugeStaging.Bytes);
        }
        finally
        {
            TryUnregister(uffd, target);
            target.Dispose();
        }
    }

    /// <summary>One page that comes alone leaves a page table, which splits what is moved there unless a discard frees it.</summary>
    private static HostCheck TouchedMove(UffdHandle uffd, HugeStaging staging, nuint stretch)
    {
        if (!staging.TryBack() || !uffd.Zeropage(stretch, (nuint)PageSize.Host.Bytes).IsDone || Libc.madvise(stretch, HugeStaging.Bytes, Libc.MADV_DONTNEED) != 0)
        {
            return HostCheck.Ok(HugeMoveCheck, "whole huge pages are moved in; where a thread touched the stretch before was not to be tried");
        }

        UffdResult moved = uffd.Move(stretch, staging.Address, HugeStaging.Bytes);
        return moved.IsDone && PageTables.IsHuge(stretch, HugeStaging.Bytes)
            ? HostCheck.Ok(HugeMoveCheck, "whole huge pages are moved in, also where a thread has touched the stretch")
            : HostCheck.Warn(HugeMoveCheck, "a discard leaves page tables behind: what a thread touches before it is whole becomes small pages",
                "use Linux 6.14 or newer with CONFIG_PT_RECLAIM");
    }
}
