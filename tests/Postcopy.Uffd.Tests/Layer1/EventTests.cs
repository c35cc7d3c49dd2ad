using System.Globalization;
using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>The four events beside the page fault, and what reading does.</summary>
public sealed class EventTests
{
    [Theory]
    [InlineData(Libc.MADV_DONTNEED, false)]
    [InlineData(TestLibc.MADV_FREE, false)]
    [InlineData(Libc.MADV_REMOVE, true)]
    public void DiscardsRaiseARemoveEventAndWaitForItsReader(int advice, bool memfd)
    {
        using UffdArena arena = new(memfd ? RawMapping.Memfd(4) : RawMapping.Anonymous(4), features: UffdFeatures.EventRemove);
        FaultingThread discard = arena.Run(() => Libc.madvise(arena.Page(1), 2 * arena.PageSize, advice));
        Assert.True(arena.WaitReadable(Deadline.Default));
        bool waited = !discard.IsDone;

        UffdMessage message = arena.NextMessage();

        Assert.Equal(UffdEvent.Remove, message.Event);
        Assert.Equal(new AddressRange(arena.Page(1), 2 * arena.PageSize), message.Range);
        Assert.True(waited);
        Assert.Equal(0, discard.Result);
    }

    [Fact]
    public void AHolePunchedIntoTheFileRaisesNoEvent()
    {
        using UffdArena arena = new(RawMapping.Memfd(1), features: UffdFeatures.EventRemove);

        Assert.Equal(0, Libc.fallocate(arena.Memory.File!, Libc.FALLOC_FL_KEEP_SIZE | Libc.FALLOC_FL_PUNCH_HOLE, 0, (long)arena.PageSize));

        Assert.False(arena.WaitReadable(TimeSpan.Zero));
    }

    [Fact]
    public void MunmapRaisesAnUnmapEventAndWaitsForItsReader()
    {
        RawMapping memory = RawMapping.Anonymous(2);
        using UffdArena arena = new(memory, features: UffdFeatures.EventUnmap);
        FaultingThread unmap = arena.Run(() => memory.Unmap());
        Assert.True(arena.WaitReadable(Deadline.Default));
        bool waited = !unmap.IsDone;

        UffdMessage message = arena.NextMessage();

        Assert.Equal(UffdEvent.Unmap, message.Event);
        Assert.Equal(memory.Range, message.Range);
        Assert.True(waited);
        Assert.Equal(0, unmap.Result);
    }

    [Fact]
    public void MremapRaisesARemapEventAndTheRangeStaysRegistered()
    {
        RawMapping memory = RawMapping.Anonymous(2);
        using UffdArena arena = new(memory, features: UffdFeatures.EventRemap);
        RawMapping place = RawMapping.Anonymous(2);
        nuint from = memory.Address;
        FaultingThread move = arena.Run(() => (long)TestLibc.mremap(
            from, memory.Length, memory.Length, TestLibc.MREMAP_MAYMOVE | TestLibc.MREMAP_FIXED, place.Address));

        UffdMessage message = arena.NextMessage();

        Assert.Equal((nuint)move.Result, place.Address);
        memory.Moved(place.Address);
        Assert.Equal(UffdEvent.Remap, message.Event);
        Assert.Equal((from, place.Address, memory.Length), (message.RemapFrom, message.RemapTo, message.RemapLength));
        Assert.True(UffdArena.WhenSettled(() => arena.Uffd.Zeropage(place.Address, arena.PageSize)).IsDone);
    }

    [Fact]
    public void ForkRaisesAnEventWithADescriptorForTheChildsMemory()
    {
        Requires.Userfaultfd(UffdFeatures.EventFork);
        Requires.Root("EVENT_FORK (CAP_SYS_PTRACE)");

        string[] lines = ChildProcess.Run(ForkAndPlaceInTheChild).Split('\n', StringSplitOptions.RemoveEmptyEntries);

        Assert.Equal(["Fork", "AddressSpaceChanging", "Copy Done", "Move InvalidArgument", "after the kill: TargetGone 3", "own memory: Done"], lines);
    }

    [Fact]
    public void ForkWithoutTheEventLeavesTheChildWithZeros()
    {
        Requires.Userfaultfd();
        // Nothing to read, and fork does not wait.
        Assert.Equal("forked, no message", ChildProcess.Run(ForkWithoutEvent).Trim());
    }

