using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>The handshake: what is offered, asked for and granted.</summary>
public sealed class NegotiateTests
{
    private const UffdFeatures FromTheFuture = (UffdFeatures)(1UL << 61);

    [Fact]
    public void ProbingUsesUpNoDescriptorOfOurs()
    {
        Requires.Userfaultfd();
        UffdSupport support = UffdHandle.Probe(Requires.AnyKind);
        TestContext.Current.TestOutputHelper?.WriteLine($"{Environment.OSVersion}: {support}");

        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        UffdGrant grant = uffd.Negotiate(UffdFeatures.ThreadId);

        Assert.Equal(support.Features, grant.Offered);
        Assert.Equal(UffdFeatures.ThreadId, grant.Granted);
        Assert.Equal(UffdFeatures.ThreadId, uffd.Granted);
        Assert.Empty(grant.Refused);
        Assert.Equal((ulong)(UffdOperations.Wake | UffdOperations.Copy) & 0, support.Ioctls & 0xc);
    }

    [Fact]
    public void ARequiredFeatureThatIsMissingThrowsWithItsName()
    {
        Requires.Userfaultfd();
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);

        UffdException e = Assert.Throws<UffdException>(() => uffd.Negotiate(FromTheFuture | UffdFeatures.ThreadId));

        Assert.Contains("bit 61 is not known to this kernel", e.Message, StringComparison.Ordinal);
        Assert.Equal("UFFDIO_API", e.Operation);
        // The refusal did not use the descriptor up.
        Assert.Equal(UffdFeatures.None, uffd.Negotiate().Granted);
    }

    [Fact]
    public void AnOptionalFeatureThatIsMissingIsRefusedWithAReason()
    {
        Requires.Userfaultfd();
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);

        UffdGrant grant = uffd.Negotiate(UffdFeatures.None, FromTheFuture | UffdFeatures.ThreadId);

        Assert.Equal(UffdFeatures.ThreadId, grant.Granted);
        Assert.Equal(new UffdRefusal(FromTheFuture, "bit 61 is not known to this kernel"), Assert.Single(grant.Refused));
        Assert.True(grant.Has(UffdFeatures.ThreadId));
        Assert.False(grant.Has(FromTheFuture));
    }

    [Fact]
    public void EveryFeatureTheKernelOffersCanBeHad()
    {
        Requires.Userfaultfd();
        Requires.Root("EVENT_FORK (CAP_SYS_PTRACE)");
        UffdFeatures all = UffdHandle.Probe(Requires.AnyKind).Features;
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);

        // Bits that this library has no name for are passed on like the others.
        Assert.Equal(all, uffd.Negotiate(all).Granted);
    }

    [Fact]
    public void UnknownBitsSurvive()
    {
        UffdFeatures value = UffdFeatures.Move | FromTheFuture;
        UffdGrant grant = new(value, value, []);

        Assert.True(grant.Has(FromTheFuture));
        Assert.Equal((ulong)UffdFeatures.Move | (1UL << 61), (ulong)grant.Granted);
        Assert.True(new UffdRegistration(default, UffdModes.Missing, (UffdOperations)(1UL << 40)).Supports((UffdOperations)(1UL << 40)));
    }

    [Fact]
    public void ASecondHandshakeIsRefused()
    {
        Requires.Userfaultfd();
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        _ = uffd.Negotiate();

        UffdException e = Assert.Throws<UffdException>(() => uffd.Negotiate());

        Assert.Contains("one handshake only", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AHandshakeThroughADuplicateIsRefusedByTheKernel()
    {
        Requires.Userfaultfd();
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        using UffdHandle duplicate = uffd.Duplicate();
        _ = uffd.Negotiate();

        UffdException e = Assert.Throws<UffdException>(() => duplicate.Negotiate());

        Assert.Equal(Errno.EINVAL, e.Errno);
        Assert.Contains("duplicate", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void NegotiatingWorksAfterTheProcessGaveUpItsRights()
    {
        Requires.Userfaultfd();
        Requires.Root("Becoming user nobody");

        Assert.Equal("ThreadId", ChildProcess.Run(NegotiateAsNobody).Trim());
    }

    private static void NegotiateAsNobody(ChildScenario child)
    {
        using UffdHandle uffd = UffdHandle.Open(Requires.AnyKind);
        TestLibc.BecomeNobody();
        child.Say(uffd.Negotiate(optional: UffdFeatures.ThreadId).Granted.ToString());
    }
}
