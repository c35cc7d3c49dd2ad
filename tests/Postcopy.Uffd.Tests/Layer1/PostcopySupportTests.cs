using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>"Can this host do postcopy?", asked on the real host and on hosts that lack something.</summary>
[Collection(HugePagesCollection.Name)]
public sealed class PostcopySupportTests(ITestOutputHelper output)
{
    [Theory]
    [InlineData(GuestMemoryKind.Anonymous, "open handshake thread-id locked-memory register fault discard zeropage move huge-move poison")]
    [InlineData(GuestMemoryKind.Memfd, "open handshake thread-id locked-memory register fault discard zeropage continue poison")]
    [InlineData(GuestMemoryKind.Hugetlb, "open handshake thread-id locked-memory register fault discard zeropage poison")]
    public void ThisHostSupportsPostcopy(GuestMemoryKind kind, string names)
    {
        Requires.KernelFaults();
        Requires.Userfaultfd(UffdFeatures.Move | UffdFeatures.Poison | UffdFeatures.MinorShmem);
        if (kind == GuestMemoryKind.Hugetlb)
        {
            HugePages.Require();
        }

        PostcopySupportReport report = PostcopySupport.Check(kind);

        output.WriteLine(report.ToString());
        Assert.True(report.IsSupported, report.ToString());
        Assert.All(report.Checks.Where(c => c.Name != "huge-move"), c => Assert.Equal(HostCheckStatus.Ok, c.Status));
        Assert.Equal(names, string.Join(' ', report.Checks.Select(c => c.Name)));
        Assert.True(report.HasThreadId);
        Assert.Equal(kind == GuestMemoryKind.Anonymous, report.Operations.HasFlag(UffdOperations.Move));
        Assert.Equal(kind == GuestMemoryKind.Memfd, report.Operations.HasFlag(UffdOperations.Continue));
        Assert.StartsWith($"Postcopy of {kind} memory in pages of {report.PageSize} is supported", report.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void CheckingLeavesNothingBehind()
    {
        Requires.Userfaultfd();
        _ = PostcopySupport.Check(GuestMemoryKind.Memfd);

        Assert.DoesNotContain(File.ReadLines("/proc/self/maps"), l => l.Contains("postcopy-trial", StringComparison.Ordinal));
    }

    [Fact]
    public void WithoutPrivilegesTheReportHasEachRemedy()
    {
        Requires.Root("Becoming user nobody");
        Assert.SkipUnless(File.ReadAllText("/proc/sys/vm/unprivileged_userfaultfd").Trim() == "0",
            "vm.unprivileged_userfaultfd is on, so nothing refuses: sysctl vm.unprivileged_userfaultfd=0.");

        string report = ChildProcess.Run(CheckAsNobody, "no");

        output.WriteLine(report);
        Assert.Contains("NOT supported", report, StringComparison.Ordinal);
        Assert.Contains("FAILED   open: /dev/userfaultfd: EACCES (13); userfaultfd(2): EPERM (1)", report, StringComparison.Ordinal);
        Assert.Contains("setfacl -m u:65534:rw /dev/userfaultfd", report, StringComparison.Ordinal);
        Assert.Contains("vm.unprivileged_userfaultfd=1", report, StringComparison.Ordinal);
    }

    [Fact]
    public void AUserModeOnlyDescriptorIsSupportedWithAWarning()
    {
        Requires.Root("Becoming user nobody");
        Assert.SkipUnless(File.ReadAllText("/proc/sys/vm/unprivileged_userfaultfd").Trim() == "0",
            "vm.unprivileged_userfaultfd is on, so full descriptors are given: sysctl vm.unprivileged_userfaultfd=0.");

        string report = ChildProcess.Run(CheckAsNobody, "yes");

        output.WriteLine(report);
        Assert.Contains("is supported", report, StringComparison.Ordinal);
        Assert.Contains("warning  user-mode-only:", report, StringComparison.Ordinal);
        Assert.Contains("EFAULT", report, StringComparison.Ordinal);
        Assert.Contains("ok       fault:", report, StringComparison.Ordinal);
    }

    [Fact]
    public void LockedMemoryIsRefusedWithTheRemedy()
    {
        Requires.Userfaultfd();
        Requires.Root("mlockall");

        string report = ChildProcess.Run(CheckWithEverythingLocked);

        Assert.Contains("NOT supported", report, StringComparison.Ordinal);
        Assert.Contains("FAILED   locked-memory:", report, StringComparison.Ordinal);
        Assert.Contains("munlockall()", report, StringComparison.Ordinal);
    }

    [Fact]
    public void AnEmptyHugePagePoolIsInTheReport()
    {
        HugePages.Require();
        using RawMapping hog = RawMapping.Hugetlb((int)HugePages.Available, shared: false);

        PostcopySupportReport report = PostcopySupport.Check(GuestMemoryKind.Hugetlb);

        Assert.False(report.IsSupported);
        HostCheck failed = Assert.Single(report.Checks, c => c.Status == HostCheckStatus.Failed);
        Assert.Equal("memory", failed.Name);
        Assert.Contains("has 0 available", failed.Detail, StringComparison.Ordinal);
        Assert.Equal(UffdOperations.None, report.Operations);
    }

    [Fact]
    public void APageSizeThatTheKindCannotHaveIsTheCallersMistake()
    {
        Assert.Throws<ArgumentException>(() => PostcopySupport.Check(GuestMemoryKind.Anonymous, PageSize.TwoMiB));
    }

    private static void CheckAsNobody(ChildScenario child)
    {
        TestLibc.BecomeNobody();
        child.Say(PostcopySupport.Check(GuestMemoryKind.Anonymous, options: new() { AllowUserModeOnly = child.Arguments[0] == "yes" }).ToString());
    }

    private static void CheckWithEverythingLocked(ChildScenario child)
    {
        const int future = 2;
        if (TestLibc.mlockall(future) != 0)
        {
            throw new InvalidOperationException($"mlockall failed: {Errno.Describe(Marshal.GetLastPInvokeError())}");
        }

        child.Say(PostcopySupport.Check(GuestMemoryKind.Anonymous).ToString());
    }
}
