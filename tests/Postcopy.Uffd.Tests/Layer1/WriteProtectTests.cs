using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>UFFDIO_WRITEPROTECT.</summary>
public sealed class WriteProtectTests
{
    [Theory]
    [InlineData(GuestMemoryKind.Anonymous)]
    [InlineData(GuestMemoryKind.Memfd)]
    public void AWriteToAProtectedPageWaitsUntilTheProtectionIsLifted(GuestMemoryKind kind)
    {
        UffdFeatures features = kind == GuestMemoryKind.Anonymous ? UffdFeatures.PagefaultFlagWp : UffdFeatures.WpHugetlbfsShmem;
        RawMapping memory = (kind == GuestMemoryKind.Anonymous ? RawMapping.Anonymous(1) : RawMapping.Memfd(1)).Fill(1);
        using UffdArena arena = new(memory, UffdModes.WriteProtect, features);

        UffdResult protect = arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: true);
        FaultingThread writer = arena.Write(0, 2);
        UffdMessage fault = arena.NextMessage();
        UffdResult lift = arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: false);

        Assert.Equal(new UffdResult(UffdOutcome.Done, (long)arena.PageSize, 0), protect);
        Assert.True(fault.Flags.HasFlag(UffdPagefaultFlags.WriteProtect));
        Assert.True(lift.IsDone);
        Assert.Equal(2, writer.Result);
    }

    [Fact]
    public void LiftingWithoutWakingLeavesTheThreadToWake()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1).Fill(1), UffdModes.WriteProtect, UffdFeatures.PagefaultFlagWp);
        Assert.True(arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: true).IsDone);
        FaultingThread writer = arena.Write(0, 2);
        _ = arena.NextMessage();

        Assert.True(arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: false, dontWake: true).IsDone);
        Assert.True(arena.Uffd.Wake(arena.Page(0), arena.PageSize).IsDone);

        Assert.Equal(2, writer.Result);
    }

    [Fact]
    public void ProtectingWithoutWakingIsRefused()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), UffdModes.WriteProtect, UffdFeatures.PagefaultFlagWp);

        Assert.Equal(UffdOutcome.InvalidArgument, arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: true, dontWake: true).Outcome);
        Assert.Equal(UffdOutcome.InvalidArgument, arena.Uffd.WriteProtect(arena.Page(0) + 1, arena.PageSize, protect: true).Outcome);
    }

    [Fact]
    public void ARangeWithoutWriteProtectModeReportsNotRegistered()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), UffdModes.Missing, UffdFeatures.PagefaultFlagWp);

        UffdResult result = arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: true);

        Assert.Equal(new UffdResult(UffdOutcome.NotRegistered, 0, Errno.ENOENT), result);
        Assert.False(arena.Registration.Supports(UffdOperations.WriteProtect));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void UnpopulatedPagesAreProtectedOnlyWithTheFeature(bool withFeature)
    {
        UffdFeatures features = UffdFeatures.PagefaultFlagWp | (withFeature ? UffdFeatures.WpUnpopulated : UffdFeatures.None);
        using UffdArena arena = new(RawMapping.Anonymous(1), UffdModes.WriteProtect, features);
        Assert.True(arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: true).IsDone);

        FaultingThread writer = arena.Write(0, 1);
        if (withFeature)
        {
            Assert.True(arena.NextMessage().Flags.HasFlag(UffdPagefaultFlags.WriteProtect));
            Assert.True(arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: false).IsDone);
        }

        Assert.Equal(1, writer.Result);
    }

    [Fact]
    public void WriteProtectWhileTheAddressSpaceChangesHasANameOfItsOwn()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2).Fill(1), UffdModes.WriteProtect | UffdModes.Missing, UffdFeatures.EventRemove);
        FaultingThread discard = arena.Run(() => Libc.madvise(arena.Page(1), arena.PageSize, Libc.MADV_DONTNEED));
        Assert.True(arena.WaitReadable(Deadline.Default));

        UffdResult during = arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: true);
        _ = arena.NextMessage(UffdEvent.Remove);

        Assert.Equal(UffdOutcome.AddressSpaceChanging, during.Outcome);
        Assert.True(UffdArena.WhenSettled(() => arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: true)).IsDone);
        Assert.Equal(0, discard.Result);
    }

    [Fact]
    public void AsynchronousProtectionNeedsNoHandler()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1).Fill(1), UffdModes.WriteProtect, UffdFeatures.WpAsync);
        Assert.True(arena.Uffd.WriteProtect(arena.Page(0), arena.PageSize, protect: true).IsDone);

        FaultingThread writer = arena.Write(0, 2);

        Assert.Equal(2, writer.Result);
        Assert.False(arena.WaitReadable(TimeSpan.Zero));
    }
}
