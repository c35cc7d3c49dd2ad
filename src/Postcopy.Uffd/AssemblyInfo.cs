using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Versioning;

[assembly: SupportedOSPlatform("linux")]
[assembly: DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
[assembly: InternalsVisibleTo("Postcopy.Uffd.Tests")]
[assembly: InternalsVisibleTo("Postcopy.Uffd.Tests.NetStandard")]
[assembly: InternalsVisibleTo("Postcopy.Uffd.Benchmarks")]
[assembly: InternalsVisibleTo("Postcopy.Handler.Tests")]
[assembly: InternalsVisibleTo("Postcopy.Breaking.Tests")]
