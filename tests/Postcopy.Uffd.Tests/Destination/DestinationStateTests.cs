using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

public sealed class DestinationStateTests
{
    private const int Limit = 60_000;

    /// <summary>Which states each operation is possible in; everything else is refused by name and changes nothing.</summary>
    private static readonly Dictionary<string, PostcopyState[]> s_allowed = new()
    {
        ["Advise"] = [PostcopyState.None],
        ["Discard"] = [PostcopyState.Advise, PostcopyState.Discard],
        ["Listen"] = [PostcopyState.Advise, PostcopyState.Discard],
        ["Run"] = [PostcopyState.Listen],
        ["Pause"] = [PostcopyState.Listen, PostcopyState.Running],
        ["Resume"] = [PostcopyState.Paused],
        ["CompleteAsync"] = [PostcopyState.Listen, PostcopyState.Running, PostcopyState.Paused],
        ["EnsurePresentAsync"] = [PostcopyState.Listen, PostcopyState.Running, PostcopyState.Paused, PostcopyState.End],
        ["Prefetch"] = [PostcopyState.Listen, PostcopyState.Running, PostcopyState.Paused, PostcopyState.End],
        ["AttachMirror"] = [PostcopyState.None, PostcopyState.Advise, PostcopyState.Discard, PostcopyState.Listen, PostcopyState.Running, PostcopyState.Paused],
    };

    public static TheoryData<PostcopyState> States => [.. Enum.GetValues<PostcopyState>()];

    [Theory(Timeout = Limit)]
    [MemberData(nameof(States))]
    public async Task EveryIllegalStepIsRefusedByNameAndChangesNothing(PostcopyState state)
    {
        foreach ((string operation, PostcopyState[] allowed) in s_allowed.Where(a => !a.Value.Contains(state)))
        {
            using DestinationBench bench = new(pages: 4, shared: true, listen: false);
            await Bring(bench, state);
            PostcopyStateException refused = await Assert.ThrowsAsync<PostcopyStateException>(() => Do(bench, operation));
            Assert.Equal((operation, state, state), (refused.Operation, refused.State, bench.Destination.State));
            Assert.Equal($"{operation} is not possible in state {state}; it needs {string.Join(" or ", allowed)}.", refused.Message);
        }
    }

    [Theory(Timeout = Limit)]
    [MemberData(nameof(States))]
    public async Task EveryLegalStepIsPossible(PostcopyState state)
    {
        foreach ((string operation, _) in s_allowed.Where(a => a.Value.Contains(state)))
        {
            using DestinationBench bench = new(pages: 4, shared: true, listen: false);
            await Bring(bench, state);
            if (operation is "CompleteAsync" or "EnsurePresentAsync" && state != PostcopyState.End)
            {
                bench.PlaceAll();
            }

            await Do(bench, operation);
        }
    }

    [Theory(Timeout = Limit)]
    [MemberData(nameof(States))]
    public async Task AClosedDestinationRefusesEveryStep(PostcopyState state)
    {
        using DestinationBench bench = new(pages: 4, shared: true, listen: false);
        await Bring(bench, state);
        await bench.Destination.CloseAsync(MissingPagePolicy.Poison);
        await bench.Destination.CloseAsync(MissingPagePolicy.Fail);
        foreach (string operation in s_allowed.Keys)
        {
            _ = await Assert.ThrowsAsync<ObjectDisposedException>(() => Do(bench, operation));
        }

        // What it did can still be read.
        _ = bench.Destination.Faults;
        _ = bench.Destination.Placer.Statistics;
        Assert.Contains(bench.Destination.State, (PostcopyState[])[PostcopyState.End, PostcopyState.Failed]);
    }

    [Fact(Timeout = Limit)]
    public async Task PausedGoesBackToWhereItCameFrom()
    {
        using DestinationBench bench = new(pages: 4, listen: false);
        bench.Destination.Advise();
        bench.Destination.Listen(bench.Requester);
        bench.Destination.Pause("test");
        bench.Destination.Resume(bench.Requester);
        Assert.Equal(PostcopyState.Listen, bench.Destination.State);
        bench.Destination.Run();
        bench.Destination.Pause("test");
        bench.Destination.Resume(bench.Requester);
        Assert.Equal(PostcopyState.Running, bench.Destination.State);
        await Task.CompletedTask;
    }

    [Fact(Timeout = Limit)]
    public async Task ListenWithoutABlockIsRefusedAndCanBeRepeated() => await Task.Run(() =>
    {
        using DestinationBench bench = new(pages: 4, listen: false);
        bench.Destination.Blocks.Remove(bench.Block);
        bench.Destination.Advise();
        Assert.Contains("There is no RAM block", Assert.Throws<InvalidOperationException>(() => bench.Destination.Listen(bench.Requester)).Message, StringComparison.Ordinal);
        RamBlock block = bench.Destination.Blocks.Add(new RamBlockSpec { Name = "ram", HostAddress = bench.Mapping.Address, UsedLength = 4 * 4096 });
        bench.Destination.Listen(bench.Requester);
        Assert.Equal(PostcopyState.Listen, bench.Destination.State);
        Assert.Equal(4, block.MissingPages);
    });

