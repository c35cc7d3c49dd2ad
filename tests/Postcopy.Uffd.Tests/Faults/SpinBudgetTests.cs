using Postcopy.Uffd.Tests.Simulation;

namespace Postcopy.Uffd.Tests.Faults;

public sealed class SpinBudgetTests
{
    private const long Limit = 100_000;
    private readonly SimulatedClock _clock = new();

    [Fact]
    public void NothingIsSpentBeforeMessagesComeCloseTogether()
    {
        SpinBudget budget = New();
        Assert.Equal(0, Spent(budget, gap: 10_000_000));
        Assert.Equal(0, Spent(budget, gap: 10_000_000));
    }

    [Fact]
    public void AfterAShortGapItLooksUntilTheNextMessageOrTheLimit()
    {
        SpinBudget budget = New();
        Assert.Equal(0, Spent(budget, gap: 20_000));
        Assert.InRange(Spent(budget, gap: 20_000), 20_000, 25_000);
        Assert.InRange(Spent(budget, gap: 20_000), 20_000, 25_000);
        Assert.InRange(Spent(budget, gap: 10_000_000), Limit, Limit + 5_000);
        Assert.Equal(0, Spent(budget, gap: 10_000_000));
    }

    [Fact]
    public void LooksInVainTakeATenthOfTheTimeAtMost()
    {
        // Pairs: a short gap that makes it hope, then a long one.
        SpinBudget budget = New();
        long start = _clock.GetTimestamp(), spent = 0;
        for (int i = 0; i < 10_000; i++)
        {
            spent += Spent(budget, gap: 300_000);
            _ = Spent(budget, gap: 1_000);
        }

        Assert.InRange((double)spent / (_clock.GetTimestamp() - start), 0.05, 0.11);
    }

    [Theory]
    [InlineData(80_000, 1_600_000)]
    [InlineData(3_000_000, 60_000_000)]
    [InlineData(9_000_000, 100_000_000)]
    public void WhoLosesTheProcessorBetweenTwoLooksSleepsForTwentyTimesAsLong(long lost, long sleep)
    {
        SpinBudget budget = New();
        _ = Spent(budget, gap: 20_000);
        budget.Begin(-1);
        Assert.True(budget.MayLook());
        _clock.Advance(lost);
        _ = budget.MayLook();
        budget.End();
        long from = _clock.GetTimestamp();

        // One wait after another, so that the last one is always short.
        while (Spent(budget, gap: 20_000) == 0 && _clock.GetTimestamp() - from < 1_000_000_000)
        {
        }

        Assert.InRange(_clock.GetTimestamp() - from, sleep, sleep + 200_000);
    }

    [Theory]
    [InlineData(Limit + 30_000, false)]
    [InlineData(Limit + 80_000, true)]
    public void AMessageAtOnceAfterALookInVainMeansThatOthersWantTheProcessor(long gap, bool looksAgain)
    {
        SpinBudget budget = New();
        _ = Spent(budget, gap: 20_000);
        Assert.InRange(Spent(budget, gap), Limit, Limit + 5_000);
        _ = Spent(budget, gap: 20_000);
        Assert.Equal(looksAgain, Spent(budget, gap: 20_000) > 0);
        _clock.Advance(11_000_000);
        _ = Spent(budget, gap: 20_000);
        Assert.InRange(Spent(budget, gap: 20_000), 20_000, 25_000);
    }

    [Fact]
    public void ALookInTheWayDoesNotShortenTheSleepOfOneWhoLostTheProcessor()
    {
        SpinBudget budget = New();
        _ = Spent(budget, gap: 20_000);
        budget.Begin(-1);
        Assert.True(budget.MayLook());
        _clock.Advance(3_000_000);
        Assert.False(budget.MayLook());
        _clock.Advance(20_000);
        budget.End();
        _clock.Advance(11_000_000);
        _ = Spent(budget, gap: 20_000);
        Assert.Equal(0, Spent(budget, gap: 20_000));
    }

    [Fact]
    public void ARetryThatIsNearIsNotSpunAway()
    {
        SpinBudget budget = New();
        _ = Spent(budget, gap: 20_000);
        budget.Begin(pause: Limit / 2);
        Assert.False(budget.MayLook());
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void OneProcessorAlwaysSleepsAndForEverNeverDoesElse(int processors)
    {
        SpinBudget budget = new(Timeout.InfiniteTimeSpan, processors, _clock);
        budget.Begin(-1);
        _clock.Advance(1_000_000_000);
        Assert.Equal(processors > 1, budget.MayLook());
        budget.Begin(pause: 50_000);
        Assert.Equal(processors > 1, budget.MayLook());
        _clock.Advance(60_000);
        Assert.False(budget.MayLook());

        budget = new(TimeSpan.FromMicroseconds(100), 1, _clock);
        Assert.Equal(0, Spent(budget, gap: 10_000));
        Assert.Equal(0, Spent(budget, gap: 10_000));
    }

    [Fact]
    public void ALimitOutOfRangeIsRefused() =>
        Assert.Contains("0 to 1 ms", Assert.Throws<ArgumentOutOfRangeException>(() => new FaultReaderOptions { SpinLimit = TimeSpan.FromMilliseconds(2) }.Validate()).Message, StringComparison.Ordinal);

    private SpinBudget New()
    {
        SpinBudget budget = new(TimeSpan.FromMicroseconds(100), 2, _clock);
        _clock.Advance(1_000_000_000);
        return budget;
    }

    /// <summary>One wait: the message comes after the gap; how much of it was spent looking.</summary>
    private long Spent(SpinBudget budget, long gap)
    {
        const long Look = 1000;
        long start = _clock.GetTimestamp();
        budget.Begin(-1);
        while (budget.MayLook())
        {
            _clock.Advance(Look);
            if (_clock.GetTimestamp() - start >= gap)
            {
                break;
            }
        }

        long spent = _clock.GetTimestamp() - start;
        _clock.Advance(Math.Max(0, gap - spent));
        budget.End();
        return spent;
    }
}
