using System.Collections.Concurrent;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>A page requester whose requests a test thread answers.</summary>
internal sealed class QueueRequester : IPageRequester
{
    private readonly BlockingCollection<PageRequest> _requests = [];

    internal ConcurrentQueue<PageRequest> Seen { get; } = new();

    internal volatile RequestOutcome Answer = RequestOutcome.Sent;

    public RequestOutcome TryRequest(in PageRequest request)
    {
        if (Answer == RequestOutcome.Sent)
        {
            Seen.Enqueue(request);
            _requests.Add(request);
        }

        return Answer;
    }

    internal PageRequest Take(int milliseconds = 10_000) =>
        _requests.TryTake(out PageRequest request, milliseconds)
            ? request
            : throw new TimeoutException($"No page request came within {milliseconds} ms.");

    internal bool TryTake(out PageRequest request, int milliseconds) => _requests.TryTake(out request, milliseconds);
}
