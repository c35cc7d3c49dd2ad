using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd;

/// <content>
/// Events of the address space, applied under the layout gate. Memory that the host throws away reads as zeros from
/// then on, so its pages count as received: the source need not send them, and what it sends is dropped (hazard H5).
/// A thread that waits for one is woken, faults again, and is given zeros.
/// </content>
internal sealed unsafe partial class FaultReader
{
    private void ApplyEvents(FaultSource source, ReadOnlySpan<UffdMessage> batch)
    {
        foreach (ref readonly UffdMessage message in batch)
        {
            switch (message.Event)
            {
                case UffdEvent.Pagefault:
                    continue;
                case UffdEvent.Remove:
                case UffdEvent.Unmap:
                    Removed(source, message.Range);
                    break;
                case UffdEvent.Remap:
                    Remapped(source, message.RemapFrom, message.RemapTo, message.RemapLength);
                    break;
                case UffdEvent.Fork:
                    // The child's descriptor is ours now; guest memory is MADV_DONTFORK, so there is nothing to serve.
                    new SafeFileHandle((nint)message.ForkDescriptor, ownsHandle: true).Dispose();
                    break;
            }

            Count(Counter.Events);
        }
    }

    private void Removed(FaultSource source, AddressRange range)
    {
        if (!source.IsPrimary)
        {
            // Another process let go of its view: the memory is as it was, and only its own waiters have to look again.
            _ = source.Kernel.Wake(range.Start, range.Length);
            return;
        }

        IReadOnlyList<AddressMap.Entry> entries = source.Map.Entries;
        for (int i = 0; i < entries.Count; i++)
        {
            AddressMap.Entry entry = entries[i];
            AddressRange common = entry.Range.Intersect(range);
            RamBlock block = entry.Block;
            long start = (long)(common.Start - entry.Range.Start);
            long end = start + (long)common.Length;
            if (common.Length == 0 || block.IsOwnDiscard(start, end))
            {
                continue;
            }

            // Only whole pages are gone; a huge page that is partly removed stays as it is.
            long first = block.PageSize.IndexOf(start + block.PageSize.Bytes - 1);
            long last = block.PageSize.IndexOf(end);
            if (last <= first)
            {
                continue;
            }

            // Whoever waits for one of them waits for the source no more, here and in every mirror: its stall ends now, and
            // what it waits for from its next touch on is another one.
            long from = first << block.PageSize.Shift;
            long length = (last - first) << block.PageSize.Shift;
            _ = block.MarkReceived(first, last - first);
            block.WakeEverywhere(from, length);
            _blocktime?.End(block.HostAddress + (nuint)from, (nuint)length, _blocktime.Now());
            _placer.Observer?.OnPlaced(block, awaited: true);
        }
    }

    private void Remapped(FaultSource source, nuint from, nuint to, nuint length)
    {
        IReadOnlyList<AddressMap.Entry> entries = source.Map.Entries;
        AddressRange moved = new(from, length);
        bool any = false;
        for (int i = 0; i < entries.Count; i++)
        {
            AddressMap.Entry entry = entries[i];
            if (!entry.Range.Overlaps(moved))
            {
                continue;
            }

            if (!source.IsPrimary || entry.Range.Intersect(moved) != entry.Range || entry.Block.Primary is not { } mapping)
            {
                _observer.OnUnservable(entry.Block, (long)(from - entry.Range.Start), PlaceOutcome.NotRegistered);
                continue;
            }

            entry.Block.MoveTo(to + (entry.Range.Start - from));
            entry.Block.Attach(mapping.Kernel, mapping.Modes, mapping.Operations);
            any = true;
        }

        if (any)
        {
            _registry.Refresh();
        }

        // No placement reaches the old addresses any more: who waits there touches them again, and its stall ends now.
        _ = source.Kernel.Wake(from, length);
        _blocktime?.End(from, length, _blocktime.Now());
    }
}
