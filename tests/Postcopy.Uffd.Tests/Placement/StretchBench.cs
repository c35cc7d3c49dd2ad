using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>A block of whole, aligned stretches on a real userfaultfd, whose pages tell where they belong.</summary>
internal sealed class StretchBench : IDisposable
{
    internal const long Bytes = PostcopyPlacer.StretchBytes;
    private const int PerStretch = 512;

    private readonly nuint _page = NativeZeroMemory.Map(4096);
    private readonly byte[] _seen = new byte[4096];

    /// <summary>Some kernels answer a read of memory that was never written with memory of its own (seen under PVM, 6.18).</summary>
    internal static bool HasHugeZeroPage
    {
        get
        {
            nuint memory = HugeStaging.MapAligned(Bytes);
            bool given = Libc.madvise(memory, (nuint)Bytes, Libc.MADV_POPULATE_READ) == 0 && PageTables.IsHuge(memory, (nuint)Bytes) &&
                PageTables.CountFilled(memory, (nuint)Bytes) == 0;
            NativeZeroMemory.Unmap(memory, (nuint)Bytes);
            return given;
        }
    }

    internal StretchBench(int stretches, PlacerOptions? options = null, UffdFeatures features = UffdFeatures.None)
    {
        Requires.HugePageMoves();
        Arena = new UffdArena(RawMapping.AlignedAnonymous(stretches * PerStretch), features: features);
        Block = Registry.Add(new RamBlockSpec { Name = "ram", HostAddress = Arena.Memory.Address, UsedLength = stretches * Bytes });
        Block.Attach(Arena.Uffd, Arena.Registration);
        Placer = new PostcopyPlacer(options);
    }

    internal UffdArena Arena { get; }

    internal RamBlockRegistry Registry { get; } = new();

    internal RamBlock Block { get; }

    internal PostcopyPlacer Placer { get; }

    internal bool IsHuge(int stretch) => PageTables.IsHuge(Arena.Memory.Address + (nuint)(stretch * Bytes), (nuint)Bytes);

    internal bool IsPresent(int page) => PageTables.IsPresent(Arena.Page(page));

    internal nuint Source(int page, int count)
    {
        nuint source = Pages.Make(page, count * 4096L);
        for (int i = 0; i < count; i++)
        {
            Fill(source + (nuint)(i * 4096), page + i);
        }

        return source;
    }

    /// <summary>Pages in the order of a source, through a buffer that is used again for each batch.</summary>
    internal void Stream(StagingWindow window, int page, int count, Func<int, bool>? zero = null)
    {
        for (int i = page; i < page + count; i++)
        {
            if (zero is null || !zero(i))
            {
                Fill(_page, i);
                window.Add(Block, i * 4096L, _page);
            }
            else
            {
                window.Add(Block, i * 4096L, 0);
            }

            if (window.Count > 0)
            {
                Assert.True(window.FlushPages().IsReceived);
            }
        }
    }

    internal void AssertContent(int page, int end, Func<int, bool>? zero = null)
    {
        for (int i = page; i < end; i++)
        {
            AssertPage(i, zero is not null && zero(i) ? -1 : i);
        }
    }

    internal void AssertPage(int page, int seed)
    {
        Block.Read(page * 4096L, _seen);
        bool right = seed < 0 ? _seen.AsSpan().IndexOfAnyExcept((byte)0) < 0 : _seen.AsSpan().SequenceEqual(Pages.Expected(seed, 4096));
        Assert.True(right, $"Page {page} has not the content of {seed}.");
    }

    public void Dispose()
    {
        Arena.Dispose();
        Placer.Dispose();
        Registry.Dispose();
        NativeZeroMemory.Unmap(_page, 4096);
    }

    internal static unsafe void Fill(nuint address, int seed) =>
        // SAFETY: the caller's page of native memory.
        Pages.Expected(seed, 4096).CopyTo(new Span<byte>((void*)address, 4096));
}
