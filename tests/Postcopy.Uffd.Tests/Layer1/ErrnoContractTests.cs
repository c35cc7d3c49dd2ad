using System.Reflection;
using System.Text;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Layer1;

/// <summary>
/// The errno contracts as one table: which test provokes each on the real kernel, and why the others cannot be. The
/// second part is printed with the tests.
/// </summary>
public sealed class ErrnoContractTests(ITestOutputHelper output)
{
    /// <summary>One contract. Evidence is a test's name, or, after "no: ", why it cannot be provoked.</summary>
    private sealed record Contract(string Operation, string Errno, UffdOutcome? Outcome, string Condition, Type? Tests, string Evidence);

    private static readonly Contract[] s_contracts =
    [
        Shown("COPY", "0", UffdOutcome.Done, "missing page", typeof(CopyTests), nameof(CopyTests.CopyFillsAMissingPageAndWakesItsThread)),
        Shown("COPY", "EAGAIN, field > 0", UffdOutcome.Partial, "third page of a run present", typeof(CopyTests), nameof(CopyTests.CopyOfARunStopsAtAPresentPageWithTheBytesDone)),
        Shown("COPY", "EAGAIN, field -11", UffdOutcome.AddressSpaceChanging, "REMOVE not read and acted on", typeof(CopyTests), nameof(CopyTests.CopyWhileTheAddressSpaceChangesHasANameOfItsOwn)),
        Shown("COPY", "EEXIST", UffdOutcome.AlreadyPresent, "page or zero page present", typeof(CopyTests), nameof(CopyTests.CopyIntoAPresentPageReportsAlreadyPresent)),
        Shown("COPY", "EEXIST", UffdOutcome.AlreadyPresent, "page cache has it, not mapped", typeof(CopyTests), nameof(CopyTests.CopyIntoAPageOfThePageCacheReportsAlreadyPresent)),
        Shown("COPY", "EEXIST", UffdOutcome.AlreadyPresent, "a transparent huge page is there", typeof(CopyTests), nameof(CopyTests.CopyOverATransparentHugePageReportsAlreadyPresent)),
        Shown("COPY", "EEXIST", UffdOutcome.AlreadyPresent, "hugetlb pool exhausted, page absent", typeof(HugetlbTests), nameof(HugetlbTests.AnExhaustedPoolAnswersAlreadyPresentWithThePageAbsent)),
        Shown("COPY", "ENOENT", UffdOutcome.NotRegistered, "not registered, end of a mapping, two mappings", typeof(CopyTests), nameof(CopyTests.CopyOutsideTheRegistrationReportsNotRegistered)),
        Shown("COPY", "EINVAL", UffdOutcome.InvalidArgument, "alignment, length 0, mode", typeof(CopyTests), nameof(CopyTests.BadArgumentsAreRefusedAndNothingIsDone)),
        Shown("COPY", "EINVAL", UffdOutcome.InvalidArgument, "4 KiB into a huge page", typeof(HugetlbTests), nameof(HugetlbTests.WhatTheMaskLacksIsRefused)),
        Shown("COPY", "EINVAL, field -22", UffdOutcome.InvalidArgument, "write-protected without WP mode", typeof(CopyTests), nameof(CopyTests.BadArgumentsAreRefusedAndNothingIsDone)),
        Shown("COPY", "0", UffdOutcome.Done, "source not aligned", typeof(CopyTests), nameof(CopyTests.CopyFromAnUnalignedSourceWorks)),
        Shown("COPY", "0", UffdOutcome.Done, "over a poisoned page", typeof(PoisonTests), nameof(PoisonTests.CopyHealsAPoisonedPageAndZeropageAndMoveDoNot)),
        Shown("COPY", "EFAULT", UffdOutcome.SourceUnreadable, "source not mapped", typeof(CopyTests), nameof(CopyTests.AnUnreadableSourceHasANameOfItsOwn)),
        Shown("COPY", "EFAULT", UffdOutcome.SourceUnreadable, "beyond the end of the file", typeof(CopyTests), nameof(CopyTests.PlacingBeyondTheEndOfTheFileHasANameOfItsOwn)),
        Shown("COPY", "ESRCH", UffdOutcome.TargetGone, "target process gone", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty)),
        Shown("ZEROPAGE", "0", UffdOutcome.Done, "missing page, hole of a memfd", typeof(CopyTests), nameof(CopyTests.ZeropageFillsAHoleOfAMemfd)),
        Shown("ZEROPAGE", "EAGAIN, field > 0", UffdOutcome.Partial, "second page of a run present", typeof(CopyTests), nameof(CopyTests.ZeropageOfARunStopsAtAPresentPage)),
        Shown("ZEROPAGE", "EAGAIN, field -11", UffdOutcome.AddressSpaceChanging, "REMOVE not read", typeof(CopyTests), nameof(CopyTests.CopyWhileTheAddressSpaceChangesHasANameOfItsOwn)),
        Shown("ZEROPAGE", "EEXIST", UffdOutcome.AlreadyPresent, "page present", typeof(CopyTests), nameof(CopyTests.ZeropageOfARunStopsAtAPresentPage)),
        Shown("ZEROPAGE", "EEXIST", UffdOutcome.AlreadyPresent, "page cache has it, not mapped", typeof(CopyTests), nameof(CopyTests.CopyIntoAPageOfThePageCacheReportsAlreadyPresent)),
        Shown("ZEROPAGE", "EEXIST", UffdOutcome.AlreadyPresent, "poisoned", typeof(PoisonTests), nameof(PoisonTests.CopyHealsAPoisonedPageAndZeropageAndMoveDoNot)),
        Shown("ZEROPAGE", "ENOENT", UffdOutcome.NotRegistered, "not registered", typeof(CopyTests), nameof(CopyTests.CopyOutsideTheRegistrationReportsNotRegistered)),
        Shown("ZEROPAGE", "EINVAL", UffdOutcome.InvalidArgument, "alignment, mode", typeof(CopyTests), nameof(CopyTests.BadArgumentsAreRefusedAndNothingIsDone)),
        Shown("ZEROPAGE", "EINVAL", UffdOutcome.InvalidArgument, "hugetlb", typeof(HugetlbTests), nameof(HugetlbTests.WhatTheMaskLacksIsRefused)),
        Shown("ZEROPAGE", "EFAULT", UffdOutcome.BeyondEndOfFile, "beyond the end of the file", typeof(CopyTests), nameof(CopyTests.PlacingBeyondTheEndOfTheFileHasANameOfItsOwn)),
        Shown("ZEROPAGE", "ESRCH", UffdOutcome.TargetGone, "target process gone", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty)),
        Shown("CONTINUE", "0", UffdOutcome.Done, "page of the page cache", typeof(ContinueTests), nameof(ContinueTests.ContinueMapsThePageThatAnotherMappingWrote)),
        Shown("CONTINUE", "EAGAIN, field > 0", UffdOutcome.Partial, "hole in a run", typeof(ContinueTests), nameof(ContinueTests.ContinueOfARunStopsAtAHole)),
        Shown("CONTINUE", "EAGAIN, field -11", UffdOutcome.AddressSpaceChanging, "REMOVE not read", typeof(ContinueTests), nameof(ContinueTests.ContinueWhileTheAddressSpaceChangesHasANameOfItsOwn)),
        Shown("CONTINUE", "EFAULT", UffdOutcome.NotInPageCache, "hole", typeof(ContinueTests), nameof(ContinueTests.AHoleIsAMissingFaultAndNotInThePageCache)),
        Shown("CONTINUE", "EEXIST", UffdOutcome.AlreadyPresent, "mapped", typeof(ContinueTests), nameof(ContinueTests.ContinueOfAMappedPageReportsAlreadyPresent)),
        Shown("CONTINUE", "EINVAL", UffdOutcome.InvalidArgument, "anonymous memory", typeof(ContinueTests), nameof(ContinueTests.ContinueOfAnonymousMemoryIsRefused)),
        Shown("CONTINUE", "EINVAL", UffdOutcome.InvalidArgument, "beyond the end of the file", typeof(CopyTests), nameof(CopyTests.PlacingBeyondTheEndOfTheFileHasANameOfItsOwn)),
        Shown("CONTINUE", "ENOENT", UffdOutcome.NotRegistered, "not registered", typeof(ContinueTests), nameof(ContinueTests.ContinueOutsideTheRegistrationReportsNotRegistered)),
        Shown("CONTINUE", "ESRCH", UffdOutcome.TargetGone, "target process gone", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty)),
        Shown("POISON", "0", UffdOutcome.Done, "missing page", typeof(PoisonTests), nameof(PoisonTests.APoisonedPageAnswersSystemCallsWithEfault)),
        Shown("POISON", "EAGAIN, field > 0", UffdOutcome.Partial, "second page of a run present", typeof(PoisonTests), nameof(PoisonTests.PoisonOfARunStopsWithTheBytesDone)),
        Shown("POISON", "EAGAIN, field -11", UffdOutcome.AddressSpaceChanging, "REMOVE not read", typeof(PoisonTests), nameof(PoisonTests.PoisonWhileTheAddressSpaceChangesHasANameOfItsOwn)),
        Shown("POISON", "EEXIST", UffdOutcome.AlreadyPresent, "present or poisoned", typeof(PoisonTests), nameof(PoisonTests.PoisonOnAPresentOrPoisonedPageReportsAlreadyPresent)),
        Shown("POISON", "ENOENT", UffdOutcome.NotRegistered, "not registered", typeof(PoisonTests), nameof(PoisonTests.PoisonOutsideTheRegistrationAndWithABadModeAreNamed)),
        Shown("POISON", "EINVAL", UffdOutcome.InvalidArgument, "mode", typeof(PoisonTests), nameof(PoisonTests.PoisonOutsideTheRegistrationAndWithABadModeAreNamed)),
        Shown("POISON", "EFAULT", UffdOutcome.BeyondEndOfFile, "beyond the end of the file", typeof(CopyTests), nameof(CopyTests.PlacingBeyondTheEndOfTheFileHasANameOfItsOwn)),
        Shown("POISON", "ESRCH", UffdOutcome.TargetGone, "target process gone", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty)),
        Shown("MOVE", "0", UffdOutcome.Done, "private anonymous source", typeof(MoveTests), nameof(MoveTests.MoveTakesThePageAwayFromTheSource)),
        Shown("MOVE", "EAGAIN, field > 0", UffdOutcome.Partial, "third page of a run present", typeof(MoveTests), nameof(MoveTests.MoveOfARunStopsWithTheBytesDone)),
        Shown("MOVE", "EAGAIN, field -11", UffdOutcome.AddressSpaceChanging, "REMOVE not read", typeof(MoveTests), nameof(MoveTests.MoveWhileTheAddressSpaceChangesHasANameOfItsOwn)),
        Shown("MOVE", "EEXIST", UffdOutcome.AlreadyPresent, "destination present", typeof(MoveTests), nameof(MoveTests.MoveIntoAPresentPageReportsAlreadyPresent)),
        Shown("MOVE", "EEXIST", UffdOutcome.AlreadyPresent, "destination poisoned", typeof(PoisonTests), nameof(PoisonTests.CopyHealsAPoisonedPageAndZeropageAndMoveDoNot)),
        Shown("MOVE", "EINVAL", UffdOutcome.InvalidArgument, "shared destination, which the mask names", typeof(MoveTests), nameof(MoveTests.MoveIntoSharedMemoryIsRefusedAlthoughTheKernelsMaskNamesIt)),
        Shown("MOVE", "ENOENT", UffdOutcome.SourceHoleOrUnmapped, "hole in the source", typeof(MoveTests), nameof(MoveTests.AHoleInTheSourceIsAnErrorUnlessAllowed)),
        Shown("MOVE", "ENOENT", UffdOutcome.SourceHoleOrUnmapped, "one range not mapped", typeof(MoveTests), nameof(MoveTests.AnUnmappedSourceOrDestinationIsNamedLikeAHole)),
        Shown("MOVE", "EINVAL", UffdOutcome.InvalidArgument, "destination not registered, two mappings", typeof(MoveTests), nameof(MoveTests.AnUnregisteredDestinationIsAnInvalidArgumentHere)),
        Shown("MOVE", "EINVAL", UffdOutcome.InvalidArgument, "shared source", typeof(MoveTests), nameof(MoveTests.SharedMemoryIsNoSource)),
        Shown("MOVE", "EINVAL", UffdOutcome.InvalidArgument, "locked or read-only source", typeof(MoveTests), nameof(MoveTests.ALockedOrReadOnlySourceIsAnInvalidArgument)),
        Shown("MOVE", "EINVAL", UffdOutcome.InvalidArgument, "memory of another process, also a dead one", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AnExternalHandlerPlacesPagesInTheTarget)),
        Shown("MOVE", "EBUSY", UffdOutcome.SourceBusy, "source shared with a fork's child", typeof(MoveTests), nameof(MoveTests.APageSharedWithAForkedChildIsBusy)),
        Shown("MOVE", "EFAULT", UffdOutcome.SourceUnreadable, "source page poisoned", typeof(MoveTests), nameof(MoveTests.APoisonedSourcePageIsNamedUnreadable)),
        Shown("WRITEPROTECT", "0", UffdOutcome.Done, "protect and lift", typeof(WriteProtectTests), nameof(WriteProtectTests.AWriteToAProtectedPageWaitsUntilTheProtectionIsLifted)),
        Shown("WRITEPROTECT", "ENOENT", UffdOutcome.NotRegistered, "no WP mode", typeof(WriteProtectTests), nameof(WriteProtectTests.ARangeWithoutWriteProtectModeReportsNotRegistered)),
        Shown("WRITEPROTECT", "EAGAIN", UffdOutcome.AddressSpaceChanging, "REMOVE not read", typeof(WriteProtectTests), nameof(WriteProtectTests.WriteProtectWhileTheAddressSpaceChangesHasANameOfItsOwn)),
        Shown("WRITEPROTECT", "EINVAL", UffdOutcome.InvalidArgument, "range, WP with DONTWAKE", typeof(WriteProtectTests), nameof(WriteProtectTests.ProtectingWithoutWakingIsRefused)),
        Shown("WRITEPROTECT", "ESRCH", UffdOutcome.TargetGone, "target process gone", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty)),
        Shown("WAKE", "0", UffdOutcome.Done, "nobody waits, not registered", typeof(CopyTests), nameof(CopyTests.WakeOfARangeThatNobodyRegisteredIsDone)),
        Shown("WAKE", "0", UffdOutcome.Done, "address space changing", typeof(CopyTests), nameof(CopyTests.CopyWhileTheAddressSpaceChangesHasANameOfItsOwn)),
        Shown("WAKE", "0", UffdOutcome.Done, "target process gone", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty)),
        Shown("WAKE", "EINVAL", UffdOutcome.InvalidArgument, "bad range", typeof(CopyTests), nameof(CopyTests.BadArgumentsAreRefusedAndNothingIsDone)),
        Shown("REGISTER", "EBUSY", null, "another userfaultfd's", typeof(RegisterTests), nameof(RegisterTests.ARangeOfAnotherUserfaultfdIsBusy)),
        Shown("REGISTER", "EPERM", null, "read-only shared file", typeof(RegisterTests), nameof(RegisterTests.ReadOnlySharedFileMemoryIsNotPermitted)),
        Shown("REGISTER", "EINVAL", null, "range, mode, kind of memory", typeof(RegisterTests), nameof(RegisterTests.BadRangesAndModesAreRefusedWithTheRangeInTheMessage)),
        Shown("REGISTER", "EINVAL", null, "a part of a huge page", typeof(HugetlbTests), nameof(HugetlbTests.APartOfAHugePageCannotBeRegistered)),
        Shown("REGISTER", "0", null, "a hole inside, not noticed", typeof(RegisterTests), nameof(RegisterTests.AHoleInsideTheRangeIsNotNoticed)),
        Shown("REGISTER", "0", null, "while an event waits", typeof(RegisterTests), nameof(RegisterTests.RegistrationWorksWhileAnEventWaits)),
        Shown("REGISTER", "ENOMEM", null, "target process gone", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty)),
        Shown("UNREGISTER", "0", null, "waiters go on with zeros", typeof(RegisterTests), nameof(RegisterTests.UnregisterSetsAWaitingThreadFreeOnAZeroPage)),
        Shown("UNREGISTER", "0", null, "mapped, never registered", typeof(RegisterTests), nameof(RegisterTests.UnregisterOfMemoryThatWasNeverRegisteredIsHarmless)),
        Shown("UNREGISTER", "EINVAL", null, "another userfaultfd's", typeof(RegisterTests), nameof(RegisterTests.ARangeOfAnotherUserfaultfdIsBusy)),
        Shown("UNREGISTER", "EINVAL", null, "not mapped", typeof(RegisterTests), nameof(RegisterTests.UnregisterOfUnmappedMemoryIsRefused)),
        Shown("UNREGISTER", "ENOMEM", null, "target process gone", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty)),
        Shown("API", "EINVAL", null, "unknown feature", typeof(NegotiateTests), nameof(NegotiateTests.ARequiredFeatureThatIsMissingThrowsWithItsName)),
        Shown("API", "EINVAL", null, "second handshake", typeof(NegotiateTests), nameof(NegotiateTests.AHandshakeThroughADuplicateIsRefusedByTheKernel)),
        Shown("API", "EPERM", null, "EVENT_FORK without CAP_SYS_PTRACE", typeof(OpenTests), nameof(OpenTests.UserModeOnlyIsUsedWhenTheCallerAllowsIt)),
        Shown("read", "EAGAIN", UffdOutcome.Done, "nothing there", typeof(EventTests), nameof(EventTests.AnEmptyDescriptorReadsAsNoMessages)),
        Shown("read", "EINVAL", UffdOutcome.InvalidArgument, "before API; no room", typeof(EventTests), nameof(EventTests.ReadingBeforeNegotiatingOrIntoNoRoomIsAnInvalidArgument)),
        Shown("read", "EAGAIN", UffdOutcome.Done, "target process gone", typeof(ForeignTargetTests), nameof(ForeignTargetTests.AfterTheTargetsDeathEveryOperationSaysSoAndReadingStaysEmpty)),
        Shown("poll", "POLLERR", null, "before API; blocking descriptor", typeof(EventTests), nameof(EventTests.PollingBeforeNegotiatingOrOnABlockingDescriptorIsAnError)),
        Shown("open", "ENOTTY", null, "another device", typeof(OpenTests), nameof(OpenTests.ADeviceThatIsNotUserfaultfdIsPassedOver)),
        Shown("open", "ENOENT", null, "no such device", typeof(OpenTests), nameof(OpenTests.WithoutTheDeviceTheSystemCallIsUsed)),
        Shown("open", "EACCES, EPERM", null, "user without rights", typeof(OpenTests), nameof(OpenTests.ARefusalNamesEveryWayThatWasTriedAndItsRemedy)),
        Shown("open", "ENOSYS", null, "hidden by seccomp, as without CONFIG_USERFAULTFD", typeof(HiddenCallTests), nameof(HiddenCallTests.AHiddenCallIsNamedWithWhatMayHideIt)),
        Shown("open", "EINVAL", null, "UFFD_USER_MODE_ONLY by seccomp, as before Linux 5.11", typeof(HiddenCallTests), nameof(HiddenCallTests.AKernelBeforeUserModeOnlyIsNamedWithTheVersion)),
        Shown("open", "EMFILE", null, "no descriptor left", typeof(OpenTests), nameof(OpenTests.NoDescriptorLeftSaysSo)),

        NotHere("COPY", "ENOMEM", UffdOutcome.OutOfMemory, "no page", "a memory cgroup's limit kills the process instead (H49), and exhausting the host would take the runner along"),
        NotHere("COPY", "EHWPOISON", UffdOutcome.SourcePoisoned, "hardware error in the source", "MADV_HWPOISON takes a page of the machine out of use for good"),
        NotHere("COPY", "EINTR", UffdOutcome.Unexpected, "fatal signal", "only a dying thread gets it, which reports nothing any more"),
        NotHere("COPY", "ENOSPC", UffdOutcome.TargetGone, "target gone", "Linux 4.11 and 4.12 only; later kernels say ESRCH"),
        NotHere("MOVE", "ESRCH", UffdOutcome.TargetGone, "target gone", "the kernel asks first whether the target is the caller (EINVAL), so the caller would have to be dead"),
        NotHere("MOVE", "EBUSY", UffdOutcome.SourceBusy, "source pinned or merged by KSM", "needs a device that pins pages, or ksmd; the errno is shown with a fork instead"),
        NotHere("MOVE", "ENOMEM", UffdOutcome.OutOfMemory, "no page table", "as COPY's"),
        NotHere("ZEROPAGE", "ENOMEM", UffdOutcome.OutOfMemory, "no page table", "as COPY's"),
        NotHere("CONTINUE", "ENOMEM", UffdOutcome.OutOfMemory, "no page table", "as COPY's"),
        NotHere("POISON", "ENOMEM", UffdOutcome.OutOfMemory, "no page table", "as COPY's"),
        NotHere("WRITEPROTECT", "ENOMEM", UffdOutcome.OutOfMemory, "no page table", "as COPY's"),
        NotHere("REGISTER", "ENOMEM", null, "no memory for the mapping's split", "as COPY's; the errno is shown with a dead target"),
        NotHere("open", "ENODEV, ENFILE", null, "no CONFIG_USERFAULTFD; host out of files", "needs another kernel, or the whole host's descriptors"),
        NotHere("read", "other", UffdOutcome.Unexpected, "none is documented", "EFAULT needs memory that a Span cannot name"),
    ];

    [Fact]
    public void EveryContractIsShownByATestOrListedAsNotProvokable()
    {
        foreach (Contract c in s_contracts.Where(c => c.Tests is not null))
        {
            MethodInfo? method = c.Tests!.GetMethod(c.Evidence);
            Assert.True(method?.GetCustomAttributes<FactAttribute>().Any() == true, $"{c.Tests.Name}.{c.Evidence} is no test.");
        }

        StringBuilder table = new();
        _ = table.AppendLine($"{s_contracts.Count(c => c.Tests is not null)} contracts are provoked on the real kernel by tests. Not provokable here:");
        foreach (Contract c in s_contracts.Where(c => c.Tests is null))
        {
            _ = table.AppendLine($"  {c.Operation,-12} {c.Errno,-24} {c.Outcome,-16} {c.Condition,-40} {c.Evidence}");
        }

        output.WriteLine(table.ToString());
        Assert.Equal(Enum.GetValues<UffdOutcome>(), s_contracts.Where(c => c.Outcome is not null).Select(c => c.Outcome!.Value).Distinct().Order());
    }

    [Fact]
    public void EveryOutcomeOfTheDocumentsTableIsInThisTable()
    {
        string[] operations = ["COPY", "ZEROPAGE", "CONTINUE", "MOVE", "POISON", "WRITEPROTECT"];
        string[] rows = [.. RepositoryFile.Lines("docs", "errors.md").SkipWhile(l => !l.StartsWith("| errno | " + string.Join(" | ", operations), StringComparison.Ordinal))
            .Skip(2).TakeWhile(l => l.StartsWith('|'))];
        Assert.NotEmpty(rows);
        foreach (string line in rows)
        {
            string[] cells = [.. line.Trim('|', ' ').Split('|', StringSplitOptions.TrimEntries)];
            string errno = cells[0].Split(',', ' ')[0];
            string outcome = cells[^1].Split('`')[1];
            for (int i = 0; i < operations.Length; i++)
            {
                if (cells[i + 1] == "x")
                {
                    Assert.True(s_contracts.Any(c => c.Operation == operations[i] && c.Outcome?.ToString() == outcome && c.Errno.StartsWith(errno, StringComparison.Ordinal)),
                        $"docs/errors.md says that {operations[i]} answers {errno} as {outcome}; no contract here is about that.");
                }
            }
        }
    }

    [Theory]
    [InlineData(Errno.ENOMEM, 0, UffdOutcome.OutOfMemory, 0)]
    [InlineData(Errno.ENOMEM, -Errno.ENOMEM, UffdOutcome.OutOfMemory, 0)]
    [InlineData(Errno.EHWPOISON, -Errno.EHWPOISON, UffdOutcome.SourcePoisoned, 0)]
    [InlineData(Errno.ENOSPC, 0, UffdOutcome.TargetGone, 0)]
    [InlineData(Errno.EINTR, 0, UffdOutcome.Unexpected, 0)]
    [InlineData(Errno.EPIPE, 0, UffdOutcome.Unexpected, 0)]
    // Negative fields are errnos and never lengths; a field that is not written keeps whatever was there.
    [InlineData(Errno.EAGAIN, -Errno.EAGAIN, UffdOutcome.AddressSpaceChanging, 0)]
    [InlineData(Errno.EAGAIN, 0, UffdOutcome.AddressSpaceChanging, 0)]
    [InlineData(Errno.EAGAIN, 8192, UffdOutcome.Partial, 8192)]
    [InlineData(Errno.EINVAL, 8192, UffdOutcome.InvalidArgument, 0)]
    [InlineData(Errno.ESRCH, 8192, UffdOutcome.TargetGone, 0)]
    [InlineData(Errno.EEXIST, -Errno.EEXIST, UffdOutcome.AlreadyPresent, 0)]
    public void ErrnosThatCannotBeProvokedAreNamedToo(int errno, long field, UffdOutcome expected, long bytes)
    {
        UffdResult result = UffdHandle.Interpret(errno, field, UffdOutcome.NotRegistered, UffdOutcome.SourceUnreadable);

        Assert.Equal(new UffdResult(expected, bytes, errno), result);
    }

    [Fact]
    public void TheHotOperationsAllocateNothing()
    {
        using UffdArena arena = new(RawMapping.Anonymous(1));
        using RawMapping source = RawMapping.Anonymous(1).Fill(1);
        UffdMessage[] room = new UffdMessage[4];
        _ = Round();

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100; i++)
        {
            _ = Round();
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);

        UffdResult Round()
        {
            UffdHandle u = arena.Uffd;
            nuint page = arena.Page(0);
            _ = u.Read(room, out _);
            _ = u.Copy(page, source.Address, arena.PageSize);
            _ = u.Zeropage(page, arena.PageSize);
            _ = u.Move(page, source.Address, arena.PageSize);
            _ = u.Continue(page, arena.PageSize);
            _ = u.Poison(page, arena.PageSize);
            _ = u.WriteProtect(page, arena.PageSize, protect: true);
            return u.Wake(page, arena.PageSize);
        }
    }

    private static Contract Shown(string operation, string errno, UffdOutcome? outcome, string condition, Type tests, string test) =>
        new(operation, errno, outcome, condition, tests, test);

    private static Contract NotHere(string operation, string errno, UffdOutcome? outcome, string condition, string why) =>
        new(operation, errno, outcome, condition, null, why);
}
