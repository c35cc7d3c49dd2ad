using System.Collections.Concurrent;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>A destination with one block, and the threads that touch it. Dispose sets them free whatever happened.</summary>
internal sealed class DestinationBench : IDisposable
{
    private readonly List<FaultingThread> _threads = [];
    private readonly Timer _watchdog;

    internal DestinationBench(int pages = 64, PostcopyOptions? options = null, bool shared = false, bool listen = true)
    {
        Requires.Userfaultfd();
        Mapping = shared ? RawMapping.Memfd(pages) : RawMapping.Anonymous(pages);
        Destination = new PostcopyDestination((options ?? new PostcopyOptions()) with { Open = Requires.AnyKind, Placer = new PlacerOptions { Deadline = TimeSpan.FromSeconds(2) } });
        Block = Destination.Blocks.Add(new RamBlockSpec { Name = "ram", HostAddress = Mapping.Address, UsedLength = (long)Mapping.Length });
        _watchdog = new Timer(_ => Destination.Uffd?.Dispose(), null, TimeSpan.FromSeconds(50), Timeout.InfiniteTimeSpan);
        if (listen)
        {
            Destination.Advise();
            Destination.Listen(Requester);
            Destination.Run();
        }
    }

    internal RawMapping Mapping { get; }

    internal PostcopyDestination Destination { get; }

    internal RamBlock Block { get; }

    internal QueueRequester Requester { get; } = new();

    internal ConcurrentQueue<Exception> Failures { get; } = new();

    internal FaultingThread Read(int page) => Track(FaultingThread.Read(Block.HostAddress + (nuint)(page * 4096L)));

    internal FaultingThread Run(Func<long> nativeCall) => Track(FaultingThread.Start(nativeCall));

    internal FaultingThread Track(FaultingThread thread)
    {
        _threads.Add(thread);
        return thread;
    }

    internal PlaceResult Place(int page, int count = 1)
    {
        PlaceResult result = default;
        for (int i = page; i < page + count; i++)
        {
            nuint source = Pages.Make(i, 4096);
            result = Destination.Placer.Place(Block, i * 4096L, source, 4096);
            Pages.Free(source);
        }

        return result;
    }

    internal void PlaceAll()
    {
        for (int page = 0; page < Block.PageCount; page++)
        {
            PlaceResult result = Place(page);
            Assert.True(result.IsReceived, $"page {page}: {result}");
        }
    }

    internal static byte FirstByte(int page) => Pages.Expected(page, 4096)[0];

    internal void AssertContent(int page)
    {
        byte[] seen = new byte[4096];
        Block.Read(page * 4096L, seen);
        Assert.True(seen.AsSpan().SequenceEqual(Pages.Expected(page, 4096)), $"Page {page} is wrong.");
    }

    internal byte[] ReadPage(int page)
    {
        byte[] seen = new byte[4096];
        FaultingThread reader = Run(() =>
        {
            Block.Read(page * 4096L, seen);
            return 0;
        });
        Assert.Equal(0, reader.Result);
        return seen;
    }

    internal void AssertZero(int page) => Assert.Equal(-1, ReadPage(page).AsSpan().IndexOfAnyExcept((byte)0));

    public void Dispose()
    {
        _watchdog.Dispose();
        bool served = Block.Primary is null || Destination.Placer.PlaceZero(Block, 0, Block.UsedLength).IsReceived;
        if (!served)
        {
            // Closing the descriptor wakes every waiter.
            Destination.Uffd?.Dispose();
        }

        bool free = _threads.TrueForAll(t => t.Wait(Deadline.Default));
        if (served)
        {
            Destination.CloseAsync(MissingPagePolicy.Poison).AsTask().Wait(Deadline.Default);
        }

        if (free)
        {
            Mapping.Dispose();
        }

        Assert.True(free, "A thread was still blocked after the descriptor was closed; its memory stays mapped.");
    }
}
