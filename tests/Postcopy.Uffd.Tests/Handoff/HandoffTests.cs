using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Handoff;

/// <summary>Memory handed to a handler over a socket, taken over by the next, completed and closed.</summary>
public sealed class HandoffTests
{
    private const int Limit = 60_000;

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AHandlerServesTheOwnersFaultsToTheEnd(bool shared) => await Task.Run(() =>
    {
        using HandoffBench bench = new(shared: shared);
        FaultingThread early = bench.Read(7);
        (HandlerConnection connection, HandoffHandler handler) = bench.HandOver(serve: true);
        Assert.Equal(DestinationBench.FirstByte(7), (byte)early.Result);
        Assert.Equal(DestinationBench.FirstByte(9), (byte)bench.Read(9).Result);
        RamBlock theirs = Assert.Single(handler.Session.Blocks.Blocks);
        Assert.Equal("pc.ram", theirs.Name);
        Assert.Equal(bench.Memory.Address, theirs.HostAddress);
        Assert.Equal(8192, handler.Session.SourceOffsetOf(theirs));
        Assert.Equal(shared, handler.Session.MemoryFileOf(theirs) is not null);
        // The thread is woken inside the ioctl, the bit is set after it.
        Deadline.Until(() => bench.Owner.MissingBytes == 62 * 4096, "two received pages");
        Assert.Throws<PostcopyIncompleteException>(bench.Owner.Complete);

        handler.PlaceAll();
        Assert.Equal(HandlerEnd.NothingMissing, connection.Ended.WaitAsync(Deadline.Default).GetAwaiter().GetResult());
        bench.Owner.Complete();
        Assert.Equal(HandoffSessionEnd.Completed, handler.Session.Ended.WaitAsync(Deadline.Default).GetAwaiter().GetResult());
        Assert.Equal(0, bench.Block.MissingPages);
        for (int page = 0; page < 64; page++)
        {
            bench.AssertContent(page);
        }

        using PresentLease lease = bench.Block.LeasePresent(0, 4096);
        Assert.Equal(DestinationBench.FirstByte(0), lease.Span[0]);
    });

    [Fact(Timeout = Limit)]
    public async Task TheNextHandlerFindsOpenFaultsAndReceivedPages() => await Task.Run(() =>
    {
        using HandoffBench bench = new();
        (HandlerConnection connection, HandoffHandler first) = bench.HandOver(serve: false);
        FaultingThread[] waiting = [bench.Read(3), bench.Read(5), bench.Read(60)];
        long[] asked = [.. Enumerable.Range(0, 3).Select(_ => first.Take().Offset / 4096).Order()];
        Assert.Equal([3L, 5, 60], asked);
        Assert.True(first.Place(first.Session.Blocks.Blocks[0], 5).IsReceived);
        Assert.Equal(DestinationBench.FirstByte(5), (byte)waiting[1].Result);

        // It goes with two messages read and unanswered: the kernel will not repeat them by itself.
        first.Dispose();
        Assert.Equal(HandlerEnd.Closed, connection.Ended.WaitAsync(Deadline.Default).GetAwaiter().GetResult());
        Assert.False(waiting[0].Wait(TimeSpan.FromMilliseconds(50)), "Closing the handler's descriptor let a waiter go.");

        (_, HandoffHandler second) = bench.HandOver(serve: false);
        Assert.Equal(2, second.Session.Generation);
        Assert.Equal(2, bench.Owner.Handlers);
        Assert.Equal(63 * 4096, second.Session.MissingBytes);
        Assert.True(second.Session.Blocks.Blocks[0].Received.Test(5));
        long[] again = [.. Enumerable.Range(0, 2).Select(_ => second.Take().Offset / 4096).Order()];
        Assert.Equal([3L, 60], again);
        second.PlaceAll();
        Assert.Equal(DestinationBench.FirstByte(3), (byte)waiting[0].Result);
        Assert.Equal(DestinationBench.FirstByte(60), (byte)waiting[2].Result);
        bench.AssertContent(5);
    });