    [Fact]
    public void AnEmptyDescriptorReadsAsNoMessages()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));
        Span<UffdMessage> into = stackalloc UffdMessage[4];

        Assert.Equal(0, arena.Uffd.Read(into, out UffdOutcome outcome));
        Assert.Equal(UffdOutcome.Done, outcome);
    }

    [Fact]
    public void ReadingBeforeNegotiatingOrIntoNoRoomIsAnInvalidArgument()
    {
        Requires.Userfaultfd();
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        Span<UffdMessage> into = stackalloc UffdMessage[1];

        Assert.Equal(0, uffd.Read(into, out UffdOutcome before));
        _ = uffd.Negotiate();
        Assert.Equal(0, uffd.Read([], out UffdOutcome noRoom));

        Assert.Equal((UffdOutcome.InvalidArgument, UffdOutcome.InvalidArgument), (before, noRoom));
    }

    [Fact]
    public unsafe void PollingBeforeNegotiatingOrOnABlockingDescriptorIsAnError()
    {
        Requires.Userfaultfd();
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);

        short before = Poll(uffd);
        _ = uffd.Negotiate();
        short quiet = Poll(uffd);
        Assert.Equal(0, Libc.fcntl(uffd, Libc.F_SETFL, 0));
        short blocking = Poll(uffd);

        Assert.Equal((Libc.POLLERR, (short)0, Libc.POLLERR), (before, quiet, blocking));

        static short Poll(UffdHandle uffd)
        {
            Libc.PollFd poll = new() { fd = uffd.Descriptor, events = Libc.POLLIN };
            Libc.Timespec now = default;
            Assert.InRange(Libc.ppoll(&poll, 1, &now, null), 0, 1);
            return poll.revents;
        }
    }

    [Fact]
    public void SeveralMessagesComeInOneRead()
    {
        using UffdArena arena = new(RawMapping.Anonymous(3));
        FaultingThread[] threads = [arena.Read(0), arena.Read(1), arena.Read(2)];
        Span<UffdMessage> into = new UffdMessage[8];
        HashSet<nuint> seen = [];
        int largest = 0;
        long start = Environment.TickCount64;
        // Faults before the first read come together; a slow machine may deliver them in pieces.
        while (seen.Count < 3 && Environment.TickCount64 - start < 15_000)
        {
            Libc.Pause(5_000_000);
            int n = arena.Uffd.Read(into, out _);
            largest = Math.Max(largest, n);
            foreach (UffdMessage m in into[..n])
            {
                _ = seen.Add(m.Address);
            }
        }

        Assert.True(arena.Uffd.Zeropage(arena.Page(0), 3 * arena.PageSize).IsDone);
        Assert.Equal(3, seen.Count);
        Assert.True(largest >= 2, $"At most {largest} messages came in one read.");
        Assert.All(threads, t => Assert.Equal(0, t.Result));
    }

    [Fact]
    public void FaultsAreReadBeforeOlderEvents()
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), features: UffdFeatures.EventRemove);
        FaultingThread discard = arena.Run(() => Libc.madvise(arena.Page(1), arena.PageSize, Libc.MADV_DONTNEED));
        Assert.True(arena.WaitReadable(Deadline.Default));
        FaultingThread reader = arena.Read(0);
        Deadline.Until(() => FaultsPending(arena.Uffd) >= 1, "the fault to be queued behind the event");

        UffdEvent[] order = [arena.NextMessage().Event, arena.NextMessage().Event];
        Assert.True(UffdArena.WhenSettled(() => arena.Uffd.Zeropage(arena.Page(0), arena.PageSize)).IsDone);

        Assert.Equal([UffdEvent.Pagefault, UffdEvent.Remove], order);
        Assert.Equal(0, discard.Result);
        Assert.Equal(0, reader.Result);
    }

    [Fact]
    public void SigbusModeSendsNoMessageAndFailsSystemCalls()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1), features: UffdFeatures.Sigbus);

        // The kernel's own access gets EFAULT where a thread would get the signal.
        Assert.Equal(Errno.EFAULT, PoisonTests.ErrnoOfAKernelRead(arena.Page(0)));
        Assert.False(arena.WaitReadable(TimeSpan.Zero));
    }

    private static unsafe void ForkAndPlaceInTheChild(ChildScenario child)
    {
        using UffdArena arena = new(RawMapping.Anonymous(2), features: UffdFeatures.EventFork);
        using RawMapping source = RawMapping.Anonymous(1).Fill(7);
        FaultingThread fork = arena.Run(() => TestLibc.ForkInto("pause"));
        Assert.True(arena.WaitReadable(Deadline.Default));
        UffdOutcome during = arena.Uffd.Zeropage(arena.Page(0), arena.PageSize).Outcome;
        UffdMessage message = arena.NextMessage();
        child.Say(message.Event.ToString());
        child.Say(during.ToString());
        using UffdHandle inChild = UffdHandle.FromReceived(new SafeFileHandle(message.ForkDescriptor, ownsHandle: true), arena.Uffd.Granted);
        int pid = (int)fork.Result;
        child.Say($"Copy {UffdArena.WhenSettled(() => inChild.Copy(arena.Page(0), source.Address, arena.PageSize)).Outcome}");
        child.Say($"Move {inChild.Move(arena.Page(1), source.Address, arena.PageSize).Outcome}");
        TestLibc.KillAndReap(pid);
        UffdResult gone = inChild.Copy(arena.Page(1), source.Address, arena.PageSize);
        child.Say(string.Create(CultureInfo.InvariantCulture, $"after the kill: {gone.Outcome} {gone.Errno}"));
        child.Say($"own memory: {UffdArena.WhenSettled(() => arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize)).Outcome}");
    }

    private static void ForkWithoutEvent(ChildScenario child)
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));
        int pid = TestLibc.ForkInto("_exit");
        TestLibc.KillAndReap(pid);
        child.Say($"forked, {(arena.WaitReadable(TimeSpan.Zero) ? "a" : "no")} message");
    }

    private static int FaultsPending(UffdHandle uffd)
    {
        string line = File.ReadLines($"/proc/self/fdinfo/{uffd.Descriptor}").First(l => l.StartsWith("pending:", StringComparison.Ordinal));
        return int.Parse(line["pending:".Length..].Trim(), CultureInfo.InvariantCulture);
    }
}
