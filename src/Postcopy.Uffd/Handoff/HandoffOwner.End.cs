namespace Postcopy.Uffd;

/// <content>The end: complete, or closed with pages missing.</content>
public sealed partial class HandoffOwner
{
    /// <summary>
    /// Everything is there: unregisters the memory and tells the handler so. It is ordinary memory again.
    /// </summary>
    /// <exception cref="PostcopyIncompleteException">A page is missing; nothing was changed.</exception>
    /// <exception cref="InvalidOperationException">The memory is not registered.</exception>
    public void Complete()
    {
        lock (_steps)
        {
            ObjectDisposedException.ThrowIf(_closed, this);
            if (_uffd is null)
            {
                throw new InvalidOperationException("The memory is not registered.");
            }

            if (MissingBytes > 0)
            {
                throw new PostcopyIncompleteException($"{MissingBytes} bytes are missing; wait for KeepServedAsync or HandlerConnection.Ended.");
            }

            _state!.HasEnded = true;
            UnregisterLocked(complete: true);
            _closed = true;
        }
    }

    /// <summary>Frees everything. What happens to pages that never came is the caller's choice.</summary>
    /// <param name="policy">What to do about missing pages; without meaning when there are none.</param>
    /// <exception cref="PostcopyIncompleteException">The policy is Fail and pages are missing, or it is Poison and the kernel cannot; nothing was closed.</exception>
    public void Close(MissingPagePolicy policy)
    {
        lock (_steps)
        {
            if (_closed || _uffd is null)
            {
                Blocks.Thaw();
                _closed = true;
                return;
            }

            if (MissingBytes > 0)
            {
                CloseIncompleteLocked(policy);
                return;
            }

            _state!.HasEnded = true;
            UnregisterLocked(complete: true);
            _closed = true;
        }
    }

    /// <summary>
    /// Closes what is complete. With pages missing it keeps who touches one waiting (<see cref="MissingPagePolicy.KeepWaiting"/>)
    /// and logs an error: call <see cref="Close"/> and choose.
    /// </summary>
    public void Dispose() => Close(MissingPagePolicy.KeepWaiting);

    private void CloseIncompleteLocked(MissingPagePolicy policy)
    {
        long missing = Blocks.Blocks.Sum(b => b.MissingPages);
        string what = $"{missing} pages are missing";
        switch (policy)
        {
            case MissingPagePolicy.Fail:
                throw new PostcopyIncompleteException($"The owner is not closed: {what}.");

            case MissingPagePolicy.Poison:
                if (!_grant!.Has(UffdFeatures.Poison))
                {
                    throw new PostcopyIncompleteException($"The owner is not closed: {what}, and this kernel has no UFFDIO_POISON (Linux 6.6); close with KeepWaiting.");
                }

                // The handler first: it would place a page between the look and the poison.
                _connection?.Dispose();
                using (PostcopyPlacer placer = new())
                {
                    foreach (RamBlock block in Blocks.Blocks)
                    {
                        PlaceResult result = placer.PoisonMissing(block);
                        if (!result.IsReceived)
                        {
                            throw new PostcopyIncompleteException($"RAM block '{block.Name}' could not be poisoned: {result}.");
                        }
                    }
                }

                Log.Poisoned(_logger, missing, what);
                UnregisterLocked(complete: false);
                break;

            default:
                Log.Frozen(_logger, missing, what);
                _connection?.Dispose();
                lock (s_keptForever)
                {
                    s_keptForever.Add(this);
                }

                break;
        }

        _closed = true;
    }

    private void UnregisterLocked(bool complete)
    {
        foreach (RamBlock block in Blocks.Blocks)
        {
            try
            {
                _uffd!.Unregister(block.Range);
            }
            catch (UffdException e)
            {
                // Unmapped meanwhile: nothing is registered there any more, and the rest must not stay so for it.
                Log.UnregisterFailed(_logger, block.Name, block.Range, e);
            }

            block.Detach();
            if (complete)
            {
                block.Memory?.MarkComplete();
            }
        }

        _connection?.Dispose();
        _uffd!.Dispose();
        foreach (RamBlock block in Blocks.Blocks)
        {
            block.TakeBack();
        }

        _state!.Close();
        _self!.Dispose();
        Blocks.Thaw();
    }
}