    [Fact(Timeout = Limit)]
    public async Task APageThatWasPlacedAndNotMarkedIsFoundByTheNextHandler() => await Task.Run(() =>
    {
        using HandoffBench bench = new();
        (HandlerConnection connection, HandoffHandler first) = bench.HandOver(serve: false);

        // As if it had been killed between the ioctl and the bit.
        nuint source = Pages.Make(3, 4096);
        Assert.Equal(UffdOutcome.Done, bench.Owner.Uffd!.Copy(bench.Memory.Address + (3 * 4096), source, 4096, UffdPlaceFlags.None).Outcome);
        Pages.Free(source);
        bench.Memory.Write(3 * 4096, [42]);
        first.Dispose();
        _ = connection.Ended.WaitAsync(Deadline.Default).GetAwaiter().GetResult();

        (_, HandoffHandler second) = bench.HandOver(serve: false);
        PlaceResult placed = second.Place(second.Session.Blocks.Blocks[0], 3);
        Assert.Equal(PlaceOutcome.AlreadyPresent, placed.Outcome);
        Assert.True(bench.Block.Received.Test(3));
        Assert.Equal(42, bench.Read(3).Result);
    });

    [Fact(Timeout = Limit)]
    public async Task KeepServedReplacesHandlersUntilNothingIsMissing() => await Task.Run(async () =>
    {
        using HandoffBench bench = new();
        int started = 0;
        ValueTask<string> Next(CancellationToken token)
        {
            int number = ++started;
            _ = Task.Run(() =>
            {
                HandoffHandler handler = new(bench.Listener.Accept(token), serve: false);
                for (int page = number * 10; page < (number * 10) + 10 && page < 64; page++)
                {
                    _ = handler.Place(handler.Session.Blocks.Blocks[0], page - 10);
                }

                if (number < 6)
                {
                    handler.Dispose();
                }
                else
                {
                    handler.PlaceAll();
                }
            }, token);
            return new(bench.Path);
        }

        await bench.Owner.KeepServedAsync(Next, TestContext.Current.CancellationToken).WaitAsync(Deadline.Default);
        Assert.Equal(0, bench.Owner.MissingBytes);
        Assert.Equal(6, bench.Owner.Handlers);
        bench.AssertContent(63);
    });

