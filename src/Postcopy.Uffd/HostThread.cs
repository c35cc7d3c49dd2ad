using Postcopy.Uffd.Interop;

namespace Postcopy.Uffd;

/// <summary>The calling thread as the kernel knows it.</summary>
public static class HostThread
{
    /// <summary>
    /// The thread id that fault messages carry (gettid(2)): a vCPU thread registers itself with it at a
    /// <see cref="BlocktimeTracker"/>. It is numbered in the thread's own pid namespace (hazard H25).
    /// </summary>
    public static uint CurrentId => (uint)Libc.gettid();
}
