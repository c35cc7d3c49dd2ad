using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>Huge pages, private and shared.</summary>
[Collection(HugePagesCollection.Name)]
public sealed class HugetlbTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void CopyFillsAHugePageAndTheFaultNamesItsStart(bool shared)
    {
        HugePages.Require();
        using UffdArena arena = new(RawMapping.Hugetlb(2, shared), features: UffdFeatures.MissingHugetlbfs | UffdFeatures.ExactAddress);
        using RawMapping source = RawMapping.Anonymous(512).Fill(0);
        FaultingThread thread = arena.Read(1, offset: 5 * 4096 + 7);

        UffdMessage fault = arena.NextMessage();
        UffdResult result = arena.Uffd.Copy(arena.Page(1), source.Address, arena.PageSize);

        TestContext.Current.TestOutputHelper?.WriteLine($"fault at page + 0x{(ulong)(fault.Address - arena.Page(1)):x}");
        Assert.Equal(arena.Page(1), PageSize.TwoMiB.AlignDown(fault.Address));
        Assert.Equal(new UffdResult(UffdOutcome.Done, (long)arena.PageSize, 0), result);
        Assert.Equal(5, thread.Result);
    }

    [Theory]
    [InlineData(false, UffdModes.Missing, UffdOperations.Wake | UffdOperations.Copy | UffdOperations.Poison)]
    [InlineData(true, UffdModes.Missing | UffdModes.Minor | UffdModes.WriteProtect,
        UffdOperations.Wake | UffdOperations.Copy | UffdOperations.Poison | UffdOperations.WriteProtect | UffdOperations.Continue)]
    public void HugePagesGrantNoZeropageAndNoMove(bool shared, UffdModes modes, UffdOperations expected)
    {
        HugePages.Require();
        using UffdArena arena = new(RawMapping.Hugetlb(1, shared), modes, UffdFeatures.MinorHugetlbfs | UffdFeatures.WpHugetlbfsShmem | UffdFeatures.Poison);

        Assert.Equal(expected, arena.Registration.Operations);
    }

    [Fact]
    public void WhatTheMaskLacksIsRefused()
    {
        HugePages.Require();
        using UffdArena arena = new(RawMapping.Hugetlb(1, shared: false));
        using RawMapping source = RawMapping.Anonymous(512).Fill(1);

        UffdResult zero = arena.Uffd.Zeropage(arena.Page(0), arena.PageSize);
        UffdResult small = arena.Uffd.Copy(arena.Page(0), source.Address, 4096);
        UffdResult move = arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize);

        Assert.Equal(
            [UffdOutcome.InvalidArgument, UffdOutcome.InvalidArgument, UffdOutcome.InvalidArgument],
            new[] { zero.Outcome, small.Outcome, move.Outcome });
    }

    [Fact]
    public void APartOfAHugePageCannotBeRegistered()
    {
        HugePages.Require();
        using UffdArena arena = new(RawMapping.Hugetlb(1, shared: false), UffdModes.None);

        UffdException e = Assert.Throws<UffdException>(() => arena.Uffd.Register(new AddressRange(arena.Page(0), 4096), UffdModes.Missing));

        Assert.Equal(Errno.EINVAL, e.Errno);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AnExhaustedPoolAnswersAlreadyPresentWithThePageAbsent(bool shared)
    {
        HugePages.Require();
        using UffdArena arena = new(RawMapping.Hugetlb(1, shared, reserve: false));
        using RawMapping source = RawMapping.Anonymous(512).Fill(1);
        using RawMapping hog = RawMapping.Hugetlb((int)HugePages.Available, shared: false);

        UffdResult result = arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize);

        // The lie of hazard H7: whoever marks the page received now loses it.
        Assert.Equal(new UffdResult(UffdOutcome.AlreadyPresent, 0, Errno.EEXIST), result);
        Assert.False(CopyTests.IsResident(arena.Page(0)));
    }

    [Fact]
    public void ContinueMapsAHugePageOfThePageCache()
    {
        HugePages.Require();
        using UffdArena arena = new(RawMapping.Hugetlb(2, shared: true), UffdModes.Missing | UffdModes.Minor, UffdFeatures.MinorHugetlbfs);
        using RawMapping alias = arena.Memory.Alias();
        _ = Libc.memset(alias.Page(0), 0x3c, 1);
        FaultingThread thread = arena.Read(0);

        UffdMessage fault = arena.NextMessage();
        UffdResult result = arena.Uffd.Continue(arena.Page(0), arena.PageSize);
        UffdResult again = arena.Uffd.Continue(arena.Page(0), arena.PageSize);
        UffdResult hole = arena.Uffd.Continue(arena.Page(1), arena.PageSize);

        Assert.Equal(UffdPagefaultFlags.Minor, fault.Flags);
        Assert.True(result.IsDone);
        Assert.Equal(0x3c, thread.Result);
        Assert.Equal(UffdOutcome.AlreadyPresent, again.Outcome);
        Assert.Equal(UffdOutcome.NotInPageCache, hole.Outcome);
    }

    [Fact]
    public void APresentHugePageIsAlreadyPresentAndARunStopsThere()
    {
        HugePages.Require();
        using UffdArena arena = new(RawMapping.Hugetlb(2, shared: false));
        using RawMapping source = RawMapping.Anonymous(1024).Fill(1);
        Assert.True(arena.Uffd.Copy(arena.Page(1), source.Address, arena.PageSize).IsDone);

        Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Copy(arena.Page(1), source.Address, arena.PageSize).Outcome);
        Assert.Equal(
            new UffdResult(UffdOutcome.Partial, (long)arena.PageSize, Errno.EAGAIN),
            arena.Uffd.Copy(arena.Page(0), source.Address, 2 * arena.PageSize));
    }

    [Fact]
    public void PoisonAndWriteProtectWorkOnHugePages()
    {
        HugePages.Require();
        using UffdArena arena = new(RawMapping.Hugetlb(2, shared: false), UffdModes.Missing | UffdModes.WriteProtect,
            UffdFeatures.WpHugetlbfsShmem | UffdFeatures.Poison);
        using RawMapping source = RawMapping.Anonymous(512).Fill(1);
        Assert.True(arena.Uffd.Poison(arena.Page(0), arena.PageSize).IsDone);
        Assert.True(arena.Uffd.Copy(arena.Page(1), source.Address, arena.PageSize, UffdPlaceFlags.WriteProtected).IsDone);

        long poisoned = PoisonTests.ErrnoOfAKernelRead(arena.Page(0));
        FaultingThread writer = arena.Write(1, 9);
        UffdMessage fault = arena.NextMessage();
        Assert.True(arena.Uffd.WriteProtect(arena.Page(1), arena.PageSize, protect: false).IsDone);

        // EHWPOISON is what the kernel gives for huge pages; small ones give EFAULT.
        Assert.Contains((int)poisoned, new[] { Errno.EFAULT, Errno.EHWPOISON });
        Assert.True(fault.Flags.HasFlag(UffdPagefaultFlags.WriteProtect));
        Assert.Equal(9, writer.Result);
    }

    [Fact]
    public void DiscardOfAHugePageRaisesARemoveEvent()
    {
        HugePages.Require();
        using UffdArena arena = new(RawMapping.Hugetlb(1, shared: false), features: UffdFeatures.EventRemove);
        FaultingThread discard = arena.Run(() => Libc.madvise(arena.Page(0), arena.PageSize, Libc.MADV_DONTNEED));

        UffdMessage message = arena.NextMessage();

        Assert.Equal((UffdEvent.Remove, arena.Memory.Range), (message.Event, message.Range));
        Assert.Equal(0, discard.Result);
    }
}
