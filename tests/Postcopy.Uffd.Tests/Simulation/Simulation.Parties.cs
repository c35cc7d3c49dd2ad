using System.Runtime.InteropServices;

namespace Postcopy.Uffd.Tests.Simulation;

/// <content>The parties of a schedule: vCPUs, channels with their staging, source, link, and who throws pages away.</content>
internal sealed unsafe partial class Simulation
{
    private void Run(FakeVcpu vcpu)
    {
        int page = vcpu.Page;
        if (vcpu.Run() is { } seen)
        {
            bool unsure = _kernel.Removals.Any(r => r.Covers(page));
            bool right = _thrownAway[page] ? seen == 0 : seen == ContentAtSource(page);
            Assert.True(right || unsure, $"Page {page} reads {seen}; thrown away: {_thrownAway[page]}.");
        }
    }

    private void Deliver(int index)
    {
        (int page, int count) = _inFlight[index];
        _inFlight.RemoveAt(index);
        if (!Place(page, count))
        {
            _inFlight.Add((page, count));
        }
    }

    private readonly List<(int Page, int Count)> _staged = [];

    /// <summary>A channel has read pages and places them later: until then the fault thread may.</summary>
    private void Stage(int index)
    {
        (int page, int count) = _inFlight[index];
        if (_window!.Count + count > StagingWindow.DefaultCapacity || _staged.Exists(s => s.Page < page + count && page < s.Page + s.Count))
        {
            return;
        }

        _inFlight.RemoveAt(index);
        _staged.Add((page, count));
        for (int i = page; i < page + count; i++)
        {
            nuint source = _staging + (nuint)((long)i << _block.PageSize.Shift);
            Marshal.WriteInt64((nint)source, ContentAtSource(i));
            _window.Add(_block, (long)i << _block.PageSize.Shift, ContentAtSource(i) == 0 ? 0 : source);
        }
    }

    /// <summary>Before everything that must not find anything staged (hazard H44); what the kernel refused arrives again.</summary>
    private void Flush()
    {
        if (_staged.Count == 0 || _inPlacement)
        {
            return;
        }

        _inPlacement = true;
        _deliveries++;
        PlaceResult result = _window!.Flush();
        _inPlacement = false;
        Assert.True(result.IsReceived || result.Outcome is PlaceOutcome.AddressSpaceChanging or PlaceOutcome.OutOfMemory, result.ToString());
        _inFlight.AddRange(_staged.Where(s => Enumerable.Range(s.Page, s.Count).Any(i => !_block.Received.Test(i))));
        _staged.Clear();
    }

    private bool Place(int page, int count)
    {
        if (_inPlacement)
        {
            return false;
        }

        _inPlacement = true;
        _deliveries++;
        bool done = true;
        for (int at = page; at < page + count && done;)
        {
            // Neighbours of one kind together: what the kernel does of a run may be a part.
            bool zero = ContentAtSource(at) == 0;
            int run = 0;
            while (at + run < page + count && run < LongestRun && (ContentAtSource(at + run) == 0) == zero)
            {
                Marshal.WriteInt64((nint)_source + (nint)((long)run << _block.PageSize.Shift), ContentAtSource(at + run));
                run++;
            }

            long offset = (long)at << _block.PageSize.Shift;
            PlaceResult result = zero
                ? _placer.PlaceZero(_block, offset, (long)run << _block.PageSize.Shift)
                : _placer.Place(_block, offset, _source, (long)run << _block.PageSize.Shift);
            Assert.True(result.IsReceived || result.Outcome is PlaceOutcome.AddressSpaceChanging or PlaceOutcome.OutOfMemory ||
                (result.Outcome == PlaceOutcome.OutOfHugePages && _memory.Pool <= 0) || (result.Outcome == PlaceOutcome.TargetGone && _kernel.TargetGone), result.ToString());
            done = result.IsReceived;
            at += run;
        }

        _inPlacement = false;
        return done;
    }

