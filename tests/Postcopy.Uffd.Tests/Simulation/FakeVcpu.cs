namespace Postcopy.Uffd.Tests.Simulation;

/// <summary>A simulated thread that touches one page after the other.</summary>
internal sealed class FakeVcpu(FakeKernel kernel, uint threadId)
{
    internal FakeKernel Kernel { get; } = kernel;

    internal uint ThreadId { get; } = threadId;

    /// <summary>The page it touches; -1 when it is idle.</summary>
    internal int Page { get; private set; } = -1;

    /// <summary>In the kernel, asleep on the page.</summary>
    internal bool Waits { get; set; }

    /// <summary>Its message is queued and not read.</summary>
    internal bool Queued { get; set; }

    internal bool Minor { get; set; }

    internal bool IsIdle => Page < 0;

    /// <summary>Woken, and about to touch the page again.</summary>
    internal bool IsRunnable => Page >= 0 && !Waits;

    internal void Touch(int page) => Page = page;

    /// <summary>Runs on: its content when the page is there, else it waits.</summary>
    internal long? Run()
    {
        long? seen = Kernel.Access(this);
        if (seen is not null)
        {
            Page = -1;
        }

        return seen;
    }
}
