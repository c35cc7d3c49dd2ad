using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>UFFDIO_POISON (Linux 6.6).</summary>
public sealed class PoisonTests
{
    [Fact]
    public void APoisonedPageAnswersSystemCallsWithEfault()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), features: UffdFeatures.Poison);

        UffdResult result = arena.Uffd.Poison(arena.Page(0), arena.PageSize);

        Assert.Equal(new UffdResult(UffdOutcome.Done, (long)arena.PageSize, 0), result);
        Assert.Equal(Errno.EFAULT, ErrnoOfAKernelRead(arena.Page(0)));
    }

    [Fact]
    public void ATouchOfAPoisonedPageIsSigbus()
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using ChildProcess child = ChildProcess.Start(TouchAPoisonedPage);

        Assert.Equal("poisoned", child.ReadLine());
        // .NET's handler for SIGBUS hands a fault in native code on, to the default action or to abort.
        Assert.Contains(child.WaitForExit(), new[] { 128 + TestLibc.SIGBUS, 128 + 6 });
    }

    [Fact]
    public void PoisonWakesTheThreadThatWaits()
    {
        Requires.KernelFaults();
        using UffdArena arena = new(RawMapping.Anonymous(1), features: UffdFeatures.Poison);
        FaultingThread reader = arena.Run(() => ErrnoOfAKernelRead(arena.Page(0)));
        _ = arena.NextMessage();

        Assert.True(arena.Uffd.Poison(arena.Page(0), arena.PageSize).IsDone);

        Assert.Equal(Errno.EFAULT, reader.Result);
    }

    [Fact]
    public void PoisonOnAPresentOrPoisonedPageReportsAlreadyPresent()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), features: UffdFeatures.Poison);
        Assert.True(arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).IsDone);
        Assert.True(arena.Uffd.Poison(arena.Page(1), arena.PageSize).IsDone);

        Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Poison(arena.Page(0), arena.PageSize).Outcome);
        Assert.Equal(UffdOutcome.AlreadyPresent, arena.Uffd.Poison(arena.Page(1), arena.PageSize).Outcome);
    }

    [Fact]
    public void CopyHealsAPoisonedPageAndZeropageAndMoveDoNot()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), features: UffdFeatures.Poison | UffdFeatures.Move);
        using RawMapping source = RawMapping.Anonymous(1).Fill(0x42);
        Assert.True(arena.Uffd.Poison(arena.Page(0), arena.PageSize).IsDone);

        UffdOutcome zero = arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).Outcome;
        UffdOutcome move = arena.Uffd.Move(arena.Page(0), source.Address, arena.PageSize).Outcome;
        UffdResult copy = arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize);

        Assert.Equal((UffdOutcome.AlreadyPresent, UffdOutcome.AlreadyPresent), (zero, move));
        Assert.True(copy.IsDone);
        Assert.Equal(0x42, FaultingThread.ReadByte(arena.Page(0)));
    }

    [Fact]
    public void DiscardHealsAPoisonedPage()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), features: UffdFeatures.Poison);
        Assert.True(arena.Uffd.Poison(arena.Page(0), arena.PageSize).IsDone);

        Assert.Equal(0, Libc.madvise(arena.Page(0), arena.PageSize, Libc.MADV_DONTNEED));

        Assert.True(arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).IsDone);
    }

    [Fact]
    public void PoisonOfARunStopsWithTheBytesDone()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), features: UffdFeatures.Poison);
        Assert.True(arena.Uffd.Zeropage(arena.Page(1), arena.PageSize).IsDone);

        Assert.Equal(new UffdResult(UffdOutcome.Partial, (long)arena.PageSize, Errno.EAGAIN), arena.Uffd.Poison(arena.Page(0), 2 * arena.PageSize));
    }

    [Fact]
    public void PoisonOutsideTheRegistrationAndWithABadModeAreNamed()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), UffdModes.None, UffdFeatures.Poison);
        _ = arena.Uffd.Register(new AddressRange(arena.Page(0), arena.PageSize), UffdModes.Missing);

        Assert.Equal(UffdOutcome.NotRegistered, arena.Uffd.Poison(arena.Page(1), arena.PageSize).Outcome);
        Assert.Equal(UffdOutcome.InvalidArgument, arena.Uffd.Poison(arena.Page(0), arena.PageSize, UffdPlaceFlags.WriteProtected).Outcome);
    }

    [Fact]
    public void PoisonWhileTheAddressSpaceChangesHasANameOfItsOwn()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), features: UffdFeatures.EventRemove | UffdFeatures.Poison);
        FaultingThread discard = arena.Run(() => Libc.madvise(arena.Page(1), arena.PageSize, Libc.MADV_DONTNEED));
        Assert.True(arena.WaitReadable(Deadline.Default));

        UffdResult during = arena.Uffd.Poison(arena.Page(0), arena.PageSize);
        _ = arena.NextMessage(UffdEvent.Remove);

        Assert.Equal(UffdOutcome.AddressSpaceChanging, during.Outcome);
        Assert.True(UffdArena.WhenSettled(() => arena.Uffd.Poison(arena.Page(0), arena.PageSize)).IsDone);
        Assert.Equal(0, discard.Result);
    }

    private static void TouchAPoisonedPage(ChildScenario child)
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), features: UffdFeatures.Poison);
        Assert.True(arena.Uffd.Poison(arena.Page(0), arena.PageSize).IsDone);
        child.Say("poisoned");
        child.Say($"read {FaultingThread.ReadByte(arena.Page(0))}");
    }

    /// <summary>Lets the kernel read a byte at the address: the errno, 0 when it could.</summary>
    internal static unsafe long ErrnoOfAKernelRead(nuint address)
    {
        using RawMapping file = RawMapping.Memfd(1);
        return Libc.write(file.File!, (void*)address, 1) == 1 ? 0 : Marshal.GetLastPInvokeError();
    }
}
