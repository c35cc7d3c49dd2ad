namespace Postcopy.Uffd.Tests.Destination;

public sealed class PostcopyDestinationTests
{
    private const int PageBytes = 4096;
    private const int Limit = 60_000;

    [Theory(Timeout = Limit)]
    [InlineData(GuestMemoryKind.Anonymous)]
    [InlineData(GuestMemoryKind.Memfd)]
    public async Task EveryTouchedPageIsRequestedOnceAndArrivesRight(GuestMemoryKind kind)
    {
        const int pages = 256;
        const int threads = 4;
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = pages * PageBytes, Kind = kind });
        await using PostcopyDestination destination = new();
        RamBlock block = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = memory });
        QueueRequester requester = new();
        destination.Advise();
        destination.Listen(requester);
        destination.Run();

        Task<int>[] touchers = [.. Enumerable.Range(0, threads).Select(t => Task.Factory.StartNew(() => Touch(memory, pages, t), TaskCreationOptions.LongRunning))];
        for (int i = 0; i < pages; i++)
        {
            PageRequest request = requester.Take();
            long page = request.Offset / PageBytes;
            nuint bytes = Pages.Make(page, PageBytes);
            Assert.Equal(PlaceOutcome.Placed, destination.Placer.Place(request.Block, request.Offset, bytes, PageBytes).Outcome);
            Pages.Free(bytes);
        }

        Assert.All(await Task.WhenAll(touchers), wrong => Assert.Equal(0, wrong));
        bool told = false;
        CompletionReport report = await destination.CompleteAsync(_ =>
        {
            told = destination.State == PostcopyState.End;
            return ValueTask.CompletedTask;
        });

        Assert.True(told);
        Assert.Equal(pages, report.Faults.Requests);
        Assert.Equal(pages, requester.Seen.Distinct().Count());
        Assert.Equal(pages * PageBytes, report.Placement.CopiedBytes);
        Assert.Equal(0, block.MissingPages);
    }

    private static int Touch(GuestMemory memory, int pages, int seed)
    {
        Random random = new(seed);
        int[] order = [.. Enumerable.Range(0, pages)];
        random.Shuffle(order);
        byte[] page = new byte[PageBytes];
        int wrong = 0;
        foreach (int p in order)
        {
            memory.Read((long)p * PageBytes, page);
            wrong += page.AsSpan().SequenceEqual(Pages.Expected(p, PageBytes)) ? 0 : 1;
        }

        return wrong;
    }
}
