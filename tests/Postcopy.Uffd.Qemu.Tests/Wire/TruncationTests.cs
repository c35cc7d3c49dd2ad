namespace Postcopy.Uffd.Qemu.Tests.Wire;

public sealed class TruncationTests
{
    [Fact]
    public void StreamCutAnywhereIsALostConnectionAndNothingElse()
    {
        byte[] bytes = GoldenStreamTests.SmallMigration();
        for (int length = 0; length < bytes.Length; length++)
        {
            using QemuStreamReader reader = Streams.Reader(bytes[..length]);
            MigrationConnectionException e = Assert.Throws<MigrationConnectionException>(() => reader.ReadAll());
            Assert.Equal(ConnectionLossReason.ClosedByPeer, e.Reason);
            Assert.Equal(length, e.StreamOffset);
        }
    }

    [Fact]
    public void LossTellsTheSectionItHappenedIn()
    {
        byte[] bytes = new WireBytes().Begin(("a", 0x1000, null)).Part().U64(WireBytes.Page).ToArray();
        using QemuStreamReader reader = Streams.Reader(bytes);
        MigrationConnectionException e = Assert.Throws<MigrationConnectionException>(() => reader.ReadAll());
        Assert.Equal("ram", e.Section);
    }

    [Fact]
    public void UrgentChannelThatEndsBetweenRecordsIsLostToo()
    {
        MigrationStreamState state = GoldenStreamTests.RunningState(("a", 0x2000, null));
        using QemuStreamReader reader = Streams.Reader(new WireBytes().NamedZero("a", 0).ToArray(), state, StreamKind.Urgent);
        Assert.Equal(StreamRecordKind.ZeroPage, reader.ReadNext());
        Assert.Throws<MigrationConnectionException>(() => reader.ReadNext());
    }

    [Fact]
    public void SilentPeerIsToldApartAfterTheStallTimeout()
    {
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        using (far)
        {
            near.StallTimeout = TimeSpan.FromMilliseconds(30);
            using QemuStreamReader reader = new(near, new MigrationStreamState(), Streams.Options);
            MigrationConnectionException e = Assert.Throws<MigrationConnectionException>(() => reader.ReadNext());
            Assert.Equal(ConnectionLossReason.TimedOut, e.Reason);
            Assert.Equal("header", e.Section);
        }
    }

    [Fact]
    public async Task AbortEndsAWaitingReader()
    {
        (MigrationChannel near, MigrationChannel far) = Streams.ChannelPair();
        using (near)
        using (far)
        {
            using QemuStreamReader reader = new(near, new MigrationStreamState(), Streams.Options);
            using ManualResetEventSlim reading = new();
            Task<MigrationConnectionException> waiting = Task.Factory.StartNew(
                () =>
                {
                    reading.Set();
                    return Assert.Throws<MigrationConnectionException>(() => reader.ReadNext());
                },
                TaskCreationOptions.LongRunning);
            reading.Wait(TestContext.Current.CancellationToken);
            near.Abort();
            MigrationConnectionException e = await waiting.WaitAsync(TimeSpan.FromSeconds(10), TestContext.Current.CancellationToken);
            Assert.Equal(ConnectionLossReason.Aborted, e.Reason);
        }
    }
}
