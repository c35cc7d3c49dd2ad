using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>UFFDIO_COPY on small pages: every outcome of kernel-uapi section 5 that this kernel gives.</summary>
public sealed class CopyTests
{
    [Theory]
    [InlineData(GuestMemoryKind.Anonymous)]
    [InlineData(GuestMemoryKind.Memfd)]
    public void CopyFillsAMissingPageAndWakesItsThread(GuestMemoryKind kind)
    {
        using UffdArena arena = new(kind == GuestMemoryKind.Anonymous ? RawMapping.Anonymous(2) : RawMapping.Memfd(2), features: UffdFeatures.ThreadId);
        using RawMapping source = RawMapping.Anonymous(1).Fill(0x5a);
        FaultingThread thread = arena.Read(1, offset: 100);

        UffdMessage fault = arena.NextMessage();
        UffdResult result = arena.Uffd.Copy(arena.Page(1), source.Address, arena.PageSize);

        Assert.Equal(UffdEvent.Pagefault, fault.Event);
        Assert.Equal(arena.Page(1), fault.Address);
        Assert.Equal(thread.ThreadId, fault.ThreadId);
        Assert.Equal(UffdPagefaultFlags.None, fault.Flags);
        Assert.Equal(new UffdResult(UffdOutcome.Done, (long)arena.PageSize, 0), result);
        Assert.Equal(0x5a, thread.Result);
    }

