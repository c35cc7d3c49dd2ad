namespace Postcopy.Uffd;

/// <content>One fault message, from "is it known?" to the request.</content>
internal sealed unsafe partial class FaultReader
{
    private const int DuplicatesOfAStorm = 256;
    private const int DuplicatesPerFault = 64;
    private const long FirstStormPause = 20_000;
    private const long LongestStormPause = 200_000;

    private int _duplicates;
    private long _stormPause;

    private void Serve(FaultSource source, in UffdMessage message, long readAt)
    {
        Count(Counter.Messages);

        // Some kernels give the exact address unasked: the page is found by shifting, never by trusting alignment.
        if (!source.Map.TryFind(message.Address, out RamBlock? block, out long offset) || (message.Flags & UffdPagefaultFlags.WriteProtect) != 0)
        {
            Count(Counter.Unknown);
            return;
        }

        long page = block!.PageSize.IndexOf(offset);
        if (!block.Received.Test(page) && ServeMissing(source, block, page, message.ThreadId, readAt))
        {
            return;
        }

        ServeReceived(new Parked(source, block, page, (message.Flags & UffdPagefaultFlags.Minor) != 0, message.ThreadId, readAt, Since: 0, Staged: false));
    }

    /// <summary>
    /// The page is missing. First the stall is published, then the request bit, then received is looked at again: the
    /// partner is PostcopyPlacer.Commit, which sets received and then looks at requested. TestAndSet is a full fence.
    /// Model: tests/models/fault.pml.
    /// </summary>
    /// <returns>False when the page was received meanwhile.</returns>
    private bool ServeMissing(FaultSource source, RamBlock block, long page, uint threadId, long readAt)
    {
        nuint address = block.HostAddress + (nuint)(page << block.PageSize.Shift);
        BlocktimeTicket ticket = _blocktime is null ? default : _blocktime.Begin(threadId, address, readAt, _wokeAt).Ticket;
        InterleavingPoint.Yield("fault.begun");
        bool requested = block.Requested.TestAndSet(page);
        InterleavingPoint.Yield("fault.requested");
        if (block.Received.Test(page))
        {
            if (!requested)
            {
                // We set the bit and ask for nothing: the request stays owed. A discard may be forgetting the page right now,
                // and have cleared "requested" already; its next fault would be taken for a repetition.
                _ = block.Unsent.TestAndSet(page);
            }

            _blocktime?.Cancel(ticket);
            return false;
        }

        _blocktime?.Confirm(ticket);

        // Also when it is requested: asked for ahead of its touch, and staged since, nobody placed it, because nobody waited.
        bool staged = _placer.TryPlaceStaged(block, page, patient: true);
        if (staged && !block.Received.Test(page))
        {
            KeepTrying(new Parked(source, block, page, Minor: false, threadId, readAt, Since: 0, Staged: true), owed: !requested);
        }

        if (requested)
        {
            if (!staged && block.Unsent.Test(page))
            {
                // Owed, and perhaps in no queue: see above.
                Volatile.Write(ref _sweepWanted, 1);
            }

            if (!staged)
            {
                Watch(new Parked(source, block, page, Minor: false, threadId, readAt, Since: 0, Staged: true));
            }

            CountDuplicate();
            Trace?.Add(block, page, threadId, FaultTraceKind.Duplicate, readAt);
            return true;
        }

        _duplicates = Math.Max(0, _duplicates - DuplicatesPerFault);

        // Or its channel has just placed it: found in no window any more. It set "received" after we set "requested", so it saw us.
        staged = staged || block.Received.Test(page);
        if (!staged)
        {
            Request(block, page);
            Watch(new Parked(source, block, page, Minor: false, threadId, readAt, Since: 0, Staged: true));
        }

        Trace?.Add(block, page, threadId, staged ? FaultTraceKind.Staged : FaultTraceKind.Requested, readAt);
        return true;
    }

    /// <summary>
    /// A page that a channel has received, and that could not be placed this moment. Its channel has it in hand, places it with
    /// the rest, or waits for more of the stream by now: so it is tried again by the clock.
    /// </summary>
    private void KeepTrying(in Parked fault, bool owed)
    {
        if (owed)
        {
            // We set "requested" and ask for nothing. Should the page be thrown away meanwhile, the request is still to be made.
            _ = fault.Block.Unsent.TestAndSet(fault.Page);
        }

        if (!IsParked(fault))
        {
            ParkAgain(fault, PlaceOutcome.AddressSpaceChanging, retry: false);
        }
    }

    /// <summary>
    /// Where faults wait for whole stretches, each is looked after by the clock: should its stretch not get full, because the channel
    /// waits in the middle of a record, what has come is placed.
    /// </summary>
    private void Watch(in Parked fault)
    {
        if (!_placer.KeepsAwaited(fault.Block) || IsParked(fault))
        {
            return;
        }

        if (_parkedCount == 0)
        {
            _retryPause = FirstRetry;
            _retryAt = Now() + FirstRetry;
        }

        Park(fault);
    }

    private void RetryStaged(in Parked fault)
    {
        long now = Now();
        bool staged = _placer.TryPlaceStaged(fault.Block, fault.Page, patient: fault.Since == 0 || now - fault.Since < _placer.StretchPatienceNanoseconds);
        if (fault.Block.Received.Test(fault.Page))
        {
            return;
        }

        if (!staged && fault.Block.Unsent.Test(fault.Page))
        {
            Volatile.Write(ref _sweepWanted, 1);
        }

        if (staged || _placer.KeepsAwaited(fault.Block))
        {
            // The patience begins when the page is first found.
            Park(staged && fault.Since == 0 ? fault with { Since = now } : fault);
        }
    }