    /// <summary>A placer that pauses holds nothing: time passes for it, and the reader may have its turn.</summary>
    private void WhileAPlacerPauses()
    {
        _placerClock.Advance(1_000_000);
        if (_random.Next(2) == 0)
        {
            Turn();
        }
    }

    private void Interleaved()
    {
        if (_inPlacement && !_inTurn && _random.Next(3) == 0)
        {
            foreach (FakeVcpu vcpu in _vcpus.Where(v => v.IsRunnable && _random.Next(2) == 0))
            {
                Run(vcpu);
            }

            Turn();
        }
    }

    /// <summary>The other party of a race gets its turn in the middle of this one.</summary>
    private void AtAPoint(string place)
    {
        if (_atAPoint || _random.Next(8) != 0 || !(place.StartsWith("fault.", StringComparison.Ordinal) || place.StartsWith("place.", StringComparison.Ordinal)))
        {
            return;
        }

        _atAPoint = true;
        if (_inTurn && !_inPlacement)
        {
            // Pages that somebody waits for, or any.
            FakeVcpu vcpu = _vcpus[_random.Next(_vcpus.Count)];
            _ = Place(vcpu.IsIdle ? _random.Next(Pages) : vcpu.Page, 1);
        }
        else if (_inPlacement && !_inTurn && !_host.FollowEvents)
        {
            foreach (FakeVcpu vcpu in _vcpus.Where(v => v.IsRunnable))
            {
                Run(vcpu);
            }

            Turn();
        }

        _atAPoint = false;
    }

    private void Relink()
    {
        Flush();
        _linked = !_linked;
        if (_linked)
        {
            Array.Clear(_asked);
        }
        else
        {
            _inFlight.Clear();
        }

        _reader.SetRequester(_linked ? this : null);
    }

    /// <summary>As PostcopyDestination.RequestMissing does.</summary>
    private void Prefetch(int page, int count)
    {
        for (int i = page; i < page + count;)
        {
            int first = i;
            while (i < page + count && !_block.Received.Test(i) && !_block.Requested.TestAndSet(i))
            {
                i++;
            }

            if (i == first)
            {
                i++;
                continue;
            }

            _reader.Prefetch(_block, first, i - first);
        }
    }

    private void Discard(int page, int count)
    {
        Flush();
        for (int i = page; i < page + count; i++)
        {
            if (_block.Received.Test(i))
            {
                _thrownAway[i] = false;
                _asked[i] = 0;
            }

            _memory.Zap(i);
        }

        // What was asked for before does not come any more: the source begins anew with these pages.
        _ = _inFlight.RemoveAll(f => f.Page < page + count && page < f.Page + f.Count && RequeueOthers(f, page, count));
        _block.Discard(new PageRange((long)page << _block.PageSize.Shift, (long)count << _block.PageSize.Shift));
    }

    /// <summary>Keeps a flight when some page of it is still waited for: only received pages were forgotten.</summary>
    private bool RequeueOthers((int Page, int Count) flight, int page, int count)
    {
        _ = (page, count);
        for (int i = flight.Page; i < flight.Page + flight.Count; i++)
        {
            if (_asked[i] != 0)
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Without events: madvise behind the library's back on received pages, which read as zeros from then on.</summary>
    private void StartPlainRemoval(int page, int count)
    {
        if (_host.FollowEvents)
        {
            return;
        }

        for (int i = page; i < page + count; i++)
        {
            if (_block.Received.Test(i))
            {
                _memory.Zap(i);
                _thrownAway[i] = true;
            }
        }
    }

    private readonly List<FakeKernel.Removal> _seenRemovals = [];

    private void ForgetRemovals()
    {
        foreach (FakeKernel.Removal removal in _seenRemovals.Where(r => !_kernel.Removals.Contains(r)))
        {
            for (int i = removal.First; i < removal.First + removal.Count; i++)
            {
                _thrownAway[i] = true;
            }
        }

        _seenRemovals.Clear();
        _seenRemovals.AddRange(_kernel.Removals);
    }
}
