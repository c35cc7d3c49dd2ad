namespace Postcopy.Uffd;

/// <summary>
/// Finds a slot by thread id: an open-addressed table that is never changed, only replaced, so that the fault reader
/// looks things up without a lock while vCPUs come and go.
/// </summary>
internal sealed class ThreadTable
{
    internal static readonly ThreadTable Empty = new([]);

    private readonly uint[] _keys;
    private readonly VcpuSlot?[] _slots;
    private readonly int _shift;

    internal ThreadTable(IReadOnlyCollection<VcpuSlot> slots)
    {
        // At most a quarter full: most look-ups end at the first probe.
        int bits = 3;
        while ((1 << bits) < slots.Count * 4)
        {
            bits++;
        }

        _shift = 32 - bits;
        _keys = new uint[1 << bits];
        _slots = new VcpuSlot?[1 << bits];
        foreach (VcpuSlot slot in slots)
        {
            int i = Start(slot.ThreadId);
            while (_slots[i] is not null)
            {
                i = (i + 1) & (_keys.Length - 1);
            }

            _keys[i] = slot.ThreadId;
            _slots[i] = slot;
        }
    }

    internal VcpuSlot? Find(uint threadId)
    {
        int i = Start(threadId);
        while (true)
        {
            VcpuSlot? slot = _slots[i];
            if (slot is null || _keys[i] == threadId)
            {
                return slot;
            }

            i = (i + 1) & (_keys.Length - 1);
        }
    }

    private int Start(uint threadId) => (int)(unchecked(threadId * 0x9E3779B9u) >> _shift);
}
