using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Benchmarks.Interop;

/// <summary>System calls that only the lab needs.</summary>
internal static unsafe partial class Libc
{
    // clock_getcpuclockid(3): the complement of the process's id, shifted, and the scheduler's own count.
    private const int CPUCLOCK_SCHED = 2;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int sched_setaffinity(int thread, nuint bytes, ulong* mask);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int sched_getaffinity(int thread, nuint bytes, ulong* mask);

    internal const int MADV_HUGEPAGE = 14;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int madvise(void* address, nuint length, int advice);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int clock_gettime(int clock, long* time);

    /// <summary>Processor time of a process with all its threads, also those that ended.</summary>
    internal static TimeSpan ProcessTime(int process)
    {
        long* time = stackalloc long[2];
        return clock_gettime((~process << 3) | CPUCLOCK_SCHED, time) == 0
            ? TimeSpan.FromSeconds(time[0]) + TimeSpan.FromMicroseconds(time[1] / 1000.0)
            : throw new LabException($"The processor time of process {process} cannot be read: {Marshal.GetLastPInvokeErrorMessage()}.");
    }
}
