using Postcopy.Uffd.Interop;
using Abi = Postcopy.Uffd.Interop.Userfaultfd;

namespace Postcopy.Uffd.Tests.Infrastructure;

/// <summary>Skips a test that this machine cannot run, with the remedy as the reason.</summary>
internal static class Requires
{
    private static readonly Lazy<(UffdSupport? Support, string Refusal)> s_support = new(() =>
    {
        try
        {
            return (UffdHandle.Probe(AnyKind), string.Empty);
        }
        catch (UffdException e)
        {
            return (null, e.Message);
        }
    });

    /// <summary>How tests open: an ordinary user's tests run on descriptors for faults of user mode.</summary>
    internal static UffdOpenOptions AnyKind { get; } = new() { AllowUserModeOnly = true };

    /// <summary>A userfaultfd that also handles faults in system calls.</summary>
    internal static void KernelFaults()
    {
        Userfaultfd();
        Assert.SkipUnless(!s_support.Value.Support!.UserModeOnly,
            "Needs a userfaultfd for kernel faults: run as root, or 'setfacl -m u:$USER:rw /dev/userfaultfd' as root.");
    }

    /// <summary>Any userfaultfd with these features (<see cref="AnyKind"/>).</summary>
    internal static void Userfaultfd(UffdFeatures features = UffdFeatures.None)
    {
        (UffdSupport? support, string refusal) = s_support.Value;
        Assert.SkipUnless(support is not null, $"Needs a userfaultfd. {refusal}");
        Assert.SkipUnless(!features.HasFlag(UffdFeatures.EventFork) || Libc.geteuid() == 0, "EVENT_FORK needs CAP_SYS_PTRACE: run the tests with 'sudo dotnet test'.");
        UffdFeatures missing = features & ~support!.Features;
        Assert.SkipUnless(missing == 0, $"Needs a kernel with {missing}; this one is {Environment.OSVersion.VersionString}. Run the tests on a newer kernel.");
    }

    /// <summary>MOVE, and transparent huge pages to move.</summary>
    internal static void HugePageMoves()
    {
        Userfaultfd(UffdFeatures.Move);
        const string enabled = "/sys/kernel/mm/transparent_hugepage/enabled";
        Assert.SkipUnless(File.Exists(enabled) && !File.ReadAllText(enabled).Contains("[never]", StringComparison.Ordinal),
            $"Needs transparent huge pages: echo madvise > {enabled} (as root).");
    }

    /// <summary>A descriptor for faults of user mode only, also where a better one could be had.</summary>
    internal static UffdHandle UserModeOnly()
    {
        int fd = (int)Libc.syscall_int(Libc.SYS_userfaultfd, Libc.O_CLOEXEC | Libc.O_NONBLOCK | Abi.UFFD_USER_MODE_ONLY);
        Assert.SkipUnless(fd >= 0, "Needs UFFD_USER_MODE_ONLY: Linux 5.11 or newer.");
        return UffdHandle.Adopt(fd, userModeOnly: true);
    }

    /// <summary>Root: for huge-page pools, other users and memory cgroups.</summary>
    internal static void Root(string what) =>
        Assert.SkipUnless(Libc.geteuid() == 0, $"{what} needs root: run the tests with 'sudo dotnet test'.");

    internal static void Tool(string path, string package) =>
        Assert.SkipUnless(File.Exists(path), $"Needs {path}: apt-get install {package}.");
}
