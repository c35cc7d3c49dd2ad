namespace Postcopy.Uffd.Interop;

/// <summary>Values of <c>asm-generic/errno-base.h</c> and <c>errno.h</c>, the same on x64 and arm64.</summary>
internal static class Errno
{
    internal const int EPERM = 1;
    internal const int ENOENT = 2;
    internal const int ESRCH = 3;
    internal const int EINTR = 4;
    internal const int EIO = 5;
    internal const int ENXIO = 6;
    internal const int EBADF = 9;
    internal const int EAGAIN = 11;
    internal const int ENOMEM = 12;
    internal const int EACCES = 13;
    internal const int EFAULT = 14;
    internal const int EBUSY = 16;
    internal const int EEXIST = 17;
    internal const int ENODEV = 19;
    internal const int EINVAL = 22;
    internal const int ENFILE = 23;
    internal const int EMFILE = 24;
    internal const int ENOTTY = 25;
    internal const int ENOSPC = 28;
    internal const int EPIPE = 32;
    internal const int ENOSYS = 38;
    internal const int EADDRINUSE = 98;
    internal const int ECONNABORTED = 103;
    internal const int ECONNREFUSED = 111;
    internal const int EHWPOISON = 133;

    /// <summary>The symbolic name and number, as an engineer greps for it: <c>EEXIST (17)</c>.</summary>
    internal static string Describe(int errno)
    {
        string? name = errno switch
        {
            EPERM => nameof(EPERM),
            ENOENT => nameof(ENOENT),
            ESRCH => nameof(ESRCH),
            EINTR => nameof(EINTR),
            EIO => nameof(EIO),
            ENXIO => nameof(ENXIO),
            EBADF => nameof(EBADF),
            EAGAIN => nameof(EAGAIN),
            ENOMEM => nameof(ENOMEM),
            EACCES => nameof(EACCES),
            EFAULT => nameof(EFAULT),
            EBUSY => nameof(EBUSY),
            EEXIST => nameof(EEXIST),
            ENODEV => nameof(ENODEV),
            EINVAL => nameof(EINVAL),
            ENFILE => nameof(ENFILE),
            EMFILE => nameof(EMFILE),
            ENOTTY => nameof(ENOTTY),
            ENOSPC => nameof(ENOSPC),
            EPIPE => nameof(EPIPE),
            ENOSYS => nameof(ENOSYS),
            EADDRINUSE => nameof(EADDRINUSE),
            ECONNABORTED => nameof(ECONNABORTED),
            ECONNREFUSED => nameof(ECONNREFUSED),
            EHWPOISON => nameof(EHWPOISON),
            _ => null,
        };
        return name is null ? $"errno {errno}" : $"{name} ({errno})";
    }
}
