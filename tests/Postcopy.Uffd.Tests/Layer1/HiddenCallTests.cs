using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;
using Abi = Postcopy.Uffd.Interop.Userfaultfd;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>Hosts on which userfaultfd(2) is hidden or old: a container's seccomp profile answers as such a kernel would.</summary>
public sealed class HiddenCallTests
{
    private const string NoDevice = "/dev/no-such-device";

    [Fact]
    public void AHiddenCallIsNamedWithWhatMayHideIt()
    {
        string message = ChildProcess.Run(OpenWhereTheCallIsHidden);

        Assert.Contains($"{NoDevice}: ENOENT (2)", message, StringComparison.Ordinal);
        Assert.Contains("pass the device in ('--device')", message, StringComparison.Ordinal);
        Assert.Contains("userfaultfd(2): ENOSYS (38). The kernel has no CONFIG_USERFAULTFD, or a seccomp profile hides the call.", message, StringComparison.Ordinal);
    }

    [Fact]
    public void AKernelBeforeUserModeOnlyIsNamedWithTheVersion()
    {
        Requires.Root("Becoming user nobody");
        Assert.SkipUnless(File.ReadAllText("/proc/sys/vm/unprivileged_userfaultfd").Trim() == "0",
            "vm.unprivileged_userfaultfd is on, so full descriptors are given: sysctl vm.unprivileged_userfaultfd=0.");

        string message = ChildProcess.Run(OpenWhereUserModeOnlyIsUnknown);

        Assert.Contains("userfaultfd(2): EPERM (1)", message, StringComparison.Ordinal);
        Assert.Contains("userfaultfd(2) with UFFD_USER_MODE_ONLY: EINVAL (22). UFFD_USER_MODE_ONLY needs Linux 5.11.", message, StringComparison.Ordinal);
    }

    private static void OpenWhereTheCallIsHidden(ChildScenario child)
    {
        Seccomp.Refuse(Libc.SYS_userfaultfd, Errno.ENOSYS);
        SayRefusal(child);
    }

    private static void OpenWhereUserModeOnlyIsUnknown(ChildScenario child)
    {
        TestLibc.BecomeNobody();
        Seccomp.Refuse(Libc.SYS_userfaultfd, Errno.EINVAL, Abi.UFFD_USER_MODE_ONLY);
        SayRefusal(child);
    }

    private static void SayRefusal(ChildScenario child) =>
        child.Say(Assert.Throws<UffdOpenException>(() => UffdHandle.Open(new UffdOpenOptions { DevicePath = NoDevice, AllowUserModeOnly = true })).Message);
}
