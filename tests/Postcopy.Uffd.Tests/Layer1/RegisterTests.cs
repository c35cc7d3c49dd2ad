using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>UFFDIO_REGISTER and UNREGISTER: what they grant and every refusal.</summary>
public sealed class RegisterTests
{
    private const UffdOperations Always = UffdOperations.Wake | UffdOperations.Copy | UffdOperations.Zeropage | UffdOperations.Poison;

    [Theory]
    [InlineData(UffdModes.Missing, Always | UffdOperations.Move)]
    [InlineData(UffdModes.Missing | UffdModes.WriteProtect, Always | UffdOperations.Move | UffdOperations.WriteProtect)]
    public void AnonymousMemoryGrants(UffdModes modes, UffdOperations expected)
    {
        Requires.Userfaultfd(UffdFeatures.Move | UffdFeatures.Poison);
        using UffdArena arena = new(RawMapping.Anonymous(1), modes);

        Assert.Equal(new UffdRegistration(arena.Memory.Range, modes, expected), arena.Registration);
    }

    [Theory]
    [InlineData(UffdModes.Missing, Always)]
    [InlineData(UffdModes.Minor, Always | UffdOperations.Continue)]
    [InlineData(UffdModes.Missing | UffdModes.Minor, Always | UffdOperations.Continue)]
    [InlineData(UffdModes.Missing | UffdModes.Minor | UffdModes.WriteProtect, Always | UffdOperations.Continue | UffdOperations.WriteProtect)]
    public void AMemfdGrantsNoMove(UffdModes modes, UffdOperations expected)
    {
        Requires.Userfaultfd(UffdFeatures.Move | UffdFeatures.Poison | UffdFeatures.MinorShmem);
        using UffdArena arena = new(RawMapping.Memfd(1), modes);

        Assert.Equal(expected, arena.Registration.Operations);
    }

    [Fact]
    public void APrivateMappingOfAMemfdCanHaveMinorFaults()
    {
        using UffdArena arena = new(RawMapping.Memfd(1, shared: false), UffdModes.Minor, UffdFeatures.MinorShmem);

        Assert.True(arena.Registration.Supports(UffdOperations.Continue));
        Assert.False(arena.Registration.Supports(UffdOperations.Move));
    }

    [Fact]
    public void ARangeOfAnotherUserfaultfdIsBusy()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using UffdHandle other = UffdHandle.Open(Requires.AnyKind);
        _ = other.Negotiate();

        UffdException e = Assert.Throws<UffdException>(() => other.Register(arena.Memory.Range, UffdModes.Missing));
        UffdException u = Assert.Throws<UffdException>(() => other.Unregister(arena.Memory.Range));

