namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>QEMU's own destination.</summary>
internal sealed class QemuDestination : IDestinationProcess
{
    internal QemuDestination(long bytes, bool preempt = false, string? disk = null)
    {
        Machine = QemuMachine.Destination(bytes, disk);
        Uri = Machine.Listen(preempt);
    }

    internal QemuMachine Machine { get; }

    public string Uri { get; }

    public int ProcessId => Machine.ProcessId;

    public ulong[] Stalls => [];

    public IReadOnlyDictionary<string, double> Figures { get; } = new Dictionary<string, double>();

    public void WaitForCompletion() => _ = Machine.WaitForCompletion();

    public void Dispose() => Machine.Dispose();
}
