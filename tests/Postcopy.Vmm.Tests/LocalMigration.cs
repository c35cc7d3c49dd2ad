using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Tests;

/// <summary>A guest moved between two machines without a wire: everything is in the test's hands.</summary>
internal sealed class LocalMigration : IAsyncDisposable
{
    private LocalMigration(KvmSystem kvm, VirtualMachine source, TimeSpan delay)
    {
        Source = source;
        Before = source.Reports();
        Target = TestMachine.Create(kvm, source.Vcpus.Count);
        Destination = new PostcopyDestination(new PostcopyOptions { Blocktime = new BlocktimeOptions() });
        Block = Destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = Target.Ram });
        Pages = new LocalSource(source.Ram, Destination.Placer, delay);
    }

    internal VirtualMachine Source { get; }

    internal VirtualMachine Target { get; }

    internal PostcopyDestination Destination { get; }

    internal RamBlock Block { get; }

    internal LocalSource Pages { get; }

    /// <summary>What the guest said of itself when it was stopped.</summary>
    internal GuestReport[] Before { get; }

    /// <summary>Boots a guest, stops it after a heartbeat, and has it ready to run elsewhere, with every page missing.</summary>
    internal static async Task<LocalMigration> StartAsync(KvmSystem kvm, int vcpus, GuestSettings settings, TimeSpan delay = default)
    {
        VirtualMachine source = TestMachine.Boot(kvm, vcpus, settings);
        _ = await source.HeartbeatsAsync();
        source.Stop(TestMachine.Limit);
        LocalMigration migration = new(kvm, source, delay);
        migration.Destination.Advise();
        migration.Target.Restore([.. source.Save().Select(s => VcpuState.Decode(s.Encode()))]);
        migration.Target.Serial.Pending = source.Serial.Pending;
        migration.Destination.Listen(migration.Pages);
        migration.Destination.Run();
        return migration;
    }

    /// <summary>Runs the guest at the destination.</summary>
    internal void Run() => Target.Start(v => Destination.Blocktime!.AddVcpu(HostThread.CurrentId, v.Index.ToString(CultureInfo.InvariantCulture)));

    /// <summary>Sends what the guest did not ask for, and waits for the end.</summary>
    internal Task<CompletionReport> CompleteAsync()
    {
        Pages.SendRest(Block);
        return Destination.CompleteAsync();
    }

    public async ValueTask DisposeAsync()
    {
        await Destination.CloseAsync(MissingPagePolicy.Poison);
        if (Target.IsRunning)
        {
            Target.Stop(TestMachine.Limit);
        }

        Pages.Dispose();
        Target.Dispose();
        Source.Dispose();
    }
}
