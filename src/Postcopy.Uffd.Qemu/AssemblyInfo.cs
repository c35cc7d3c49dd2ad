using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Versioning;

[assembly: SupportedOSPlatform("linux")]
[assembly: DisableRuntimeMarshalling]
[assembly: DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
[assembly: InternalsVisibleTo("Postcopy.Uffd.Qemu.Tests")]
[assembly: InternalsVisibleTo("Postcopy.Uffd.Benchmarks")]
[assembly: InternalsVisibleTo("Postcopy.Breaking.Tests")]
