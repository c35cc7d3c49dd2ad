using System.Globalization;
using Postcopy.Vmm.Guest;
using Postcopy.Vmm.Node;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Demo;

/// <summary>What happened to the guest, from what both VMMs wrote down: the second half of the screen.</summary>
internal static class DemoSummary
{
    /// <summary>Says it; true when nothing was lost.</summary>
    internal static bool Write(QemuProcess? qemu, NodeResult atA, NodeResult atB)
    {
        Console.WriteLine();
        foreach ((string name, NodeArrival arrival) in atA.Arrivals.Select(r => ("QEMU -> A", r)).Concat(atB.Arrivals.Select(r => ("A -> B", r))))
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{name,-10} {arrival.Pages + arrival.ZeroPages} pages ({arrival.PrecopyPages} before the switch), {arrival.FaultRequests} fetched because a vCPU touched them, postcopy took {arrival.DurationMs:0} ms"));
            string blocked = string.Join(", ", arrival.VcpuBlockedMs.Select((ms, i) => string.Create(CultureInfo.InvariantCulture, $"vCPU {i} {ms:0.0} ms")));
            blocked = string.Create(CultureInfo.InvariantCulture, $"stood still for pages: {blocked}; all at once {arrival.TotalBlockedMs:0.0} ms");
            string downtime = arrival.DowntimeMs is { } ms2 ? string.Create(CultureInfo.InvariantCulture, $"; for the switch {ms2:0.0} ms") : string.Empty;
            Console.WriteLine($"{string.Empty,-10} {blocked}{downtime}");
            foreach (string row in arrival.Timeline)
            {
                Console.WriteLine($"{string.Empty,-10} {row}");
            }
        }

        // Each stretch of heartbeats, from where it was printed.
        bool allThere = true;
        string[] untilA = qemu is null ? [.. atA.Lines] : Heartbeat.Join(qemu.Serial, atA.Lines);
        for (int i = 0; i < atB.Guest!.Touched.Length; i++)
        {
            int[] all = [.. Heartbeat.Of(i, untilA), .. atB.Beats(i)];
            bool whole = all.SequenceEqual(Enumerable.Range(1, all.Length));
            allThere &= whole;
            int atQemu = all.Length - atA.Beats(i).Length - atB.Beats(i).Length;
            int untilB = all.Length - atB.Beats(i).Length;
            string where = $"{(qemu is null ? string.Empty : $"QEMU 1-{atQemu}, ")}A {atQemu + 1}-{untilB}, B {untilB + 1}-{all.Length}";
            Console.WriteLine($"heartbeats vCPU {i}: {where}: {(whole ? "none lost, none twice" : "NOT in order: " + string.Join(' ', all))}");
        }

        NodeGuest guest = atB.Guest!;
        Console.WriteLine($"memory     {guest.CheckedPages - guest.WrongPages} of {guest.CheckedPages} pages right; the guest itself found {guest.Errors.Sum()} wrong in {guest.Touched.Sum()} touches");
        return allThere && guest.WrongPages == 0 && guest.Errors.Sum() == 0;
    }
}