    [Fact(Timeout = Limit)]
    public async Task WhoServesNobodyCannotReadOrDiscard() => await Task.Run(() =>
    {
        using HandoffBench bench = new();
        (_, HandoffHandler handler) = bench.HandOver(serve: false);
        RamBlock theirs = handler.Session.Blocks.Blocks[0];
        byte[] one = new byte[1];
        Assert.Contains("another process", Assert.Throws<InvalidOperationException>(() => theirs.Read(0, one)).Message, StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(() => theirs.Write(0, one));
        Assert.Throws<InvalidOperationException>(() => theirs.Discard(new PageRange(0, 4096)));
        Assert.Throws<InvalidOperationException>(() => theirs.ComputeSha256());
        Assert.Throws<InvalidOperationException>(() => theirs.LeasePresent(0, 1).Dispose());
        Assert.Contains("handler process", Assert.Throws<InvalidOperationException>(() => bench.Block.Discard(new PageRange(0, 4096))).Message, StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(() => bench.Owner.Connect(bench.Path));
        Assert.Throws<PostcopyIncompleteException>(() => bench.Owner.Close(MissingPagePolicy.Fail));
        Assert.Throws<InvalidOperationException>(() => handler.Session.Start(handler.Requests));
    });

    [Fact(Timeout = Limit)]
    public async Task ConnectingToNobodyLosesNothing() => await Task.Run(() =>
    {
        using HandoffBench bench = new();
        HandoffException e = Assert.Throws<HandoffException>(() => bench.Owner.Connect(bench.Path + ".not"));
        Assert.Contains("no handler listens", e.Message, StringComparison.Ordinal);
        Assert.Contains("107 bytes", Assert.Throws<HandoffException>(() => bench.Owner.Connect(new string('x', 200))).Message, StringComparison.Ordinal);
        FaultingThread waiting = bench.Read(1);
        (_, HandoffHandler handler) = bench.HandOver(serve: true);
        Assert.Equal(DestinationBench.FirstByte(1), (byte)waiting.Result);
        handler.PlaceAll();
    });

    [Fact(Timeout = Limit)]
    public async Task AnotherListenerAtTheSamePathIsRefusedAndALeftOverNodeIsNot() => await Task.Run(() =>
    {
        string path = Path.Combine(Path.GetTempPath(), $"postcopy-{Guid.NewGuid():N}.sock");
        HandoffListener first = new(new HandoffListenerOptions { Path = path });
        try
        {
            if (!OperatingSystem.IsWindows())
            {
                Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(path) & (UnixFileMode)0b111_111_111);
            }

            Assert.Contains("a handler listens there", Assert.Throws<HandoffException>(() => new HandoffListener(new HandoffListenerOptions { Path = path })).Message, StringComparison.Ordinal);
        }
        finally
        {
            first.Dispose();
        }

        using (DescriptorSocket killed = DescriptorSocket.Listen(path, 1))
        {
            Assert.True(File.Exists(path));
        }

        Assert.True(File.Exists(path), "The node should have stayed, as after a kill.");
        using HandoffListener next = new(new HandoffListenerOptions { Path = path });
        using CancellationTokenSource soon = new(50);
        Assert.ThrowsAny<OperationCanceledException>(() => next.Accept(soon.Token));
    });

    [Fact(Timeout = Limit)]
    public async Task AnotherUserIsRefusedUnlessItIsAllowed() => await Task.Run(() =>
    {
        Requires.Root("Becoming another user");
        Requires.Userfaultfd();
        const uint nobody = 65534;
        DirectoryInfo directory = Directory.CreateTempSubdirectory("postcopy-handoff-");
        string path = Path.Combine(directory.FullName, "handler.sock");
        foreach (bool allowed in new[] { false, true })
        {
            using HandoffListener listener = new(new HandoffListenerOptions { Path = path, AllowedUsers = allowed ? [nobody] : [] });
            File.SetUnixFileMode(directory.FullName, (UnixFileMode)0b111_101_101);

            // The door is 0600 at first: nobody cannot even knock.
            Assert.Contains("EACCES", ChildProcess.Run(ConnectAsNobody, path), StringComparison.Ordinal);
            File.SetUnixFileMode(path, (UnixFileMode)0b110_110_110);
            using CancellationTokenSource patience = new();
            Task accepting = Task.Run(() => listener.Accept(patience.Token), patience.Token);
            string said = ChildProcess.Run(ConnectAsNobody, path);
            Assert.Contains(allowed ? "is no userfaultfd" : "user 65534 may not hand memory over", said, StringComparison.Ordinal);
            patience.Cancel();
            Assert.ThrowsAny<OperationCanceledException>(() => accepting.WaitAsync(Deadline.Default).GetAwaiter().GetResult());
        }

        directory.Delete(recursive: true);
    });

    [Fact(Timeout = Limit)]
    public async Task PoisonTakesThePlaceOfPagesThatNeverCame() => await Task.Run(() =>
    {
        Requires.Userfaultfd(UffdFeatures.Poison);
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 8 * 4096 });
        HandoffOwner owner = new(new HandoffOwnerOptions { Open = Requires.AnyKind });
        RamBlock block = owner.Add(new RamBlockSpec { Name = "ram", Memory = memory }, 0);
        owner.Register();
        Assert.Throws<PostcopyIncompleteException>(() => owner.Close(MissingPagePolicy.Fail));
        owner.Close(MissingPagePolicy.Poison);
        Assert.Equal(8, block.MissingPages);
        Assert.Throws<GuestMemoryException>(() => memory.Populate(0, 4096, forWriting: false));
        Assert.Throws<ObjectDisposedException>(owner.Complete);
    });

    /// <summary>A hand-over that gets as far as its first descriptor, which is none.</summary>
    private static void ConnectAsNobody(ChildScenario child)
    {
        TestLibc.BecomeNobody();
        try
        {
            using DescriptorSocket peer = DescriptorSocket.Connect(child.Arguments[0]);
            using Microsoft.Win32.SafeHandles.SafeFileHandle none = File.OpenHandle("/dev/null");
            HandoffBlock block = new("ram", new AddressRange(1 << 20, 1 << 20), PageSize.Host, 0, UffdModes.Missing, UffdOperations.Copy, HandoffState.HeaderBytes, -1, false);
            try
            {
                peer.Send(new HandoffMessage(UffdFeatures.None, 8192, [block], 3).Encode(), [none, none, none], Deadline.Default);
            }
            catch (HandoffException e) when (e.Message.Contains("EPIPE", StringComparison.Ordinal))
            {
                // Refused unread: the answer is there all the same.
            }

            byte[] bytes = new byte[HandoffAnswer.MaxBytes];
            int n = peer.Receive(bytes, [], Deadline.Default);
            child.Say(HandoffAnswer.Decode(bytes.AsSpan(0, n)).Text);
        }
        catch (HandoffException e)
        {
            child.Say(e.Message);
        }
    }
}