        Assert.Equal(Errno.EBUSY, e.Errno);
        Assert.Contains("another userfaultfd", e.Message, StringComparison.Ordinal);
        Assert.Equal(Errno.EINVAL, u.Errno);
    }

    [Fact]
    public void ReadOnlySharedFileMemoryIsNotPermitted()
    {
        using UffdArena arena = new(RawMapping.Memfd(1, readOnlyFile: true), UffdModes.None);

        UffdException e = Assert.Throws<UffdException>(() => arena.Uffd.Register(arena.Memory.Range, UffdModes.Missing));

        Assert.Equal(Errno.EPERM, e.Errno);
        Assert.Contains("writable", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void BadRangesAndModesAreRefusedWithTheRangeInTheMessage()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), UffdModes.None);
        AddressRange good = arena.Memory.Range;

        Refused(new AddressRange(good.Start + 1, good.Length), UffdModes.Missing);
        Refused(new AddressRange(good.Start, good.Length + 1), UffdModes.Missing);
        Refused(good, UffdModes.None);
        Refused(good, UffdModes.Minor);
        Refused(good, (UffdModes)0x4000);
        Refused(new AddressRange(0x1000, 0x1000), UffdModes.Missing);

        void Refused(AddressRange range, UffdModes modes)
        {
            UffdException e = Assert.Throws<UffdException>(() => arena.Uffd.Register(range, modes));
            Assert.Equal(Errno.EINVAL, e.Errno);
            Assert.Contains(range.ToString(), e.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void ARegularFileIsRefused()
    {
        using UffdArena arena = new(RawMapping.OfFile(typeof(RegisterTests).Assembly.Location), UffdModes.None);

        UffdException e = Assert.Throws<UffdException>(() => arena.Uffd.Register(arena.Memory.Range, UffdModes.Missing));

        Assert.Equal(Errno.EINVAL, e.Errno);
    }

    [Fact]
    public void RegisteringBeforeNegotiatingIsRefused()
    {
        Requires.Userfaultfd();
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        using RawMapping memory = RawMapping.Anonymous(1);

        Assert.Equal(Errno.EINVAL, Assert.Throws<UffdException>(() => uffd.Register(memory.Range, UffdModes.Missing)).Errno);
    }

    [Fact]
    public void RegistrationCanBeRepeatedWithOtherModes()
    {
        using UffdArena arena = new(RawMapping.Memfd(1), UffdModes.Missing, UffdFeatures.MinorShmem);

        UffdRegistration again = arena.Uffd.Register(arena.Memory.Range, UffdModes.Missing | UffdModes.Minor);

        Assert.True(again.Supports(UffdOperations.Continue));
    }

    [Fact]
    public void UnregisterSetsAWaitingThreadFreeOnAZeroPage()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));
        FaultingThread thread = arena.Read(0);
        _ = arena.NextMessage();

        arena.Uffd.Unregister(arena.Memory.Range);

        Assert.Equal(0, thread.Result);
        Assert.DoesNotContain(ProcessMaps.Overlapping(arena.Memory.Range, withFlags: true), m => m.IsRegisteredMissing);
    }

    [Fact]
    public void UnregisterOfMemoryThatWasNeverRegisteredIsHarmless()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), UffdModes.None);

        arena.Uffd.Unregister(arena.Memory.Range);
    }

    [Fact]
    public void UnregisterOfUnmappedMemoryIsRefused()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), UffdModes.None);

        UffdException e = Assert.Throws<UffdException>(() => arena.Uffd.Unregister(new AddressRange(0x1000, 0x1000)));

        Assert.Equal(Errno.EINVAL, e.Errno);
        Assert.Contains("[0x1000, 0x2000)", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AHoleInsideTheRangeIsNotNoticed()
    {
        Requires.Userfaultfd();
        Assert.Equal("registered", ChildProcess.Run(RegisterOverAHole).Trim());
    }

    [Fact]
    public void RegistrationWorksWhileAnEventWaits()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), features: UffdFeatures.EventRemove);
        using RawMapping second = RawMapping.Anonymous(1);
        FaultingThread discard = arena.Run(() => Libc.madvise(arena.Page(0), arena.PageSize, Libc.MADV_DONTNEED));
        Assert.True(arena.WaitReadable(Deadline.Default));

        _ = arena.Uffd.Register(second.Range, UffdModes.Missing);
        arena.Uffd.Unregister(second.Range);
        _ = arena.NextMessage(UffdEvent.Remove);

        Assert.Equal(0, discard.Result);
    }

    [Fact]
    public void SmapsTellsWhatIsRegistered()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));

        ProcessMaps.Mapping mapping = Assert.Single(ProcessMaps.Overlapping(arena.Memory.Range, withFlags: true));

        Assert.True(mapping.IsRegisteredMissing);
        Assert.False(mapping.IsLocked || mapping.IsHugetlb || mapping.Shared || mapping.HasFile);
    }

    private static void RegisterOverAHole(ChildScenario child)
    {
        RawMapping memory = RawMapping.Anonymous(3);
        _ = Libc.munmap(memory.Page(1), memory.PageSize);
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        _ = uffd.Negotiate();
        _ = uffd.Register(memory.Range, UffdModes.Missing);
        child.Say("registered");
    }
}