    [Fact]
    public void AWriteFaultSaysSo()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);
        FaultingThread thread = arena.Write(0, 0x77);

        UffdMessage fault = arena.NextMessage();
        Assert.True(arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize).IsDone);

        Assert.Equal(UffdPagefaultFlags.Write, fault.Flags);
        Assert.Equal(0u, fault.ThreadId);
        Assert.Equal(0x77, thread.Result);
        Assert.Equal(0x77, FaultingThread.ReadByte(arena.Page(0)));
        Assert.Equal(1, FaultingThread.ReadByte(arena.Page(0) + 1));
    }

    [Fact]
    public void ExactAddressIsGivenWhenAskedFor()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), features: UffdFeatures.ExactAddress);
        FaultingThread thread = arena.Read(0, offset: 123);

        Assert.Equal(arena.Page(0) + 123, arena.NextMessage().Address);
        Assert.True(arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).IsDone);
        Assert.Equal(0, thread.Result);
    }

    [Fact]
    public void OneCopyWakesAllThreadsOfAPage()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), features: UffdFeatures.ThreadId);
        using RawMapping source = RawMapping.Anonymous(1).Fill(9);
        FaultingThread[] threads = [.. Enumerable.Range(0, 4).Select(_ => arena.Read(0))];

        uint[] ids = [.. threads.Select(_ => arena.NextMessage().ThreadId).Order()];
        Assert.True(arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize).IsDone);

        Assert.Equal(threads.Select(t => t.ThreadId).Order(), ids);
        Assert.All(threads, t => Assert.Equal(9, t.Result));
    }

    [Fact]
    public void CopyFromAnUnalignedSourceWorks()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping source = RawMapping.Anonymous(2).Fill(0x10);

        Assert.True(arena.Uffd.Copy(arena.Page(0), source.Address + 13, arena.PageSize).IsDone);

        Assert.Equal(0x10, FaultingThread.ReadByte(arena.Page(0)));
        Assert.Equal(0x11, FaultingThread.ReadByte(arena.Page(0) + arena.PageSize - 1));
    }

    [Fact]
    public void CopyIntoAPresentPageReportsAlreadyPresent()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2));
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);
        Assert.True(arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize).IsDone);
        Assert.True(arena.Uffd.Zeropage(arena.Page(1), arena.PageSize).IsDone);

        UffdResult overCopied = arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize);
        UffdResult overZeros = arena.Uffd.Copy(arena.Page(1), source.Address, arena.PageSize);

        Assert.Equal(new UffdResult(UffdOutcome.AlreadyPresent, 0, Errno.EEXIST), overCopied);
        Assert.Equal(new UffdResult(UffdOutcome.AlreadyPresent, 0, Errno.EEXIST), overZeros);
    }

    [Fact]
    public void CopyIntoAPageOfThePageCacheReportsAlreadyPresent()
    {
        using UffdArena arena = new(RawMapping.Memfd(1));
        using RawMapping alias = arena.Memory.Alias().Fill(1);
        using RawMapping source = RawMapping.Anonymous(1).Fill(2);

        Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize).Outcome);
        Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).Outcome);
    }

    [Fact]
    public void CopyOverATransparentHugePageReportsAlreadyPresent()
    {
        const int pages = 1024;
        using UffdArena arena = new(RawMapping.Anonymous(pages), UffdModes.None);
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);
        nuint huge = (arena.Page(0) + (2 << 20) - 1) & ~(nuint)((2 << 20) - 1);
        _ = Libc.madvise(huge, 2 << 20, Libc.MADV_HUGEPAGE);
        _ = Libc.memset(huge, 1, 1);
        Assert.SkipUnless(IsResident(huge + (100 * arena.PageSize)),
            "Needs transparent huge pages: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled.");
        _ = arena.Uffd.Register(new AddressRange(huge, 2 << 20), UffdModes.Missing);

        Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Copy(huge + (100 * arena.PageSize), source.Address, arena.PageSize).Outcome);
    }

    internal static unsafe bool IsResident(nuint page)
    {
        byte vector;
        Assert.Equal(0, Libc.mincore(page, RawMapping.HostPage, &vector));
        return (vector & 1) != 0;
    }

    [Fact]
    public void AlreadyPresentDoesNotWakeButWakeDoes()
    {
        // Any signal wakes the thread as well, and the runtime sends some; five times in a row it does not.
        int stayedAsleep = 0;
        for (int attempt = 0; attempt < 5 && stayedAsleep == 0; attempt++)
        {
            using UffdArena arena = new(RawMapping.Anonymous(1));
            using RawMapping source = RawMapping.Anonymous(1).Fill(3);
            FaultingThread thread = arena.Read(0);
            _ = arena.NextMessage();
            Assert.True(arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize, UffdPlaceFlags.DontWake).IsDone);

            Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize).Outcome);
            stayedAsleep += thread.Wait(TimeSpan.FromMilliseconds(100)) ? 0 : 1;
            Assert.True(arena.Uffd.Wake(arena.Page(0), arena.PageSize).IsDone);

            Assert.Equal(3, thread.Result);
        }

        Assert.True(stayedAsleep > 0, "A thread left by DONTWAKE was woken by EEXIST.");
    }

    [Fact]
    public void CopyOfARunStopsAtAPresentPageWithTheBytesDone()
    {
        using UffdArena arena = new(RawMapping.Anonymous(4));
        using RawMapping source = RawMapping.Anonymous(4).Fill(0x20);
        Assert.True(arena.Uffd.Zeropage(arena.Page(2), arena.PageSize).IsDone);

        UffdResult first = arena.Uffd.Copy(arena.Page(0), source.Address, 4 * arena.PageSize);
        UffdResult reason = arena.Uffd.Copy(arena.Page(2), source.Page(2), 2 * arena.PageSize);
        UffdResult rest = arena.Uffd.Copy(arena.Page(3), source.Page(3), arena.PageSize);

        Assert.Equal(new UffdResult(UffdOutcome.Partial, 2 * (long)arena.PageSize, Errno.EAGAIN), first);
        Assert.Equal(UffdOutcome.AlreadyPresent, reason.Outcome);
        Assert.True(rest.IsDone);
        Assert.Equal([0x20, 0x21, 0, 0x23], Enumerable.Range(0, 4).Select(i => FaultingThread.ReadByte(arena.Page(i))));
    }

    [Fact]
    public void CopyWhileTheAddressSpaceChangesHasANameOfItsOwn()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), features: UffdFeatures.EventRemove);
        using RawMapping source = RawMapping.Anonymous(1).Fill(4);
        Assert.True(arena.Uffd.Zeropage(arena.Page(1), arena.PageSize).IsDone);
        FaultingThread discard = arena.Run(() => Libc.madvise(arena.Page(1), arena.PageSize, Libc.MADV_DONTNEED));
        Assert.True(arena.WaitReadable(Deadline.Default));

        UffdResult during = arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize);
        UffdResult zero = arena.Uffd.Zeropage(arena.Page(0), arena.PageSize);
        UffdResult wake = arena.Uffd.Wake(arena.Page(0), arena.PageSize);
        Assert.Equal(UffdEvent.Remove, arena.NextMessage().Event);
        UffdResult after = UffdArena.WhenSettled(() => arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize));

        Assert.Equal(new UffdResult(UffdOutcome.AddressSpaceChanging, 0, Errno.EAGAIN), during);
        Assert.Equal(UffdOutcome.AddressSpaceChanging, zero.Outcome);
        Assert.True(wake.IsDone);
        Assert.True(after.IsDone);
        Assert.Equal(0, discard.Result);
    }

    [Fact]
    public void CopyOutsideTheRegistrationReportsNotRegistered()
    {
        using UffdArena arena = new(RawMapping.Anonymous(4), UffdModes.None);
        using RawMapping source = RawMapping.Anonymous(4).Fill(5);
        _ = arena.Uffd.Register(new AddressRange(arena.Page(0), arena.PageSize), UffdModes.Missing);
        _ = arena.Uffd.Register(new AddressRange(arena.Page(2), arena.PageSize), UffdModes.Missing | UffdModes.WriteProtect);
        _ = arena.Uffd.Register(new AddressRange(arena.Page(3), arena.PageSize), UffdModes.Missing);

        UffdResult outside = arena.Uffd.Copy(arena.Page(1), source.Address, arena.PageSize);
        UffdResult acrossTheEnd = arena.Uffd.Copy(arena.Page(0), source.Address, 2 * arena.PageSize);
        UffdResult acrossTwoMappings = arena.Uffd.Copy(arena.Page(2), source.Address, 2 * arena.PageSize);
        UffdResult zero = arena.Uffd.Zeropage(arena.Page(1), arena.PageSize);

        UffdResult expected = new(UffdOutcome.NotRegistered, 0, Errno.ENOENT);
        Assert.Equal([expected, expected, expected, expected], [outside, acrossTheEnd, acrossTwoMappings, zero]);
    }

    [Fact]
    public void BadArgumentsAreRefusedAndNothingIsDone()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2));
        using RawMapping source = RawMapping.Anonymous(2).Fill(6);
        UffdHandle uffd = arena.Uffd;
        nuint page = arena.PageSize;

        UffdResult[] results =
        [
            uffd.Copy(arena.Page(0) + 1, source.Address, page),
            uffd.Copy(arena.Page(0), source.Address, page + 1),
            uffd.Copy(arena.Page(0), source.Address, 0),
            uffd.Copy(arena.Page(0), source.Address, page, (UffdPlaceFlags)0x40),
            uffd.Copy(arena.Page(0), source.Address, page, UffdPlaceFlags.WriteProtected),
            uffd.Zeropage(arena.Page(0) + 1, page),
            uffd.Zeropage(arena.Page(0), page, UffdPlaceFlags.WriteProtected),
            uffd.Wake(arena.Page(0) + 1, page),
            uffd.Wake(arena.Page(0), 0),
        ];

        Assert.All(results, r => Assert.Equal(new UffdResult(UffdOutcome.InvalidArgument, 0, Errno.EINVAL), r));
        Assert.True(uffd.Copy(arena.Page(0), source.Address, 2 * page).IsDone);
    }

    [Fact]
    public void AnUnreadableSourceHasANameOfItsOwn()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));

        Assert.Equal(new UffdResult(UffdOutcome.SourceUnreadable, 0, Errno.EFAULT), arena.Uffd.Copy(arena.Page(0), 0x1000, arena.PageSize));
    }

    [Fact]
    public void PlacingBeyondTheEndOfTheFileHasANameOfItsOwn()
    {
        using UffdArena arena = new(RawMapping.Memfd(2, filePages: 1), UffdModes.Missing | UffdModes.Minor);
        using RawMapping source = RawMapping.Anonymous(1).Fill(6);

        UffdResult copy = arena.Uffd.Copy(arena.Page(1), source.Address, arena.PageSize);
        UffdResult zero = arena.Uffd.Zeropage(arena.Page(1), arena.PageSize);
        UffdResult poison = arena.Uffd.Poison(arena.Page(1), arena.PageSize);
        UffdResult proceed = arena.Uffd.Continue(arena.Page(1), arena.PageSize);

        Assert.Equal(new UffdResult(UffdOutcome.SourceUnreadable, 0, Errno.EFAULT), copy);
        Assert.Equal(new UffdResult(UffdOutcome.BeyondEndOfFile, 0, Errno.EFAULT), zero);
        Assert.Equal(new UffdResult(UffdOutcome.BeyondEndOfFile, 0, Errno.EFAULT), poison);
        Assert.Equal(new UffdResult(UffdOutcome.InvalidArgument, 0, Errno.EINVAL), proceed);
    }

    [Fact]
    public void ACopiedPageCanArriveWriteProtected()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), UffdModes.Missing | UffdModes.WriteProtect, UffdFeatures.PagefaultFlagWp);
        using RawMapping source = RawMapping.Anonymous(1).Fill(8);
        Assert.True(arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize, UffdPlaceFlags.WriteProtected).IsDone);

        FaultingThread writer = arena.Write(0, 0x66);
        UffdMessage fault = arena.NextMessage();
        bool readable = FaultingThread.ReadByte(arena.Page(0)) == 8;
        UffdOutcome copyOver = arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize).Outcome;
        UffdResult lift = arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: false);

        Assert.Equal(UffdPagefaultFlags.Write | UffdPagefaultFlags.WriteProtect, fault.Flags);
        Assert.True(readable);
        Assert.Equal(UffdOutcome.AlreadyPresent, copyOver);
        Assert.True(lift.IsDone);
        Assert.Equal(0x66, writer.Result);
    }

    [Fact]
    public void WakeWithoutAPageMakesTheKernelSendTheFaultAgain()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));
        FaultingThread thread = arena.Read(0);
        UffdMessage first = arena.NextMessage();

        Assert.True(arena.Uffd.Wake(arena.Page(0), arena.PageSize).IsDone);
        UffdMessage second = arena.NextMessage();
        Assert.True(arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).IsDone);

        Assert.Equal(first.Address, second.Address);
        Assert.Equal(0, thread.Result);
    }

    [Fact]
    public void WakeOfARangeThatNobodyRegisteredIsDone()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), UffdModes.None);

        Assert.Equal(new UffdResult(UffdOutcome.Done, (long)arena.PageSize, 0), arena.Uffd.Wake(arena.Page(0), arena.PageSize));
    }

    [Fact]
    public void ZeropageOfARunStopsAtAPresentPage()
    {
        using UffdArena arena = new(RawMapping.Anonymous(3));
        using RawMapping source = RawMapping.Anonymous(1).Fill(5);
        Assert.True(arena.Uffd.Copy(arena.Page(1), source.Address, arena.PageSize).IsDone);

        UffdResult first = arena.Uffd.Zeropage(arena.Page(0), 3 * arena.PageSize);
        UffdResult reason = arena.Uffd.Zeropage(arena.Page(1), 2 * arena.PageSize);

        Assert.Equal(new UffdResult(UffdOutcome.Partial, (long)arena.PageSize, Errno.EAGAIN), first);
        Assert.Equal(UffdOutcome.AlreadyPresent, reason.Outcome);
    }

    [Fact]
    public void ZeropageFillsAHoleOfAMemfd()
    {
        using UffdArena arena = new(RawMapping.Memfd(1));
        FaultingThread thread = arena.Read(0);
        _ = arena.NextMessage();

        Assert.True(arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).IsDone);

        Assert.Equal(0, thread.Result);
    }
}
