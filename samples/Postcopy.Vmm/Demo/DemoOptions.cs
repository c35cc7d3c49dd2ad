namespace Postcopy.Vmm.Demo;

/// <summary>What the demo does.</summary>
/// <param name="Vcpus">vCPUs of the guest.</param>
/// <param name="LongMode">The guest is in long mode, or else in protected mode.</param>
/// <param name="FromQemu">It begins in QEMU, or else in VMM A.</param>
/// <param name="TimelineFile">Where the picture of the stalls on VMM B goes; null for nowhere.</param>
internal sealed record DemoOptions(int Vcpus, bool LongMode, bool FromQemu, string? TimelineFile)
{
    internal const int Megabytes = 32;

    internal string Mode => LongMode ? "long" : "protected";

    internal string Route => FromQemu ? "QEMU -> VMM A -> VMM B" : "VMM A -> VMM B";
}
