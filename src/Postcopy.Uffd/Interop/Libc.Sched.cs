using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Interop;

/// <summary>Thread priority and processor count: <c>sys/resource.h</c>, <c>sched.h</c>.</summary>
internal static partial class Libc
{
    internal const int PRIO_PROCESS = 0;
    internal const int SCHED_FIFO = 1;
    internal const int RLIMIT_MEMLOCK = 8;

    [StructLayout(LayoutKind.Sequential)]
    internal struct SchedParam
    {
        internal int sched_priority;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct RLimit
    {
        internal ulong rlim_cur;
        internal ulong rlim_max;
    }

    // On Linux a "process" of priority 0 (the caller) is the calling thread: setpriority(2), "C library/kernel differences".
    [LibraryImport("libc", SetLastError = true)]
    internal static partial int setpriority(int which, uint who, int priority);

    [LibraryImport("libc", SetLastError = true)]
    internal static unsafe partial int sched_setscheduler(int pid, int policy, SchedParam* parameters);

    [LibraryImport("libc", SetLastError = true)]
    internal static unsafe partial int getrlimit(int resource, RLimit* limit);
}
