using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Benchmarks.Interop;

/// <summary>System calls that only the lab needs.</summary>
internal static unsafe partial class Libc
{
    [LibraryImport("libc", SetLastError = true)]
    internal static partial int sched_setaffinity(int thread, nuint bytes, ulong* mask);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int sched_getaffinity(int thread, nuint bytes, ulong* mask);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint preadv(SafeHandle file, void* vectors, int count, long offset);
}
