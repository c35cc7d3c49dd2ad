using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd.Interop;

/// <summary>
/// The imports of the <c>netstandard2.0</c> asset. Its compiler has no generator for <c>LibraryImport</c>, so each partial
/// method declared beside this folder gets its body here: the same native call through the runtime's own marshalling,
/// which adds and releases the SafeHandle's reference and keeps errno as the generated code does. Ansi is UTF-8 on Linux.
/// </summary>
internal static partial class Libc
{
    [DllImport("libc", SetLastError = true, CharSet = CharSet.Ansi)]
    internal static extern partial SafeFileHandle open(string path, int flags);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int fcntl(SafeHandle fd, int cmd, int arg);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial int ioctl(SafeHandle fd, nuint request, void* argument);

    [DllImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    internal static unsafe extern partial int ioctl_descriptor(int fd, nuint request, void* argument);

    [DllImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    internal static extern partial int ioctl_int(SafeHandle fd, nuint request, nint argument);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial nuint mmap(nuint address, nuint length, int prot, int flags, SafeHandle fd, long offset);

    [DllImport("libc", EntryPoint = "mmap", SetLastError = true)]
    internal static extern partial nuint mmap_anonymous(nuint address, nuint length, int prot, int flags, int fd, long offset);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int munmap(nuint address, nuint length);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int mprotect(nuint address, nuint length, int prot);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int madvise(nuint address, nuint length, int advice);

    [DllImport("libc", SetLastError = true, CharSet = CharSet.Ansi)]
    internal static extern partial SafeFileHandle memfd_create(string name, uint flags);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int fallocate(SafeHandle fd, int mode, long offset, long length);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int mlock(nuint address, nuint length);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int munlock(nuint address, nuint length);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial int mincore(nuint address, nuint length, byte* vector);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial int ppoll(PollFd* fds, nuint count, Timespec* timeout, void* sigmask);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial SafeFileHandle eventfd(uint initial, int flags);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int setpriority(int which, uint who, int priority);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial int sched_setscheduler(int pid, int policy, SchedParam* parameters);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial int getrlimit(int resource, RLimit* limit);

    [DllImport("libc")]
    internal static extern partial nuint memcpy(nuint destination, nuint source, nuint length);

    [DllImport("libc")]
    internal static extern partial int memcmp(nuint a, nuint b, nuint length);

    [DllImport("libc")]
    internal static extern partial nuint memset(nuint destination, int value, nuint length);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial nint read(SafeHandle fd, void* buffer, nuint count);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial nint write(SafeHandle fd, void* buffer, nuint count);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial nint pread(SafeHandle fd, void* buffer, nuint count, long offset);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial long lseek(SafeHandle fd, long offset, int whence);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int close(nint fd);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int ftruncate(SafeHandle fd, long length);

    [DllImport("libc")]
    internal static extern partial uint geteuid();

    [DllImport("libc")]
    internal static extern partial int gettid();

    [DllImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static extern partial nint syscall_int(nint number, nint argument);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial SafeFileHandle socket(int domain, int type, int protocol);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial int bind(SafeHandle fd, SockAddr_un* address, uint length);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial int connect(SafeHandle fd, SockAddr_un* address, uint length);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int listen(SafeHandle fd, int backlog);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial SafeFileHandle accept4(SafeHandle fd, void* address, void* length, int flags);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial int getsockopt(SafeHandle fd, int level, int name, void* value, uint* length);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial nint sendmsg(SafeHandle fd, MsgHdr* message, int flags);

    [DllImport("libc", SetLastError = true)]
    internal static unsafe extern partial nint recvmsg(SafeHandle fd, MsgHdr* message, int flags);

    [DllImport("libc", SetLastError = true)]
    internal static extern partial int fchmod(SafeHandle fd, uint mode);

    [DllImport("libc", SetLastError = true, CharSet = CharSet.Ansi)]
    internal static extern partial int unlink(string path);

    [DllImport("libc")]
    internal static extern partial int getpid();

    [DllImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static extern partial nint syscall_2(nint number, nint a, nint b);

    [DllImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static extern partial nint syscall_4(nint number, nint a, nint b, nint c, nint d);

    // What the runtime itself calls for NativeMemory and FileInfo.LinkTarget on net10.0.
    [DllImport("libc")]
    internal static extern nint calloc(nuint count, nuint size);

    [DllImport("libc")]
    internal static extern nint aligned_alloc(nuint alignment, nuint size);

    [DllImport("libc")]
    internal static extern void free(nint block);

    [DllImport("libc", SetLastError = true, CharSet = CharSet.Ansi)]
    internal static extern unsafe nint readlink(string path, byte* buffer, nuint size);

    [DllImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static unsafe extern partial nint syscall_get_mempolicy(nint number, int* mode, ulong* nodes, nuint maxNode, nuint address, nuint flags);

    [DllImport("libc", EntryPoint = "syscall", SetLastError = true)]
    internal static unsafe extern partial nint syscall_mbind(nint number, nuint address, nuint length, nint mode, ulong* nodes, nuint maxNode, nuint flags);
}
