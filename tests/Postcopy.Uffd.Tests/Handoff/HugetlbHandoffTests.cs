using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Handoff;

/// <summary>Huge pages of another process: its page tables say what is there.</summary>
[Collection(HugePagesCollection.Name)]
public sealed class HugetlbHandoffTests
{
    private const int Limit = 60_000;
    private const int Huge = 2 << 20;

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task HugePagesAreServedAndAPlacedOneIsFound(bool shared) => await Task.Run(() =>
    {
        HugePages.Require();
        DirectoryInfo directory = Directory.CreateTempSubdirectory("postcopy-handoff-");
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 4 * Huge, Kind = GuestMemoryKind.Hugetlb, Shared = shared });
        using HandoffOwner owner = new(new HandoffOwnerOptions { Open = Requires.AnyKind });
        _ = owner.Add(new RamBlockSpec { Name = "ram", Memory = memory }, 0);
        owner.Register();
        using Timer watchdog = new(_ => owner.Uffd?.Dispose(), null, TimeSpan.FromSeconds(40), Timeout.InfiniteTimeSpan);
        using HandoffListener listener = new(new HandoffListenerOptions { Path = Path.Combine(directory.FullName, "s") });
        Task<HandoffSession> accepting = Task.Run(() => listener.Accept());
        HandlerConnection connection = owner.Connect(Path.Combine(directory.FullName, "s"));
        using HandoffHandler handler = new(accepting.WaitAsync(Deadline.Default).GetAwaiter().GetResult(), serve: false);
        RamBlock block = handler.Session.Blocks.Blocks[0];
        FaultingThread reader = FaultingThread.Read(memory.Address + Huge + 5000);
        PageRequest request = handler.Take();
        Assert.Equal(Huge, request.Offset);
        Assert.Equal(Huge, request.Length);
        nuint source = Destination.Pages.Make(1, Huge);
        Assert.Equal(PlaceOutcome.Placed, handler.Session.Placer.Place(block, Huge, source, Huge).Outcome);
        _ = reader.Result;

        // Placed and not marked, as a killed handler leaves it: the page tables confirm what EEXIST alone would not (H7).
        Assert.Equal(UffdOutcome.Done, owner.Uffd!.Copy(memory.Address + (2 * Huge), source, Huge).Outcome);
        Assert.Equal(PlaceOutcome.AlreadyPresent, handler.Session.Placer.Place(block, 2 * Huge, source, Huge).Outcome);
        Destination.Pages.Free(source);
        Assert.True(handler.Session.Placer.PlaceZero(block, 0, 4 * Huge).IsReceived);
        Assert.Equal(HandlerEnd.NothingMissing, connection.Ended.WaitAsync(Deadline.Default).GetAwaiter().GetResult());
        owner.Complete();
        directory.Delete(recursive: true);
    });
}
