using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Interop;

/// <summary>
/// memcpy(3), memcmp(3), memset(3): <c>string.h</c>. These ordinary P/Invokes run in preemptive mode, so a thread that blocks in
/// one of them on a missing page does not hold up the garbage collector (hazard H1). This is the only way in which
/// this library reads or writes guest memory that may be missing.
/// </summary>
internal static partial class Libc
{
    [LibraryImport("libc")]
    internal static partial nuint memcpy(nuint destination, nuint source, nuint length);

    [LibraryImport("libc")]
    internal static partial int memcmp(nuint a, nuint b, nuint length);

    [LibraryImport("libc")]
    internal static partial nuint memset(nuint destination, int value, nuint length);
}
