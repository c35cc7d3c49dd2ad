namespace Postcopy.Uffd;

/// <summary>What the running kernel offers to this process.</summary>
/// <param name="Features">All features the kernel names, unknown bits included.</param>
/// <param name="Ioctls">The kernel's mask of descriptor-wide ioctls (<c>uffdio_api.ioctls</c>).</param>
/// <param name="OpenedBy">The way that worked: the device node or the system call.</param>
/// <param name="UserModeOnly">True when only a descriptor for faults of user mode could be had.</param>
public sealed record UffdSupport(UffdFeatures Features, ulong Ioctls, string OpenedBy, bool UserModeOnly);
