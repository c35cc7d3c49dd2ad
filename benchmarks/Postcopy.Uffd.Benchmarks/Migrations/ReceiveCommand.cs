using System.CommandLine;

namespace Postcopy.Uffd.Benchmarks.Migrations;

/// <summary>Our destination as a process of its own; the rows that need QEMU start it.</summary>
internal static class ReceiveCommand
{
    internal const string Name = "receive";

    internal static Command Build()
    {
        Option<string?> order = new("--order") { HelpName = "FILE", Description = "Pages to touch, as 32-bit numbers" };
        Option<int> touches = new("--touches") { HelpName = "N", Description = "How many of them" };
        Option<int> touchers = new("--touchers") { HelpName = "N", Description = "Threads that touch everything in random orders" };
        Option<bool> preempt = new("--preempt") { Description = "The source has postcopy-preempt" };
        Option<bool> copy = new("--copy") { Description = "No huge pages" };
        Option<bool> whole = new("--whole") { Description = "Faults ask for 2 MiB" };
        Option<bool> collapse = new("--collapse") { Description = "Huge pages afterwards" };
        Command command = new(Name, "Receives one migration and says how it went") { order, touches, touchers, preempt, copy, whole, collapse };
        command.Hidden = true;
        command.SetAction(parsed => new ReceivingChild
        {
            Order = parsed.GetValue(order),
            Count = parsed.GetValue(touches),
            Touchers = parsed.GetValue(touchers),
            Preempt = parsed.GetValue(preempt),
            Collapse = parsed.GetValue(collapse),
            Placer = new PlacerOptions { Stretches = parsed.GetValue(copy) ? StretchPlacement.Off : parsed.GetValue(whole) ? StretchPlacement.WholeOnFault : StretchPlacement.Auto },
        }.Run());
        return command;
    }
}
