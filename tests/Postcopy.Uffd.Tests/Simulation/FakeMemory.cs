namespace Postcopy.Uffd.Tests.Simulation;

/// <summary>
/// What lies behind one or more simulated address spaces: a frame per page, whose content is one word, and a pool
/// that huge pages come from.
/// </summary>
internal sealed class FakeMemory(int pages, PageSize pageSize, bool shared)
{
    private readonly List<FakeKernel> _views = [];

    internal PageSize PageSize { get; } = pageSize;

    internal bool IsShared { get; } = shared;

    /// <summary>The content of each page; null while it has no frame.</summary>
    internal long?[] Frames { get; } = new long?[pages];

    /// <summary>Huge pages left. At 0 COPY says "already present" for a page that is absent (hazard H7).</summary>
    internal int Pool { get; set; } = int.MaxValue / 2;

    internal bool IsHuge => PageSize != PageSize.Host;

    internal void Add(FakeKernel view) => _views.Add(view);

    /// <summary>The frame goes, from every address space.</summary>
    internal void Zap(int page)
    {
        if (Frames[page] is not null)
        {
            Frames[page] = null;
            Pool++;
        }

        foreach (FakeKernel view in _views)
        {
            view.Unmap(page);
        }
    }
}
