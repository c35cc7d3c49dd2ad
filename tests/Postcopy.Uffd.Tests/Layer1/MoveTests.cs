using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>UFFDIO_MOVE (Linux 6.8).</summary>
public sealed class MoveTests
{
    [Fact]
    public void MoveTakesThePageAwayFromTheSource()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping source = RawMapping.Anonymous(1).Fill(0x31);
        FaultingThread thread = arena.Read(0);
        _ = arena.NextMessage();

        UffdResult result = arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize);

        Assert.Equal(new UffdResult(UffdOutcome.Done, (long)arena.PageSize, 0), result);
        Assert.Equal(0x31, thread.Result);
        Assert.Equal(0, FaultingThread.ReadByte(source.Address));
    }

    [Fact]
    public void MoveIntoAPresentPageReportsAlreadyPresent()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);
        Assert.True(arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).IsDone);

        Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize).Outcome);
    }

    [Fact]
    public void AHoleInTheSourceIsAnErrorUnlessAllowed()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        using UffdArena arena = new(RawMapping.Anonymous(2));
        using RawMapping source = RawMapping.Anonymous(2);
        _ = Libc.memset(source.Page(1), 0x44, 1);

        UffdResult refused = arena.Uffd.Move(arena.Page(0), source.Address, 2 * arena.PageSize);
        UffdResult allowed = arena.Uffd.Move(arena.Page(0), source.Address, 2 * arena.PageSize, UffdMoveFlags.AllowSourceHoles);

        Assert.Equal(new UffdResult(UffdOutcome.SourceHoleOrUnmapped, 0, Errno.ENOENT), refused);
        Assert.True(allowed.IsDone);
        Assert.Equal(0x44, FaultingThread.ReadByte(arena.Page(1)));
        Assert.Equal(UffdOutcome.Done, arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).Outcome);
    }

    [Fact]
    public void AnUnregisteredDestinationIsAnInvalidArgumentHere()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        using UffdArena arena = new(RawMapping.Anonymous(3), UffdModes.None);
        using RawMapping source = RawMapping.Anonymous(2).Fill(1);
        _ = arena.Uffd.Register(new AddressRange(arena.Page(0), arena.PageSize), UffdModes.Missing);
        _ = arena.Uffd.Register(new AddressRange(arena.Page(1), arena.PageSize), UffdModes.Missing | UffdModes.WriteProtect);

        // COPY answers ENOENT to both.
        Assert.Equal(UffdOutcome.InvalidArgument, arena.Uffd.Move(arena.Page(2), source.Address, arena.PageSize).Outcome);
        Assert.Equal(UffdOutcome.InvalidArgument, arena.Uffd.Move(arena.Page(0), source.Address, 2 * arena.PageSize).Outcome);
    }

    [Fact]
    public void AnUnmappedSourceOrDestinationIsNamedLikeAHole()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        const nuint neverMapped = 0x1000; // below vm.mmap_min_addr
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);

        UffdResult expected = new(UffdOutcome.SourceHoleOrUnmapped, 0, Errno.ENOENT);
        Assert.Equal(expected, arena.Uffd.Move(arena.Page(0), neverMapped, arena.PageSize));
        Assert.Equal(expected, arena.Uffd.Move(neverMapped, source.Address, arena.PageSize));
    }

    [Fact]
    public void ALockedOrReadOnlySourceIsAnInvalidArgument()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping locked = RawMapping.Anonymous(1).Fill(1);
        using RawMapping readOnly = RawMapping.Anonymous(1).Fill(1);
        Assert.Equal(0, Libc.mlock(locked.Address, locked.Length));
        Assert.Equal(0, Libc.mprotect(readOnly.Address, readOnly.Length, Libc.PROT_READ));

        Assert.Equal(UffdOutcome.InvalidArgument, arena.Uffd.Move(arena.Page(0), locked.Address, arena.PageSize).Outcome);
        Assert.Equal(UffdOutcome.InvalidArgument, arena.Uffd.Move(arena.Page(0), readOnly.Address, arena.PageSize).Outcome);
    }

    [Fact]
    public void MoveOfARunStopsWithTheBytesDone()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        using UffdArena arena = new(RawMapping.Anonymous(3));
        using RawMapping source = RawMapping.Anonymous(3).Fill(1);
        Assert.True(arena.Uffd.Zeropage(arena.Page(2), arena.PageSize).IsDone);

        UffdResult first = arena.Uffd.Move(arena.Page(0), source.Address, 3 * arena.PageSize);

        Assert.Equal(new UffdResult(UffdOutcome.Partial, 2 * (long)arena.PageSize, Errno.EAGAIN), first);
        Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Move(arena.Page(2), source.Page(2), arena.PageSize).Outcome);
    }

    [Fact]
    public void SharedMemoryIsNoSource()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping source = RawMapping.Memfd(1).Fill(1);

        Assert.Equal(new UffdResult(UffdOutcome.InvalidArgument, 0, Errno.EINVAL), arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize));
    }

    [Fact]
    public void MoveIntoSharedMemoryIsRefusedAlthoughTheKernelsMaskNamesIt()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        using UffdArena arena = new(RawMapping.Memfd(1));
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);

        Assert.False(arena.Registration.Supports(UffdOperations.Move));
        Assert.Equal(UffdOutcome.InvalidArgument, arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize).Outcome);
    }

    [Fact]
    public void TheSharedZeroPageMoves()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping source = RawMapping.Anonymous(1);
        Assert.Equal(0, FaultingThread.ReadByte(source.Address));

        Assert.True(arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize).IsDone);
    }

    [Fact]
    public void MoveWhileTheAddressSpaceChangesHasANameOfItsOwn()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), features: UffdFeatures.EventRemove | UffdFeatures.Move);
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);
        Assert.True(arena.Uffd.Zeropage(arena.Page(1), arena.PageSize).IsDone);
        FaultingThread discard = arena.Run(() => Libc.madvise(arena.Page(1), arena.PageSize, Libc.MADV_DONTNEED));
        Assert.True(arena.WaitReadable(Deadline.Default));

        UffdResult during = arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize);
        _ = arena.NextMessage(UffdEvent.Remove);

        Assert.Equal(new UffdResult(UffdOutcome.AddressSpaceChanging, 0, Errno.EAGAIN), during);
        Assert.True(UffdArena.WhenSettled(() => arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize)).IsDone);
        Assert.Equal(0, discard.Result);
    }

    [Fact]
    public void APoisonedSourcePageIsNamedUnreadable()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), features: UffdFeatures.Move | UffdFeatures.Poison);
        Assert.True(arena.Uffd.Poison(arena.Page(1), arena.PageSize).IsDone);

        UffdResult result = arena.Uffd.Move(arena.Page(0), arena.Page(1), arena.PageSize);

        Assert.Equal(new UffdResult(UffdOutcome.SourceUnreadable, 0, Errno.EFAULT), result);
    }

    [Fact]
    public void APageSharedWithAForkedChildIsBusy()
    {
        Requires.Userfaultfd(UffdFeatures.Move);
        // Forking would make every private page of this process busy for the tests beside this one.
        Assert.Equal("SourceBusy 16", ChildProcess.Run(MoveASharedPage).Trim());
    }

    private static void MoveASharedPage(ChildScenario child)
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);
        int pid = TestLibc.ForkInto("pause");
        UffdResult result = arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize);
        TestLibc.KillAndReap(pid);
        child.Say($"{result.Outcome} {result.Errno}");
    }
}
