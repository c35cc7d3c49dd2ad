using System.Runtime.InteropServices;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Guest;

/// <summary>The guest's memory seen from outside, page by page; for a guest that does not run.</summary>
internal sealed record MemoryCheck(long Pages, long Wrong, string? FirstWrong)
{
    /// <summary>
    /// Each page must hold its own address, and the counter of this pass or, behind the place where its vCPU stands, of
    /// the last one.
    /// </summary>
    internal static MemoryCheck Run(VirtualMachine machine)
    {
        GuestSettings settings = GuestSettings.Read(machine.Ram);
        long pages = 0;
        long wrong = 0;
        string? first = null;
        uint[] words = new uint[GuestSettings.PageBytes / sizeof(uint)];
        foreach (Vcpu vcpu in machine.Vcpus.Where(v => !v.Halted))
        {
            GuestReport report = GuestReport.Read(machine.Ram, vcpu.Index);
            bool behind = false;
            for (long i = 0; i < settings.PagesPerVcpu; i++)
            {
                long address = settings.Base + ((((long)vcpu.Index * settings.PagesPerVcpu) + i) * GuestSettings.PageBytes);
                machine.Ram.Read(address, MemoryMarshal.AsBytes(words.AsSpan()));
                behind |= words[0] != report.Pass;
                bool reached = words[0] > 0;
                bool right = words[0] == (behind ? report.Pass - 1 : report.Pass)
                    && (!reached || words[2] == (uint)address)
                    && (words.AsSpan(3).IndexOfAnyExcept((uint)address) < 0 || (settings.Fills && !reached));
                pages++;
                wrong += right ? 0 : 1;
                first ??= right ? null : $"vCPU {vcpu.Index}, address 0x{address:x}: counter {words[0]} in pass {report.Pass}, tag 0x{words[2]:x}";
            }
        }

        return new MemoryCheck(pages, wrong, first);
    }

    public override string ToString() => Wrong == 0 ? $"{Pages} pages right" : $"{Wrong} of {Pages} pages wrong, first {FirstWrong}";
}
