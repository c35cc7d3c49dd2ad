using System.Runtime.CompilerServices;
using System.Runtime.Versioning;

[assembly: SupportedOSPlatform("linux")]
[assembly: DisableRuntimeMarshalling]
[assembly: InternalsVisibleTo("Postcopy.Uffd.Qemu.Tests")]
[assembly: InternalsVisibleTo("Postcopy.Uffd.Benchmarks")]
