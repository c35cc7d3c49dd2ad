using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>
/// Registered memory with its descriptor and the threads that touch it. Whatever a test does, Dispose sets the threads
/// free (closing the descriptor wakes all waiters) before it unmaps the memory; a watchdog does the same when the test
/// itself hangs in a native call.
/// </summary>
/// <example><code>
/// using UffdArena arena = new(RawMapping.Anonymous(4));
/// FaultingThread t = arena.Read(0);
/// UffdMessage fault = arena.NextMessage();
/// arena.Uffd.Copy(arena.Page(0), source.Address, arena.PageSize);
/// Assert.Equal(expected, t.Result);
/// </code></example>
internal sealed class UffdArena : IDisposable
{
    private static readonly TimeSpan s_watchdog = TimeSpan.FromSeconds(40);

    private readonly List<FaultingThread> _threads = [];
    private readonly Queue<UffdMessage> _pending = new();
    private readonly Timer _watchdog;

    internal UffdArena(RawMapping memory, UffdModes modes = UffdModes.Missing, UffdFeatures features = UffdFeatures.None)
    {
        Memory = memory;
        Requires.Userfaultfd(features);
        Uffd = UffdHandle.Open(Requires.AnyKind);
        _ = Uffd.Negotiate(features);
        Registration = modes == UffdModes.None ? default : Uffd.Register(memory.Range, modes);
        _watchdog = new Timer(_ => Uffd.Dispose(), null, s_watchdog, Timeout.InfiniteTimeSpan);
    }

    internal UffdHandle Uffd { get; }

    internal RawMapping Memory { get; }

    internal UffdRegistration Registration { get; }

    internal nuint PageSize => Memory.PageSize;

    internal nuint Page(int index) => Memory.Page(index);

    /// <summary>Starts a thread that reads a byte of the page.</summary>
    internal FaultingThread Read(int page, int offset = 0) => Track(FaultingThread.Read(Page(page) + (nuint)offset));

    /// <summary>Starts a thread that writes a byte into the page.</summary>
    internal FaultingThread Write(int page, byte value) => Track(FaultingThread.Write(Page(page), value));

    /// <summary>Starts a thread in another native call that may block on this descriptor.</summary>
    internal FaultingThread Run(Func<long> nativeCall) => Track(FaultingThread.Start(nativeCall));

    /// <summary>The next message, in the kernel's order; fails the test when none comes in time.</summary>
    internal UffdMessage NextMessage()
    {
        if (_pending.TryDequeue(out UffdMessage message))
        {
            return message;
        }

        _ = WaitReadable(Deadline.Default);
        Deadline.Until(TryRead, "a message");
        return _pending.Dequeue();
    }

    private bool TryRead()
    {
        Span<UffdMessage> one = stackalloc UffdMessage[1];
        int n = Uffd.Read(one, out UffdOutcome outcome);
        Assert.Equal(UffdOutcome.Done, outcome);
        if (n > 0)
        {
            _pending.Enqueue(one[0]);
        }

        return n > 0;
    }

    /// <summary>The next message of one kind; drops the others.</summary>
    internal UffdMessage NextMessage(UffdEvent kind)
    {
        while (true)
        {
            UffdMessage message = NextMessage();
            if (message.Event == kind)
            {
                return message;
            }
        }
    }

    /// <summary>True when a message is there, without reading it.</summary>
    internal unsafe bool WaitReadable(TimeSpan limit)
    {
        Libc.PollFd poll = new() { fd = Uffd.Descriptor, events = Libc.POLLIN };
        Libc.Timespec t = new() { tv_sec = (long)limit.TotalSeconds, tv_nsec = limit.Milliseconds * 1_000_000L };
        return Libc.ppoll(&poll, 1, &t, null) > 0 && (poll.revents & Libc.POLLIN) != 0;
    }

    /// <summary>Repeats an operation while the address space is changing, as the kernel demands (hazard H3).</summary>
    internal static UffdResult WhenSettled(Func<UffdResult> operation)
    {
        UffdResult result = default;
        Deadline.Until(() => (result = operation()).Outcome != UffdOutcome.AddressSpaceChanging, "the address space to settle");
        return result;
    }

    public void Dispose()
    {
        _watchdog.Dispose();
        Uffd.Dispose();
        bool free = _threads.TrueForAll(t => t.Wait(Deadline.Default));
        if (free)
        {
            Memory.Dispose();
        }

        Assert.True(free, "A thread was still blocked after the descriptor was closed; its memory stays mapped.");
    }

    private FaultingThread Track(FaultingThread thread)
    {
        _threads.Add(thread);
        return thread;
    }
}
