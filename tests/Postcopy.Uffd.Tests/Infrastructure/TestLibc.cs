using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>System calls that only tests need.</summary>
internal static unsafe partial class TestLibc
{
    internal const int SIGCHLD = 17;
    internal const int SIGKILL = 9;
    internal const int SIGBUS = 7;
    internal const int SIGWINCH = 28;
    internal const int MREMAP_MAYMOVE = 1;
    internal const int MREMAP_FIXED = 2;
    internal const int MADV_FREE = 8;
    internal const int RLIMIT_CORE = 4;
    internal const int RLIMIT_NOFILE = 7;
    private const int SYS_pidfd_open = 434;
    private const int SYS_pidfd_getfd = 438;

    [StructLayout(LayoutKind.Sequential)]
    private struct RLimit
    {
        internal ulong Current;
        internal ulong Maximum;
    }

    [LibraryImport("libc")]
    internal static partial uint alarm(uint seconds);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint pread(SafeHandle file, void* into, nuint bytes, nint offset);

    [LibraryImport("libc", EntryPoint = "_exit")]
    internal static partial void exit_now(int status);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nuint mremap(nuint address, nuint oldLength, nuint newLength, int flags, nuint newAddress);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int mlockall(int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int kill(int pid, int signal);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int tgkill(int process, int thread, int signal);

    /// <summary>Sends a signal to one thread of this process.</summary>
    internal static int SignalThread(int thread, int signal) => tgkill(Environment.ProcessId, thread, signal);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int waitpid(int pid, int* status, int options);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setrlimit(int resource, RLimit* limit);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int getrlimit(int resource, RLimit* limit);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setresgid(uint r, uint e, uint s);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setresuid(uint r, uint e, uint s);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setgroups(nuint count, uint* groups);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int clone(nint function, nuint stackTop, int flags, nuint argument);

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint syscall3(nint number, nint a, nint b, nint c);

    internal static void ForbidCoreDumps() => Limit(RLIMIT_CORE, 0);

    /// <summary>Sets the soft limit.</summary>
    internal static void Limit(int resource, ulong value)
    {
        RLimit limit;
        _ = getrlimit(resource, &limit);
        limit.Current = value;
        _ = setrlimit(resource, &limit);
    }

    /// <summary>Makes this process user and group nobody, for good. Only in a child.</summary>
    internal static void BecomeNobody()
    {
        const uint nobody = 65534;
        if (setgroups(0, null) != 0 || setresgid(nobody, nobody, nobody) != 0 || setresuid(nobody, nobody, nobody) != 0)
        {
            throw new InvalidOperationException($"Could not become nobody: errno {Marshal.GetLastPInvokeError()}.");
        }
    }

    /// <summary>
    /// Forks a copy of this process that runs one libc function and no managed code: <c>pause</c> to stay,
    /// <c>_exit</c> to leave at once. Only in a child process: it shares every private page for as long as it lives.
    /// </summary>
    internal static int ForkInto(string libcFunction)
    {
        nint function = NativeLibrary.GetExport(NativeLibrary.Load("libc.so.6"), libcFunction);
        byte* stack = (byte*)NativeMemory.AlignedAlloc(64 << 10, 4096);
        int pid = clone(function, (nuint)stack + (64 << 10), SIGCHLD, 0);
        return pid > 0 ? pid : throw new InvalidOperationException($"clone failed: errno {Marshal.GetLastPInvokeError()}.");
    }

    internal static void KillAndReap(int pid)
    {
        _ = kill(pid, SIGKILL);
        int status;
        _ = waitpid(pid, &status, 0);
    }

    /// <summary>A duplicate of another process's descriptor (Linux 5.6; the right to trace it is needed).</summary>
    internal static int TakeDescriptor(int pid, int descriptor)
    {
        nint pidfd = syscall3(SYS_pidfd_open, pid, 0, 0);
        if (pidfd < 0)
        {
            throw new InvalidOperationException($"pidfd_open failed: errno {Marshal.GetLastPInvokeError()}.");
        }

        nint taken = syscall3(SYS_pidfd_getfd, pidfd, descriptor, 0);
        int errno = Marshal.GetLastPInvokeError();
        _ = Postcopy.Uffd.Interop.Libc.close(pidfd);
        return taken >= 0 ? (int)taken : throw new InvalidOperationException($"pidfd_getfd failed: errno {errno}.");
    }
}
