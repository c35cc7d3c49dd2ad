using Microsoft.Win32.SafeHandles;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Handoff;

/// <summary>
/// An owner with one block, a door, and handlers behind it, all in this process: the descriptor crosses a real socket, and
/// the handler's side knows the memory by its addresses only. Dispose sets all threads free.
/// </summary>
internal sealed class HandoffBench : IDisposable
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("postcopy-handoff-");
    private readonly List<FaultingThread> _threads = [];
    private readonly List<HandoffHandler> _handlers = [];
    private readonly Timer _watchdog;

    internal HandoffBench(int pages = 64, bool shared = false, bool register = true, Func<HandoffListenerOptions, HandoffListenerOptions>? listen = null)
    {
        Requires.Userfaultfd();
        Memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = pages * 4096L, Kind = shared ? GuestMemoryKind.Memfd : GuestMemoryKind.Anonymous });
        Owner = new HandoffOwner(new HandoffOwnerOptions { Open = Requires.AnyKind, Patience = TimeSpan.FromSeconds(10) });
        Block = Owner.Add(new RamBlockSpec { Name = "pc.ram", Memory = Memory }, sourceOffset: 8192);
        HandoffListenerOptions options = new() { Path = Path, StuckFaultCheck = Timeout.InfiniteTimeSpan };
        Listener = new HandoffListener(listen?.Invoke(options) ?? options);
        _watchdog = new Timer(_ => Owner.Uffd?.Dispose(), null, TimeSpan.FromSeconds(50), Timeout.InfiniteTimeSpan);
        if (register)
        {
            Owner.Register();
        }
    }

    internal string Path => System.IO.Path.Combine(_directory.FullName, "handler.sock");

    internal GuestMemory Memory { get; }

    internal HandoffOwner Owner { get; }

    internal RamBlock Block { get; }

    internal HandoffListener Listener { get; }

    internal FaultingThread Read(int page)
    {
        FaultingThread thread = FaultingThread.Read(Memory.Address + (nuint)(page * 4096L));
        _threads.Add(thread);
        return thread;
    }

    /// <summary>Hands over to a handler of this bench; it serves at once when told so, else its faults are only queued.</summary>
    internal (HandlerConnection Connection, HandoffHandler Handler) HandOver(bool serve)
    {
        Task<HandoffSession> accepting = Task.Run(() => Listener.Accept());
        HandlerConnection connection = Owner.Connect(Path);
        HandoffHandler handler = new(accepting.WaitAsync(Deadline.Default).GetAwaiter().GetResult(), serve);
        _handlers.Add(handler);
        return (connection, handler);
    }

    internal void AssertContent(int page) =>
        Assert.True(Destination.Pages.Expected(page, 4096).AsSpan().SequenceEqual(Bytes(page)), $"Page {page} is wrong.");

    private byte[] Bytes(int page)
    {
        byte[] seen = new byte[4096];
        Memory.Read(page * 4096L, seen);
        return seen;
    }

    public void Dispose()
    {
        _watchdog.Dispose();
        _handlers.ForEach(h => h.Dispose());
        if (Owner.Uffd is { IsClosed: false } uffd && Owner.MissingBytes > 0)
        {
            // Closing the last descriptor wakes every waiter.
            uffd.Dispose();
        }
        else
        {
            Owner.Close(MissingPagePolicy.Fail);
        }

        Listener.Dispose();
        bool free = _threads.TrueForAll(t => t.Wait(Deadline.Default));
        if (free)
        {
            Memory.Dispose();
        }

        _directory.Delete(recursive: true);
        Assert.True(free, "A thread was still blocked after the descriptor was closed; its memory stays mapped.");
    }
}

/// <summary>The handler's side: a session, its queue, and a thread that serves from made-up content.</summary>
internal sealed class HandoffHandler : IDisposable
{
    private readonly Thread? _server;
    private bool _stop;

    internal HandoffHandler(HandoffSession session, bool serve)
    {
        Session = session;
        session.Start(Requests);
        if (serve)
        {
            _server = new Thread(Serve) { IsBackground = true };
            _server.Start();
        }
    }

    internal HandoffSession Session { get; }

    internal PageRequestQueue Requests { get; } = new();

    internal PageRequest Take()
    {
        Assert.True(Requests.TryTake(Deadline.Default, out PageRequest request), "No request came.");
        return request;
    }

    internal PlaceResult Place(RamBlock block, long page)
    {
        nuint source = Pages.Make(page, 4096);
        PlaceResult result = Session.Placer.Place(block, page * 4096, source, 4096);
        Pages.Free(source);
        return result;
    }

    internal void PlaceAll()
    {
        RamBlock block = Session.Blocks.Blocks[0];
        for (long page = 0; page < block.PageCount; page++)
        {
            Assert.True(Place(block, page).IsReceived);
        }
    }

    private void Serve()
    {
        while (!Volatile.Read(ref _stop))
        {
            if (Requests.TryTake(TimeSpan.FromMilliseconds(20), out PageRequest request))
            {
                for (long at = 0; at < request.Length; at += 4096)
                {
                    _ = Place(request.Block, (request.Offset + at) / 4096);
                }
            }
        }
    }

    public void Dispose()
    {
        Volatile.Write(ref _stop, true);
        _server?.Join();
        Session.Dispose();
    }
}
