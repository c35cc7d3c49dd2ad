using System.Text;

namespace Postcopy.Uffd.Qemu.Tests.Package;

public sealed class DevicePackageTests
{
    private const string Description = """
        {"configuration": {"vmsd_name": "configuration"}, "page_size": 4096, "devices": [
          {"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2, "fields": [
             {"name": "a", "type": "int64", "size": 2}, {"name": "b", "array_len": 3, "type": "uint8", "size": 1}]},
          {"name": "cpu", "instance_id": 1, "vmsd_name": "cpu", "version": 12, "fields": [
             {"name": "regs", "type": "struct", "struct": {"vmsd_name": "r", "version": 1, "fields": [{"name":"x","type":"uint8","size":4}]}, "size": 4}],
             "subsections": [{"vmsd_name": "cpu/s", "version": 1, "fields": [{"name": "y", "type": "uint8", "size": 1}]}]}
        ]}
        """;

    private static readonly byte[] s_timer = [1, 2, 3, 4, 5];

    // A body that holds what looks like the section's own footer before a 04: only the description can tell.
    private static readonly byte[] s_cpu = [0x7e, 0, 0, 0, .. new WireBytes().U8(5).Name("cpu/s").U32(1).U8(9).ToArray()];

    private static byte[] Sections() => new WireBytes()
        .U8(4).U32(3).Name("timer").U32(0).U32(2).Raw(s_timer).Footer(3)
        .U8(4).U32(4).Name("cpu").U32(1).U32(12).Raw(s_cpu).Footer(4)
        .ToArray();

    private static DevicePackage Package(byte[] sections, params uint[] pings)
    {
        WireBytes wire = new WireBytes().Command(4).Raw(sections);
        foreach (uint ping in pings)
        {
            wire.Ping(ping);
        }

        return DevicePackage.Parse(wire.Command(5).ToArray());
    }

    [Fact]
    public void DescriptionSplitsThePackage()
    {
        VmDescription description = VmDescription.Parse(Encoding.UTF8.GetBytes(Description));
        Assert.Equal([5L, 4 + 1 + 1 + 5 + 4 + 1], description.Devices.Select(d => d.Length));
        IReadOnlyList<DeviceSection> sections = Package(Sections(), 3).Split(description);
        Assert.Equal(["timer/0 v2 #3", "cpu/1 v12 #4"], sections.Select(s => $"{s.Name}/{s.Instance} v{s.Version} #{s.SectionId}"));
        Assert.Equal(s_timer, sections[0].Body.ToArray());
        Assert.Equal(s_cpu, sections[1].Body.ToArray());
    }

    [Fact]
    public void WithoutDescriptionFootersSplitThePackage()
    {
        IReadOnlyList<DeviceSection> sections = Package(Sections(), 3, 0x42).Split();
        Assert.Equal([s_timer, s_cpu], sections.Select(s => s.Body.ToArray()));
    }

    [Fact]
    public void PingsAndDeviceStateAreToldApart()
    {
        DevicePackage package = Package(Sections(), 3, 0x42);
        Assert.Equal([3u, 0x42u], package.Pings);
        Assert.True(package.HasPointOfNoReturn);
        Assert.Equal(Sections(), package.DeviceState.ToArray());
        Assert.Empty(Package([]).Split());
        Assert.False(Package(Sections(), 3).HasPointOfNoReturn);
    }

    [Theory]
    [InlineData("\"instance_id\": 1", "\"instance_id\": 2", "device of the VM description", "'cpu' instance 1")]
    [InlineData("\"version\": 12", "\"version\": 11", "version 11 of 'cpu'", "12")]
    [InlineData("\"size\": 2", "\"size\": 3", "footer of 'timer' 0x7e", "0x00")]
    [InlineData("\"size\": 2", "\"size\": 999", "1002 bytes for the state of 'timer'", "only")]
    public void PackageUnlikeTheDescriptionIsRefused(string from, string to, string expected, string actual)
    {
        VmDescription description = VmDescription.Parse(Encoding.UTF8.GetBytes(Description.Replace(from, to, StringComparison.Ordinal)));
        MigrationStreamException e = Assert.Throws<MigrationStreamException>(() => Package(Sections(), 3).Split(description));
        Assert.Contains(expected, e.Expected, StringComparison.Ordinal);
        Assert.Contains(actual, e.Actual, StringComparison.Ordinal);
    }

    [Fact]
    public void SectionWithoutFooterIsRefused()
    {
        MigrationStreamException e = Assert.Throws<MigrationStreamException>(
            () => Package(new WireBytes().U8(4).U32(3).Name("x").U32(0).U32(1).Raw(1, 2, 3).ToArray()).Split());
        Assert.Contains("footer of 'x' (7e00000003)", e.Expected, StringComparison.Ordinal);
        Assert.Equal(10, e.StreamOffset);
    }

    [Fact]
    public void DescriptionIsFoundAtTheEndOfASavedStream()
    {
        byte[] json = Encoding.UTF8.GetBytes(Description);
        byte[] stream = new WireBytes().Header().Raw(0, 6, 0, 0, 0, 1).U8(0).U8(6).U32((uint)json.Length).Raw(json).ToArray();
        Assert.Equal(2, VmDescription.ParseTrailing(stream).Devices.Count);
        Assert.Throws<MigrationStreamException>(() => VmDescription.ParseTrailing(stream.AsSpan(0, stream.Length - 1)));
    }

    [Theory]
    [InlineData("")]
    [InlineData("{")]
    [InlineData("[]")]
    [InlineData("{\"devices\": [{\"name\": \"x\"}]}")]
    [InlineData("{\"devices\": [{\"name\": \"x\", \"instance_id\": -1}]}")]
    [InlineData("{\"devices\": [{\"name\": \"x\", \"instance_id\": 0, \"fields\": [{\"size\": -1}]}]}")]
    [InlineData("{\"devices\": [{\"name\": \"x\", \"instance_id\": 0, \"fields\": [{\"size\": 9223372036854775807, \"array_len\": 2}]}]}")]
    public void OtherTextIsRefused(string text) =>
        Assert.Equal("VM description", Assert.Throws<MigrationStreamException>(() => VmDescription.Parse(Encoding.UTF8.GetBytes(text))).Section);
}
