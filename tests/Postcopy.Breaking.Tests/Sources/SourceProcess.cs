using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>How a source of a run is started; crosses the command line.</summary>
internal sealed record SourcePlan(string Address, string MemoryFile, QemuPreemptMode Preempt, int PrecopyPasses, bool PointOfNoReturn, bool Checksums, long Bandwidth)
{
    /// <summary>Small enough for many runs; two blocks, so that a recovery asks for two bitmaps.</summary>
    internal static SourceRamBlock[] Blocks => [new SourceRamBlock("pc.ram", 6 << 20), new SourceRamBlock("pc.bios", 256 << 10)];

    internal string[] Arguments(bool recover) =>
        [Address, MemoryFile, $"{Preempt}", $"{PrecopyPasses}", $"{PointOfNoReturn}", $"{Checksums}", Bandwidth.ToString(CultureInfo.InvariantCulture), $"{recover}"];

    internal static (SourcePlan Plan, bool Recover) Parse(string[] a) => (
        new SourcePlan(a[0], a[1], Enum.Parse<QemuPreemptMode>(a[2]), int.Parse(a[3], CultureInfo.InvariantCulture), bool.Parse(a[4]), bool.Parse(a[5]),
            long.Parse(a[6], CultureInfo.InvariantCulture)), bool.Parse(a[7]));

    internal QemuSourceOptions Options => new()
    {
        Preempt = Preempt, PrecopyPasses = PrecopyPasses, PrecopyLimit = 2 << 20, UsePointOfNoReturn = PointOfNoReturn, PageChecksums = Checksums,
        BackgroundBandwidth = Bandwidth, DeviceSections = new byte[32 << 10],
    };
}

/// <summary>A source in a process of its own, which is killed, or brings the migration to its end.</summary>
internal static class SourceProcess
{
    internal static ChildProcess Start(SourcePlan plan, bool recover) => ChildProcess.Start(Run, Receiver.Budget, plan.Arguments(recover));

    private static void Run(ChildScenario child)
    {
        (SourcePlan plan, bool recover) = SourcePlan.Parse(child.Arguments);
        using FileMemory memory = new(plan.MemoryFile, SourcePlan.Blocks);
        QemuSource source = recover ? QemuSource.ForRecovery(memory, plan.Options) : new QemuSource(memory, plan.Options);
        Func<MigrationChannel>? urgent = plan.Preempt == QemuPreemptMode.None ? null : () => Connect(plan.Address);
        child.Say("connecting");
        QemuSourceState end = (recover ? source.ResumeAsync(Connect(plan.Address), urgent) : source.RunAsync(Connect(plan.Address), urgent)).GetAwaiter().GetResult();
        child.Say($"{end} {source.Error?.Message.ReplaceLineEndings(" ")}");
    }

    private static MigrationChannel Connect(string address)
    {
        EndPoint end = MigrationAddress.Parse(address);
        bool unix = end.AddressFamily == AddressFamily.Unix;
        Socket socket = new(end.AddressFamily, SocketType.Stream, unix ? ProtocolType.Unspecified : ProtocolType.Tcp);
        if (!unix)
        {
            socket.NoDelay = true;
        }

        socket.Connect(end);
        return MigrationChannel.FromSocket(socket);
    }
}