    private void CountDuplicate()
    {
        Count(Counter.Duplicates);
        _duplicates++;
    }

    /// <summary>
    /// A signal that stays pending makes the kernel repeat a fault of kernel mode 300 000 times a second (hazard H2):
    /// one message a read, each awaited by nobody. While nearly everything is repetition the reader lets a little time
    /// pass before each read; the kernel keeps one message a thread meanwhile.
    /// </summary>
    private void PauseInStorm()
    {
        if (_duplicates < DuplicatesOfAStorm)
        {
            _stormPause = 0;
            return;
        }

        _duplicates = DuplicatesOfAStorm;
        _stormPause = Math.Clamp(_stormPause * 2, FirstStormPause, LongestStormPause);
        Interop.Libc.Pause(_stormPause);
    }

    /// <summary>Received, and yet a thread waits: see <see cref="PostcopyPlacer.ResolveReceived"/>.</summary>
    private void ServeReceived(in Parked fault)
    {
        if (_parkedCount > 0 && IsParked(fault))
        {
            // Its stall may have been ended by an event since, with a wake; the retry ends this one. A repetition begins none.
            nuint address = fault.Block.HostAddress + (nuint)(fault.Page << fault.Block.PageSize.Shift);
            _blocktime?.Confirm(_blocktime.Begin(fault.ThreadId, address, fault.ReadAt).Ticket);
            CountDuplicate();
            Trace?.Add(fault.Block, fault.Page, fault.ThreadId, FaultTraceKind.Duplicate, fault.ReadAt);
            return;
        }

        Settle(fault, retry: false);
    }

    private void Settle(in Parked fault, bool retry)
    {
        RamBlock block = fault.Block;
        nuint address = block.HostAddress + (nuint)(fault.Page << block.PageSize.Shift);
        BlocktimeTicket ticket = retry || _blocktime is null ? default : _blocktime.Begin(fault.ThreadId, address, fault.ReadAt).Ticket;
        PlaceOutcome outcome = fault.Source.IsPrimary
            ? _placer.ResolveReceived(block, fault.Page, fault.Minor)
            : SettleMirror(fault);
        switch (outcome)
        {
            case PlaceOutcome.AddressSpaceChanging:
            case PlaceOutcome.OutOfMemory:
            case PlaceOutcome.OutOfHugePages:
                _blocktime?.Confirm(ticket);

                ParkAgain(fault, outcome, retry);
                return;
            case PlaceOutcome.Placed:
                // The thread did stand still: from the message to the zero page.
                Count(Counter.ZeroFilled);
                Trace?.Add(block, fault.Page, fault.ThreadId, FaultTraceKind.ZeroFilled, fault.ReadAt);
                _blocktime?.Confirm(ticket);

                break;
            default:
                // The page was there, or the thread was woken to look again: no stall of its own.
                Count(Counter.AlreadyReceived);
                Trace?.Add(block, fault.Page, fault.ThreadId, FaultTraceKind.AlreadyReceived, fault.ReadAt);
                _blocktime?.Cancel(ticket);

                break;
        }

        _blocktime?.End(address, (nuint)block.PageSize.Bytes, _blocktime.Now());
    }

    private void ParkAgain(in Parked fault, PlaceOutcome outcome, bool retry)
    {
        long now = Now();
        Parked parked = fault;
        if (!retry)
        {
            Count(Counter.Parked);
            Trace?.Add(fault.Block, fault.Page, fault.ThreadId, FaultTraceKind.Parked, fault.ReadAt);
            parked = fault with { Since = now };
            if (_parkedCount == 0 || _placer.KeepsAwaited(fault.Block))
            {
                // Who only waits for a stretch is no reason to be slow.
                _retryPause = FirstRetry;
                _retryAt = now + FirstRetry;
            }
        }
        else if (outcome == PlaceOutcome.OutOfHugePages && now - fault.Since > _placer.Deadline.TotalNanoseconds)
        {
            // Said aloud, and tried on: a pool that is filled again gives the thread its page.
            _observer.OnUnservable(fault.Block, fault.Page << fault.Block.PageSize.Shift, outcome);
            parked = fault with { Since = now };
        }

        Park(parked);
    }

    /// <summary>
    /// A thread of another process, whose own descriptor maps the same memory. What is in the page cache is mapped
    /// there; what is not was thrown away, and comes back as zeros through our own mapping.
    /// </summary>
    private PlaceOutcome SettleMirror(in Parked fault)
    {
        nuint length = (nuint)fault.Block.PageSize.Bytes;
        if (!fault.Source.Map.TryFindAddress(fault.Block, out nuint start))
        {
            return PlaceOutcome.NotRegistered;
        }

        start += (nuint)(fault.Page << fault.Block.PageSize.Shift);
        if (!fault.Minor)
        {
            PlaceOutcome outcome = _placer.ResolveReceived(fault.Block, fault.Page, minor: false);
            return outcome == PlaceOutcome.NotRegistered ? PlaceOutcome.AddressSpaceChanging : outcome;
        }

        switch (fault.Source.Kernel.Continue(start, length, UffdPlaceFlags.None).Outcome)
        {
            case UffdOutcome.Done:
                return PlaceOutcome.AlreadyPresent;
            case UffdOutcome.AddressSpaceChanging:
                return PlaceOutcome.AddressSpaceChanging;
            case UffdOutcome.TargetGone:
                return PlaceOutcome.TargetGone;
            default:
                _ = fault.Source.Kernel.Wake(start, length);
                return PlaceOutcome.AlreadyPresent;
        }
    }
}