    [Fact(Timeout = Limit)]
    public async Task ABlockThatCannotBeRegisteredLeavesNoneRegistered() => await Task.Run(() =>
    {
        using DestinationBench bench = new(pages: 4, listen: false);
        using RawMapping taken = RawMapping.Anonymous(4);
        using UffdArena other = new(taken);
        _ = bench.Destination.Blocks.Add(new RamBlockSpec { Name = "taken", HostAddress = taken.Address, UsedLength = 4 * 4096 });
        bench.Destination.Advise();
        UffdException refused = Assert.Throws<UffdException>(() => bench.Destination.Listen(bench.Requester));
        Assert.Contains("EBUSY", refused.Message, StringComparison.Ordinal);
        Assert.Equal(PostcopyState.Advise, bench.Destination.State);
        Assert.Null(bench.Block.Primary);

        // Not registered: a touch is an ordinary touch.
        Assert.Equal(0, bench.Read(0).Result);
        bench.Destination.Blocks.Remove(bench.Destination.Blocks.Blocks[1]);
        bench.Destination.Listen(bench.Requester);
        FaultingThread reader = bench.Read(0);
        Assert.Equal(0, bench.Requester.Take().Offset);
        _ = bench.Place(0);
        Assert.Equal(DestinationBench.FirstByte(0), reader.Result);
    });

    [Fact(Timeout = Limit)]
    public async Task RangesOutsideOfABlockAreRefused() => await Task.Run(() =>
    {
        using DestinationBench bench = new(pages: 4);
        Assert.Throws<ArgumentOutOfRangeException>(() => bench.Destination.Prefetch(bench.Block, new PageRange(0, 5 * 4096)));
        Assert.Throws<ArgumentOutOfRangeException>(() => bench.Destination.Prefetch(bench.Block, new PageRange(-1, 4096)));
        Assert.Throws<ArgumentOutOfRangeException>(() => { _ = bench.Destination.EnsurePresentAsync(bench.Block, new PageRange(4 * 4096, 1)); });
        Assert.Throws<ArgumentOutOfRangeException>(() => { _ = bench.Destination.CloseAsync((MissingPagePolicy)9); });
    });

    private static async Task Bring(DestinationBench bench, PostcopyState state)
    {
        PostcopyDestination destination = bench.Destination;
        if (state >= PostcopyState.Advise)
        {
            destination.Advise();
        }

        if (state == PostcopyState.Discard)
        {
            destination.Discard(bench.Block, new PageRange(0, 4096));
        }

        if (state >= PostcopyState.Listen)
        {
            destination.Listen(bench.Requester);
        }

        if (state >= PostcopyState.Running)
        {
            destination.Run();
        }

        switch (state)
        {
            case PostcopyState.Paused:
                destination.Pause("test");
                break;
            case PostcopyState.End:
                bench.PlaceAll();
                _ = await destination.CompleteAsync();
                break;
            case PostcopyState.Failed:
                ((IFaultObserver)destination).OnReaderFailed(new InvalidOperationException("made up"));
                _ = await Assert.ThrowsAsync<PostcopyFailedException>(() => destination.Completion);
                break;
        }

        Assert.Equal(state, destination.State);
    }

    private static async Task Do(DestinationBench bench, string operation)
    {
        PostcopyDestination destination = bench.Destination;
        switch (operation)
        {
            case "Advise":
                destination.Advise();
                break;
            case "Discard":
                destination.Discard(bench.Block, new PageRange(4096, 4096));
                Assert.Equal(PostcopyState.Discard, destination.State);
                break;
            case "Listen":
                destination.Listen(bench.Requester);
                break;
            case "Run":
                destination.Run();
                break;
            case "Pause":
                destination.Pause("test");
                break;
            case "Resume":
                destination.Resume(bench.Requester);
                break;
            case "CompleteAsync":
                _ = await destination.CompleteAsync();
                break;
            case "EnsurePresentAsync":
                await destination.EnsurePresentAsync(bench.Block, new PageRange(0, 1));
                break;
            case "Prefetch":
                destination.Prefetch(bench.Block, new PageRange(0, 1));
                break;
            case "AttachMirror":
                using (UffdHandle uffd = UffdHandle.Open(Requires.AnyKind))
                {
                    _ = uffd.Negotiate();
                    destination.AttachMirror(uffd, bench.Block, 0x1000, UffdModes.Missing);
                }

                break;
        }
    }
}
