using Postcopy.Uffd.Qemu;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;
using Postcopy.Vmm.Migration;

namespace Postcopy.Vmm.Tests;

/// <summary>From one of our machines to another, over TCP and QEMU's wire.</summary>
public sealed class HopTests(ITestOutputHelper output)
{
    private const int Limit = 180_000;
    private const long Slow = 8 << 20;

    [Theory(Timeout = Limit)]
    [InlineData(1, false)]
    [InlineData(1, true)]
    [InlineData(2, true)]
    [InlineData(4, true)]
    public async Task ARunningGuestMovesWithoutLoss(int vcpus, bool longMode)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        using VirtualMachine source = TestMachine.Boot(kvm, vcpus, new GuestSettings { LongMode = longMode, PagesPerVcpu = 512 });
        _ = await source.HeartbeatsAsync();

        await using Migrate migrate = new(kvm, source, bandwidth: Slow);
        (VirtualMachine target, IncomingReport into, OutgoingReport from) = await migrate.RunAsync();
        using VirtualMachine disposing = target;
        _ = await target.HeartbeatsAsync();

        Assert.Equal(QemuSourceState.Completed, from.End);
        Assert.True(from.DirtyPages > 0);
        Assert.False(source.IsRunning);
        target.AssertSound();
        for (int i = 0; i < vcpus; i++)
        {
            Assert.Equal(source.Beats(i)[^1] + 1, target.Beats(i)[0]);
        }

        output.WriteLine($"{from.DirtyPages} pages dirty, {into.Completion.Faults.Requests} asked for, downtime {into.Downtime?.TotalMilliseconds:0.0} ms, {from.Statistics}");
    }

    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task TwentyHopsInARowLoseNothing(int vcpus)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        VirtualMachine machine = TestMachine.Boot(kvm, vcpus, new GuestSettings { PagesPerVcpu = 512, BeatInterval = 20_000_000 });
        _ = await machine.HeartbeatsAsync();
        for (int hop = 0; hop < 20; hop++)
        {
            using VirtualMachine source = machine;
            await using Migrate migrate = new(kvm, source);
            (machine, _, _) = await migrate.RunAsync();
            _ = await machine.HeartbeatsAsync();
            for (int i = 0; i < vcpus; i++)
            {
                Assert.Equal(source.Beats(i)[^1] + 1, machine.Beats(i)[0]);
            }
        }

        using (machine)
        {
            machine.AssertSound();
        }
    }

    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task AConnectionThatBreaksInPostcopyIsMadeAnew(int vcpus)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        using VirtualMachine source = TestMachine.Boot(kvm, vcpus);
        _ = await source.HeartbeatsAsync();

        await using Migrate migrate = new(kvm, source, passes: 0, bandwidth: Slow);
        Task<(VirtualMachine, IncomingReport, OutgoingReport)> running = migrate.RunAsync();
        VirtualMachine target = await migrate.In.Started.WaitAsync(TestMachine.Limit);
        migrate.Out.Source.BreakConnection();
        (_, IncomingReport into, OutgoingReport from) = await running;
        using VirtualMachine disposing = target;
        _ = await target.HeartbeatsAsync();

        Assert.Equal(QemuSourceState.Completed, from.End);
        Assert.InRange(from.Reconnections, 1, 5);
        Assert.True(into.Wire.LostConnections >= 1);
        target.AssertSound();
    }

    [Fact(Timeout = Limit)]
    public async Task AStateThatKvmDoesNotTakeLeavesTheGuestAtTheSource()
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        using VirtualMachine source = TestMachine.Boot(kvm, 2);
        _ = await source.HeartbeatsAsync();

        await using Migrate migrate = new(kvm, source, spoil: static s => s.Vcpus[1].Sregs.cr4 |= 1UL << 40);
        Task<IncomingReport> receiving = migrate.ReceiveAsync();
        OutgoingReport from = await migrate.SendAsync();
        VmmException refused = await Assert.ThrowsAsync<VmmException>(() => receiving);

        Assert.Equal(QemuSourceState.Failed, from.End);
        Assert.Contains("vCPU 1: this KVM does not take the state: KVM_SET_SREGS", refused.Message, StringComparison.Ordinal);
        _ = await source.HeartbeatsAsync();
        _ = await source.HeartbeatsAsync();
        source.AssertSound();
    }

    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task AConnectionThatBreaksInPrecopyLeavesTheGuestAtTheSource(int vcpus)
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        using VirtualMachine source = TestMachine.Boot(kvm, vcpus);
        _ = await source.HeartbeatsAsync();

        await using Migrate migrate = new(kvm, source, bandwidth: 1 << 20);
        Task<IncomingReport> receiving = migrate.ReceiveAsync();
        Task<OutgoingReport> sending = migrate.SendAsync();
        _ = await source.HeartbeatsAsync();
        migrate.Out.Source.BreakConnection();
        QemuIncomingException lost = await Assert.ThrowsAsync<QemuIncomingException>(() => receiving);

        Assert.Equal(QemuSourceState.Failed, (await sending).End);
        Assert.True(lost.SourceMayResume);
        _ = await source.HeartbeatsAsync();
        source.AssertSound();
    }

    /// <summary>Two running copies of one guest are worse than none.</summary>
    [Fact(Timeout = Limit)]
    public async Task AfterThePointOfNoReturnTheGuestNeverRunsAgainAtTheSource()
    {
        using KvmSystem kvm = Requires.Kvm();
        Requires.Userfaultfd();
        using VirtualMachine source = TestMachine.Boot(kvm, 2);
        _ = await source.HeartbeatsAsync();

        await using Migrate migrate = new(kvm, source, passes: 0, bandwidth: Slow);
        Task<IncomingReport> receiving = migrate.ReceiveAsync();
        Task<OutgoingReport> sending = migrate.SendAsync(reconnections: 2);
        VirtualMachine target = await migrate.In.Started.WaitAsync(TestMachine.Limit);
        await migrate.DestinationDiesAsync();
        Exception? lost = await Record.ExceptionAsync(() => target.Ended.WaitAsync(TestMachine.Limit));
        _ = await Record.ExceptionAsync(() => receiving);
        OutgoingReport from = await sending;

        Assert.NotEqual(QemuSourceState.Completed, from.End);
        Assert.False(source.IsRunning);

        // And at the destination nobody goes on with data that never came.
        _ = Assert.IsType<VmmException>(lost);
        Assert.Equal(0, target.UnhandledMmio);
    }
}
