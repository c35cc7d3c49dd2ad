namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>The boot sector that counter-guest.S beside this file was assembled to.</summary>
internal static class CounterGuest
{
    private const string Code =
        "fa31c08ed80f0116587ce4920c02e6920f20c00c010f22c0ea1d7c080066b810008ed8bb00001000ff0381c30010000081fb0000100272f0ebe9" +
        "8db6000000000000000000000000ffff0000009acf00ffff00000092cf001700407c";

    /// <summary>A disk that begins with it.</summary>
    internal static byte[] Image()
    {
        byte[] image = new byte[1 << 20];
        Convert.FromHexString(Code).CopyTo(image, 0);
        (image[510], image[511]) = (0x55, 0xaa);
        return image;
    }
}
