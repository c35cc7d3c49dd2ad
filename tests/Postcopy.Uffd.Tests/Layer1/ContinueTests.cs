using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>UFFDIO_CONTINUE on a memfd (Linux 5.14).</summary>
public sealed class ContinueTests
{
    private const UffdModes Both = UffdModes.Missing | UffdModes.Minor;

    [Fact]
    public void ContinueMapsThePageThatAnotherMappingWrote()
    {
        using UffdArena arena = new(RawMapping.Memfd(1), Both, UffdFeatures.MinorShmem);
        using RawMapping alias = arena.Memory.Alias().Fill(0x21);
        FaultingThread thread = arena.Read(0);

        UffdMessage fault = arena.NextMessage();
        UffdResult result = arena.Uffd.Continue(arena.Page(0), arena.PageSize);

        Assert.Equal(UffdPagefaultFlags.Minor, fault.Flags);
        Assert.Equal(new UffdResult(UffdOutcome.Done, (long)arena.PageSize, 0), result);
        Assert.Equal(0x21, thread.Result);
    }

    [Fact]
    public void AHoleIsAMissingFaultAndNotInThePageCache()
    {
        using UffdArena arena = new(RawMapping.Memfd(1), Both);
        FaultingThread thread = arena.Read(0);

        UffdMessage fault = arena.NextMessage();
        UffdResult result = arena.Uffd.Continue(arena.Page(0), arena.PageSize);
        Assert.True(arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).IsDone);

        Assert.Equal(UffdPagefaultFlags.None, fault.Flags);
        Assert.Equal(new UffdResult(UffdOutcome.NotInPageCache, 0, Errno.EFAULT), result);
        Assert.Equal(0, thread.Result);
    }

    [Fact]
    public void ContinueOfAMappedPageReportsAlreadyPresent()
    {
        using UffdArena arena = new(RawMapping.Memfd(1), Both);
        using RawMapping alias = arena.Memory.Alias().Fill(1);
        Assert.True(arena.Uffd.Continue(arena.Page(0), arena.PageSize).IsDone);

        Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Continue(arena.Page(0), arena.PageSize).Outcome);
    }

    [Fact]
    public void ContinueOfARunStopsAtAHole()
    {
        using UffdArena arena = new(RawMapping.Memfd(2), Both);
        using RawMapping alias = arena.Memory.Alias();
        _ = Libc.memset(alias.Page(0), 1, 1);

        UffdResult result = arena.Uffd.Continue(arena.Page(0), 2 * arena.PageSize);

        Assert.Equal(new UffdResult(UffdOutcome.Partial, (long)arena.PageSize, Errno.EAGAIN), result);
        Assert.Equal(UffdOutcome.NotInPageCache, arena.Uffd.Continue(arena.Page(1), arena.PageSize).Outcome);
    }

    [Fact]
    public void ContinueOfAnonymousMemoryIsRefused()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));

        Assert.Equal(UffdOutcome.InvalidArgument, arena.Uffd.Continue(arena.Page(0), arena.PageSize).Outcome);
    }

    [Fact]
    public void ContinueOutsideTheRegistrationReportsNotRegistered()
    {
        using UffdArena arena = new(RawMapping.Memfd(2), UffdModes.None);
        _ = arena.Uffd.Register(new AddressRange(arena.Page(0), arena.PageSize), Both);

        Assert.Equal(UffdOutcome.NotRegistered, arena.Uffd.Continue(arena.Page(1), arena.PageSize).Outcome);
    }

    [Fact]
    public void AContinuedPageCanArriveWriteProtected()
    {
        using UffdArena arena = new(RawMapping.Memfd(1), Both | UffdModes.WriteProtect, UffdFeatures.WpHugetlbfsShmem | UffdFeatures.MinorShmem);
        using RawMapping alias = arena.Memory.Alias().Fill(1);
        UffdResult result = arena.Uffd.Continue(arena.Page(0), arena.PageSize, UffdPlaceFlags.WriteProtected);

        FaultingThread writer = arena.Write(0, 2);
        UffdMessage fault = arena.NextMessage();
        Assert.True(arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: false).IsDone);

        Assert.True(result.IsDone);
        Assert.True(fault.Flags.HasFlag(UffdPagefaultFlags.WriteProtect));
        Assert.Equal(2, writer.Result);
    }

    [Fact]
    public void ContinueWhileTheAddressSpaceChangesHasANameOfItsOwn()
    {
        using UffdArena arena = new(RawMapping.Memfd(2), Both, UffdFeatures.EventRemove);
        using RawMapping alias = arena.Memory.Alias().Fill(1);
        FaultingThread discard = arena.Run(() => Libc.madvise(arena.Page(1), arena.PageSize, Libc.MADV_DONTNEED));
        Assert.True(arena.WaitReadable(Deadline.Default));

        UffdResult during = arena.Uffd.Continue(arena.Page(0), arena.PageSize);
        _ = arena.NextMessage(UffdEvent.Remove);

        Assert.Equal(UffdOutcome.AddressSpaceChanging, during.Outcome);
        Assert.True(UffdArena.WhenSettled(() => arena.Uffd.Continue(arena.Page(0), arena.PageSize)).IsDone);
        Assert.Equal(0, discard.Result);
    }
}
