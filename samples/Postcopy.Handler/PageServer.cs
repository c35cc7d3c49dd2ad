using System.Runtime.InteropServices;
using Postcopy.Uffd;

namespace Postcopy.Handler;

/// <summary>
/// The threads that read the image and place pages: workers for what is asked for, and one for the rest. Nothing here
/// allocates once the threads run: buffers are native, the queue is a ring, file reads are synchronous.
/// </summary>
internal sealed class PageServer : IDisposable
{
    private const int BufferBytes = 256 << 10;

    // How long a page is held back when it cannot be placed (an address space that keeps changing, no memory).
    private static readonly TimeSpan s_patience = TimeSpan.FromMilliseconds(50);

    private readonly HandoffSession _session;
    private readonly MemoryImage _image;
    private readonly PageRequestQueue _requests = new(capacity: 1 << 14);
    private readonly TaskCompletionSource _failed = new();
    private readonly Thread[] _threads;
    private bool _stop;
    private Exception? _failure;

    internal PageServer(HandoffSession session, MemoryImage image, int workers, bool fill)
    {
        _session = session;
        _image = image;
        foreach (RamBlock block in session.Blocks.Blocks)
        {
            if (session.SourceOffsetOf(block) > image.Length - block.UsedLength)
            {
                throw new InvalidDataException(
                    $"Block '{block.Name}' of {block.UsedLength} bytes begins at offset {session.SourceOffsetOf(block)} of the image, which has {image.Length} bytes; is it the image of this machine?");
            }
        }

        _threads = [.. Enumerable.Range(0, workers).Select(_ => new Thread(Work)), .. fill ? [new Thread(Fill)] : Array.Empty<Thread>()];
    }

    /// <summary>Asks for the pages that faults want.</summary>
    internal IPageRequester Requester => _requests;

    /// <summary>Ends when a thread met something it cannot go on with.</summary>
    internal Task Failed => _failed.Task;

    internal void Start()
    {
        foreach (Thread thread in _threads)
        {
            thread.IsBackground = true;
            thread.Name = "postcopy-pages";
            thread.Start();
        }
    }

    /// <summary>Ends the threads; throws what one of them died of.</summary>
    public void Dispose()
    {
        Volatile.Write(ref _stop, true);
        foreach (Thread thread in _threads)
        {
            if (thread.ThreadState != ThreadState.Unstarted)
            {
                thread.Join();
            }
        }

        _requests.Dispose();
    }

    internal void ThrowIfFailed()
    {
        if (_failure is { } failure)
        {
            throw new InvalidDataException(failure.Message, failure);
        }
    }

    private void Work() => Guard(buffer =>
    {
        while (!Volatile.Read(ref _stop))
        {
            if (_requests.TryTake(s_patience, out PageRequest request))
            {
                Place(request.Block, request.Offset, request.Length, buffer);
            }
        }
    });

    /// <summary>What nobody touched, chunk by chunk; it stands back while somebody waits.</summary>
    private void Fill() => Guard(buffer =>
    {
        foreach (RamBlock block in _session.Blocks.Blocks)
        {
            int shift = block.PageSize.Shift;
            for (long page = 0; !Volatile.Read(ref _stop) && block.Received.TryFindNextClearRun(page, block.PageCount, out long first, out long pages);)
            {
                if (_requests.Count > 0)
                {
                    _ = Thread.Yield();
                    continue;
                }

                long chunk = Math.Min(pages, Math.Max(1, BufferBytes >> shift));
                Place(block, first << shift, chunk << shift, buffer);
                page = first + chunk;
            }
        }
    });

    private unsafe void Guard(Action<nuint> work)
    {
        nuint buffer = (nuint)NativeMemory.AlignedAlloc((nuint)Math.Max(BufferBytes, _session.Blocks.Blocks.Max(b => b.PageSize.Bytes)), 4096);
        try
        {
            work(buffer);
        }
        catch (Exception e)
        {
            _failure ??= e;
            _ = _failed.TrySetResult();
        }
        finally
        {
            NativeMemory.AlignedFree((void*)buffer);
        }
    }

    private unsafe void Place(RamBlock block, long offset, long length, nuint buffer)
    {
        long most = Math.Max(BufferBytes, block.PageSize.Bytes);
        for (long done = 0; done < length;)
        {
            int part = (int)Math.Min(most, length - done);

            // SAFETY: the buffer is native, that long, and this thread's own.
            Span<byte> bytes = new((void*)buffer, part);
            _image.Read(_session.SourceOffsetOf(block) + offset + done, bytes);
            bool zero = !bytes.ContainsAnyExcept((byte)0);
            PlaceResult result;
            do
            {
                result = zero
                    ? _session.Placer.PlaceZero(block, offset + done, part)
                    : _session.Placer.Place(block, offset + done, buffer, part);
                if (result.Outcome == PlaceOutcome.TargetGone)
                {
                    return;
                }
            }
            while (!result.IsReceived && MayPass(result) && !Volatile.Read(ref _stop));

            // Another thread may have placed it meanwhile, and the owner unregistered the memory since.
            int shift = block.PageSize.Shift;
            if (!result.IsReceived && !Volatile.Read(ref _stop) && !block.Received.AllSet((offset + done) >> shift, part >> shift))
            {
                throw new InvalidDataException($"A page of block '{block.Name}' could not be placed: {result}.");
            }

            done += part;
        }
    }

    private static bool MayPass(in PlaceResult result) =>
        result.Outcome is PlaceOutcome.AddressSpaceChanging or PlaceOutcome.OutOfMemory or PlaceOutcome.OutOfHugePages;
}
