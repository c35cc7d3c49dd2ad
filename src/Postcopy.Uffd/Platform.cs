using System.Runtime.InteropServices;

namespace Postcopy.Uffd;

/// <summary>Where this library can work: 64-bit little-endian Linux.</summary>
internal static class Platform
{
    internal static void Require()
    {
        if (!OperatingSystem.IsLinux() || RuntimeInformation.ProcessArchitecture is not (Architecture.X64 or Architecture.Arm64))
        {
            throw new PlatformNotSupportedException(
                $"userfaultfd exists on Linux, and this library supports x64 and arm64; this is {RuntimeInformation.OSDescription} on {RuntimeInformation.ProcessArchitecture}.");
        }
    }
}
