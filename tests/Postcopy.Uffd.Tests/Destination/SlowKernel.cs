using System.Diagnostics;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>The real kernel behind the placer's seam, with time spent before it copies or wakes.</summary>
internal sealed class SlowKernel(IUffdKernel real) : IUffdKernel
{
    internal TimeSpan BeforeCopy { get; init; }

    internal TimeSpan BeforeWake { get; init; }

    /// <summary>Called before each COPY and ZEROPAGE.</summary>
    internal Action? Placing { get; init; }

    /// <summary>Called before each WAKE.</summary>
    internal Action? Waking { get; init; }

    /// <summary>Called by the reader after each read, with how many messages there were.</summary>
    internal Action<int>? AfterRead { get; init; }

    /// <summary>Lets time pass without giving the processor away: sleeping is late by as much as the machine is busy.</summary>
    internal static void Spend(TimeSpan time)
    {
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < time)
        {
            Thread.SpinWait(20);
        }
    }

    public int Read(Span<UffdMessage> into, out UffdOutcome outcome)
    {
        int count = real.Read(into, out outcome);
        AfterRead?.Invoke(count);
        return count;
    }

    public UffdResult Copy(nuint destination, nuint source, nuint length, UffdPlaceFlags flags)
    {
        Spend(BeforeCopy);
        Placing?.Invoke();
        return real.Copy(destination, source, length, flags);
    }

    public UffdResult Wake(nuint start, nuint length)
    {
        Spend(BeforeWake);
        Waking?.Invoke();
        return real.Wake(start, length);
    }

    public UffdResult Zeropage(nuint start, nuint length, UffdPlaceFlags flags)
    {
        Placing?.Invoke();
        return real.Zeropage(start, length, flags);
    }

    public UffdResult Move(nuint destination, nuint source, nuint length, UffdMoveFlags flags) => real.Move(destination, source, length, flags);

    public UffdResult Continue(nuint start, nuint length, UffdPlaceFlags flags) => real.Continue(start, length, flags);

    public UffdResult Poison(nuint start, nuint length, UffdPlaceFlags flags) => real.Poison(start, length, flags);

    public bool IsPresent(nuint address) => real.IsPresent(address);
}

/// <summary>A requester that takes its time on the fault thread.</summary>
internal sealed class SlowRequester : IPageRequester
{
    private readonly QueueRequester _queue = new();

    internal TimeSpan Delay { get; init; }

    public RequestOutcome TryRequest(in PageRequest request)
    {
        SlowKernel.Spend(Delay);
        return _queue.TryRequest(request);
    }

    internal PageRequest Take() => _queue.Take();
}
