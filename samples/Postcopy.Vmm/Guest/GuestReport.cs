using System.Buffers.Binary;
using Postcopy.Uffd;
using Postcopy.Vmm.Machine;

namespace Postcopy.Vmm.Guest;

/// <summary>A gap in the guest's time-stamp counter while it walked.</summary>
internal readonly record struct GuestGap(ulong Start, ulong Length);

/// <summary>What one vCPU of the guest says about itself, in its memory (guest.S, STATE and RING).</summary>
internal sealed record GuestReport(int Index, uint Pass, ulong Touched, uint Errors, uint GapCount, ulong GapSum, uint Beats, uint BadPage, GuestGap[] Gaps)
{
    private const ulong State = 0x5000;
    private const int StateBytes = 0x100;
    private const long Ring = 0x10000;
    private const int RingEntries = 256;
    private const int EntryBytes = 16;

    /// <summary>
    /// Which of the guest's vCPUs this one is, for one that walks in long mode: they number themselves in the order in which
    /// they arrive, and keep the address of their state in r13.
    /// </summary>
    internal static int IndexOf(VcpuState state) => (int)((state.Regs.r13 - State) / StateBytes);

    /// <summary>Reads it; waits for the pages when they are missing.</summary>
    internal static GuestReport Read(GuestMemory memory, int index)
    {
        byte[] state = new byte[StateBytes];
        memory.Read((long)State + (index * StateBytes), state);
        byte[] ring = new byte[RingEntries * EntryBytes];
        memory.Read(Ring + (index * ring.Length), ring);
        uint count = U32(state, 0x18);
        GuestGap[] gaps = [.. Enumerable.Range(0, (int)Math.Min(count, RingEntries)).Select(i =>
            new GuestGap(U64(ring, i * EntryBytes), U64(ring, (i * EntryBytes) + 8)))];
        return new GuestReport(index, U32(state, 0), U64(state, 8), U32(state, 0x10), count, U64(state, 0x20), U32(state, 0x28), U32(state, 0x40), gaps);
    }

    private static uint U32(byte[] from, int at) => BinaryPrimitives.ReadUInt32LittleEndian(from.AsSpan(at));

    private static ulong U64(byte[] from, int at) => BinaryPrimitives.ReadUInt64LittleEndian(from.AsSpan(at));
}
