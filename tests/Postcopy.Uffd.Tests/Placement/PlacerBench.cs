using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>One attached RAM block on a real userfaultfd, with a placer and no fault thread: the test reads the messages.</summary>
internal sealed class PlacerBench : IDisposable
{
    internal PlacerBench(RawMapping memory, UffdModes modes = UffdModes.Missing, UffdFeatures features = UffdFeatures.None, TimeSpan? deadline = null)
    {
        Arena = new UffdArena(memory, modes, features);
        Block = Registry.Add(new RamBlockSpec
        {
            Name = "ram",
            HostAddress = memory.Address,
            UsedLength = (long)memory.Length,
            PageSize = new PageSize((long)memory.PageSize),
        });
        Block.Attach(Arena.Uffd, Arena.Registration);
        Placer = new PostcopyPlacer(new PlacerOptions { Deadline = deadline ?? TimeSpan.FromSeconds(10) });
    }

    internal UffdArena Arena { get; }

    internal RamBlockRegistry Registry { get; } = new();

    internal RamBlock Block { get; }

    internal PostcopyPlacer Placer { get; }

    internal long PageBytes => Block.PageSize.Bytes;

    /// <summary>Places pages whose content tells where they belong.</summary>
    internal PlaceResult Place(int page, int count = 1)
    {
        nuint source = Source(page, count);
        PlaceResult result = Placer.Place(Block, page * PageBytes, source, count * PageBytes);
        Pages.Free(source);
        return result;
    }

    internal nuint Source(int page, int count)
    {
        nuint source = Pages.Make(page, count * PageBytes);
        for (int i = 1; i < count; i++)
        {
            nuint one = Pages.Make(page + i, PageBytes);
            _ = Libc.memcpy(source + (nuint)(i * PageBytes), one, (nuint)PageBytes);
            Pages.Free(one);
        }

        return source;
    }

    internal void AssertContent(int page, int seed)
    {
        byte[] seen = new byte[PageBytes];
        Block.Read(page * PageBytes, seen);
        Assert.True(seen.AsSpan().SequenceEqual(Pages.Expected(seed, (int)PageBytes)), $"Page {page} has not the content of {seed}.");
    }

    internal void AssertZero(int page)
    {
        byte[] seen = new byte[PageBytes];
        Block.Read(page * PageBytes, seen);
        Assert.Equal(-1, seen.AsSpan().IndexOfAnyExcept((byte)0));
    }

    internal bool IsPresent(int page) => PageTables.IsPresent(Arena.Page(page));

    public void Dispose()
    {
        Arena.Dispose();
        Placer.Dispose();
        Registry.Dispose();
    }
}
