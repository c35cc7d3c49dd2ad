using Postcopy.Vmm.Guest;

namespace Postcopy.Vmm.Tests;

public sealed class GuestImageTests
{
    [Fact]
    public void TheShippedBytesAreTheAssembledSource()
    {
        string source = Path.Combine(Repository.Root, "samples/Postcopy.Vmm/Guest/guest.S");

        Assert.Equal(File.ReadAllBytes(Path.ChangeExtension(source, ".bin")), GuestAssembler.Assemble(source));
    }

    [Fact]
    public void TheFirstSectorIsABootSector()
    {
        byte[] image = new GuestSettings().Image();

        Assert.Equal([0x55, 0xaa], image[510..512]);
        Assert.Equal(2048, image.Length);
    }
}
