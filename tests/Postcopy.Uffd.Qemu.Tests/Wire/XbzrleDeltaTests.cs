namespace Postcopy.Uffd.Qemu.Tests.Wire;

public sealed class XbzrleDeltaTests
{
    private static byte[]? Apply(params byte[] delta)
    {
        byte[] page = [.. Enumerable.Range(0, 16).Select(i => (byte)i)];
        return XbzrleDelta.TryApply(delta, page) ? page : null;
    }

    [Fact]
    public void UnchangedAndNewRunsAlternate() =>
        Assert.Equal([0, 1, 0xaa, 0xbb, 4, 0xcc, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], Apply(2, 2, 0xaa, 0xbb, 1, 1, 0xcc));

    [Fact]
    public void FirstRunMayBeEmpty() => Assert.Equal(0xee, Apply(0, 1, 0xee)![0]);

    [Fact]
    public void DeltaMayEndAfterAnUnchangedRun() => Assert.Equal(0xee, Apply(0, 1, 0xee, 15)![0]);

    [Fact]
    public void TwoByteLengthsReachFarIntoAPage()
    {
        byte[] page = new byte[4096];
        Assert.True(XbzrleDelta.TryApply([0x80 | (3000 & 0x7f), 3000 >> 7, 1, 0x5a], page));
        Assert.Equal(0x5a, page[3000]);
    }

    [Theory]
    [InlineData(new byte[] { 17 })]
    [InlineData(new byte[] { 16, 1, 1 })]
    [InlineData(new byte[] { 1, 0 })]
    [InlineData(new byte[] { 1, 2, 1 })]
    [InlineData(new byte[] { 1, 1, 1, 0, 1, 1 })]
    [InlineData(new byte[] { 0x81 })]
    [InlineData(new byte[] { 0x81, 0x80, 0x01 })]
    [InlineData(new byte[] { 1, 0x90, 0x01, 1 })]
    public void MalformedDeltaIsRefused(byte[] delta) => Assert.Null(Apply(delta));
}
