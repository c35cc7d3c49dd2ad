namespace Postcopy.Uffd.Qemu.Tests.Wire;

/// <summary>The order of huge pages on a resumed connection, as QEMU 7.2 was seen to send them, and what is still refused.</summary>
public sealed class ResumedSequenceTests
{
    private const ulong Huge = 0x200000;

    [Fact]
    public void TheFirstHostPageMayStartInsideAndItsBeginningComeLater()
    {
        byte[] bytes = Run(Run(Run(Resume(), 3, 512), 512, 1024), 0, 3).Finish().End().Finish().U8(0).ToArray();
        List<string> records = Read(bytes);
        Assert.Equal("EndOfStream", records[^1]);
        Assert.Equal(1024, records.Count(r => r.StartsWith("ZeroPage", StringComparison.Ordinal)));
    }

    [Fact]
    public void TheBeginningMayComeBeforeOtherPages()
    {
        byte[] bytes = Run(Run(Run(Resume(), 3, 512), 0, 3), 512, 1024).Finish().End().Finish().U8(0).ToArray();
        Assert.Equal("EndOfStream", Read(bytes)[^1]);
    }

    [Fact]
    public void TheUrgentChannelOfAResumedMigrationMayStartInsideToo()
    {
        MigrationStreamState state = State();
        _ = Read(Resume().ToArray(), state);
        byte[] bytes = Run(Run(new WireBytes(), 3, 512), 0, 3).U64(WireBytes.Eos).ToArray();
        Assert.Equal("EndOfStream", Read(bytes, state)[^1]);
    }

    [Fact]
    public void TheUrgentChannelOfTheFirstConnectionMayNot() =>
        Refused(State(), Run(new WireBytes(), 3, 512), "the first page of a host page of 2097152 bytes", "offset 0x3000");

    [Fact]
    public void OnlyTheFirstMay() =>
        Refused(State(), Run(Run(Resume(), 0, 512), 515, 1024), "the first page of a host page", "offset 0x203000");

    [Fact]
    public void ItsEndMustComeInOneRun() =>
        Refused(State(), Run(Run(Resume(), 3, 100), 512, 1024), "the rest of the host page, block 'h' offset 0x64000", "offset 0x200000");

    [Fact]
    public void NoMoreThanTwoMayEndEarly() =>
        Refused(State(), Run(Run(Run(Run(Resume(), 0, 3), 512, 515), 0, 3), 512, 515), "the rest of the host page, block 'h' offset 0x3000", "offset 0x200000");

    [Fact]
    public void AGapIsAnEarlyEndThatDoesNotStartAHostPage() =>
        Refused(State(), Run(Run(Resume(), 0, 3), 5, 512), "the first page of a host page", "offset 0x5000");

    private static void Refused(MigrationStreamState state, WireBytes bytes, string expected, string actual)
    {
        MigrationStreamException e = Assert.Throws<MigrationStreamException>(() => Read(bytes.ToArray(), state));
        Assert.Contains(expected, e.Expected, StringComparison.Ordinal);
        Assert.Contains(actual, e.Actual, StringComparison.Ordinal);
    }

    private static List<string> Read(byte[] bytes, MigrationStreamState? state = null)
    {
        List<string> records = [];
        using QemuStreamReader reader = Streams.Reader(bytes, state ?? State());
        try
        {
            for (StreamRecordKind kind = reader.ReadNext(); ; kind = reader.ReadNext())
            {
                records.Add($"{kind} {reader.PageOffset:x}");
                if (kind == StreamRecordKind.EndOfStream)
                {
                    records[^1] = "EndOfStream";
                    return records;
                }
            }
        }
        catch (MigrationConnectionException)
        {
            return records;
        }
    }

    private static MigrationStreamState State() => GoldenStreamTests.RunningState(("h", 2 * Huge, Huge));

    private static WireBytes Resume() => new WireBytes().Command(10, [1, (byte)'h']).Command(9).Part();

    private static WireBytes Run(WireBytes wire, int first, int end)
    {
        wire.NamedZero("h", (ulong)first << 12);
        for (int page = first + 1; page < end; page++)
        {
            wire.NextZero((ulong)page << 12);
        }

        return wire;
    }
}
