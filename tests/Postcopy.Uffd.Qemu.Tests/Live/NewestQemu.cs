namespace Postcopy.Uffd.Qemu.Tests.Live;

/// <summary>The newest QEMU, unpacked by eng/get-qemu and run by chroot.</summary>
internal static class NewestQemu
{
    internal static string Root { get; } =
        Path.Combine(Environment.GetEnvironmentVariable("XDG_CACHE_HOME") ?? $"{Environment.GetEnvironmentVariable("HOME")}/.cache", "postcopy-uffd/qemu-sid");

    internal static bool IsThere { get; } = File.Exists($"{Root}/usr/bin/qemu-system-x86_64");
}
