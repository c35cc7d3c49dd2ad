using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>A handler outside the process that owns the memory, and that process dying.</summary>
public sealed class ForeignTargetTests
{
    [Fact]
    public void AnExternalHandlerPlacesPagesInTheTarget()
    {
        using MemoryHolder target = MemoryHolder.Start(3);
        using RawMapping source = RawMapping.Anonymous(1).Fill(0x6b);
        target.Touch(0);
        Deadline.Until(() => Read(target.Uffd, out _) == 1, "the target's fault");

        UffdResult copy = target.Uffd.Copy(target.Range.Start, source.Address, source.Length);
        UffdResult move = target.Uffd.Move(target.Range.Start + source.Length, source.Address, source.Length);
        UffdResult zero = target.Uffd.Zeropage(target.Range.Start + source.Length, source.Length);
        UffdResult poison = target.Uffd.Poison(target.Range.Start + (2 * source.Length), source.Length);

        Assert.True(copy.IsDone);
        Assert.Equal(0x6b, target.Answer());
        // MOVE works within one address space only.
        Assert.Equal(UffdOutcome.InvalidArgument, move.Outcome);
        Assert.True(zero.IsDone && poison.IsDone);
        target.Uffd.Unregister(target.Range);
        Assert.False(target.Uffd.Register(target.Range, UffdModes.Missing).Supports(UffdOperations.Move));
    }

    [Fact]
    public void AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty()
    {
        using MemoryHolder target = MemoryHolder.Start(4, UffdModes.Missing | UffdModes.WriteProtect);
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);
        target.Touch(0);
        Deadline.Until(() => Read(target.Uffd, out _) == 1, "the target's fault");

        target.Kill();

        nuint start = target.Range.Start;
        UffdHandle uffd = target.Uffd;
        UffdResult[] results =
        [
            uffd.Copy(start, source.Address, source.Length),
            uffd.Zeropage(start, source.Length),
            uffd.Continue(start, source.Length),
            uffd.Poison(start, source.Length),
            uffd.WriteProtect(start, source.Length, protect: true),
        ];
        Assert.All(results, r => Assert.Equal(new UffdResult(UffdOutcome.TargetGone, 0, Errno.ESRCH), r));
        // MOVE asks first whether the target is the caller's own process, so it never learns of the death.
        Assert.Equal(UffdOutcome.InvalidArgument, uffd.Move(start, source.Address, source.Length).Outcome);
        Assert.True(uffd.Wake(start, source.Length).IsDone);
        Assert.Equal(0, Read(uffd, out UffdOutcome empty));
        Assert.Equal(UffdOutcome.Done, empty);
        UffdException unregister = Assert.Throws<UffdException>(() => uffd.Unregister(target.Range));
        UffdException register = Assert.Throws<UffdException>(() => uffd.Register(target.Range, UffdModes.Missing));
        Assert.Equal((Errno.ENOMEM, Errno.ENOMEM), (unregister.Errno, register.Errno));
        Assert.Contains("has gone", unregister.Message, StringComparison.Ordinal);
    }

    private static int Read(UffdHandle uffd, out UffdOutcome outcome)
    {
        Span<UffdMessage> into = stackalloc UffdMessage[1];
        return uffd.Read(into, out outcome);
    }
}
