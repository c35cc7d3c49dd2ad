using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Interop;

/// <summary>The system calls of <see cref="Numaif"/>.</summary>
internal static partial class Libc
{
    // syscall(2) is variadic in C; on Linux x64 and arm64 integer arguments of variadic calls go in the same registers.
    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static unsafe partial nint syscall_get_mempolicy(nint number, int* mode, ulong* nodes, nuint maxNode, nuint address, nuint flags);

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static unsafe partial nint syscall_mbind(nint number, nuint address, nuint length, nint mode, ulong* nodes, nuint maxNode, nuint flags);
}
