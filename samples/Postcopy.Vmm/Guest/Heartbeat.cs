using System.Globalization;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Guest;

/// <summary>A line of the guest: which vCPU, and its how many-th heartbeat.</summary>
internal readonly record struct Heartbeat(int Vcpu, int Count)
{
    private const int Length = 10;

    /// <summary>Reads a whole line; a line that began on another machine is not one.</summary>
    internal static bool TryParse(string line, out Heartbeat beat)
    {
        beat = default;
        if (line.Length != Length || line[0] is < '0' or >= (char)('0' + VirtualMachine.MostVcpus) || line[1] != ':' ||
            !int.TryParse(line.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int count))
        {
            return false;
        }

        beat = new Heartbeat(line[0] - '0', count);
        return true;
    }

    /// <summary>The heartbeats of one vCPU among lines.</summary>
    internal static int[] Of(int vcpu, IEnumerable<string> lines) =>
        [.. lines.Where(l => TryParse(l, out Heartbeat beat) && beat.Vcpu == vcpu).Select(l => TryParse(l, out Heartbeat beat) ? beat.Count : 0)];

    /// <summary>
    /// What the guest printed on two machines as one: QEMU keeps the beginning of a line that is finished elsewhere, for its
    /// serial port has no room for it in its state.
    /// </summary>
    internal static string[] Join(SerialPort first, IReadOnlyList<string> second) =>
        second.Count == 0 ? first.Lines : [.. first.Lines, first.Pending + second[0], .. second.Skip(1)];
}
