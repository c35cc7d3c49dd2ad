using System.Collections.Concurrent;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Uffd.Hosting.Tests;

/// <summary>Notes what is asked of it.</summary>
internal sealed class TestGuest : IPostcopyGuest
{
    internal ConcurrentQueue<string> Steps { get; } = new();

    internal TaskCompletionSource Running { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    internal Exception? Failure { get; private set; }

    public ValueTask PrepareAsync(PostcopyDestination destination, CancellationToken cancellationToken)
    {
        Steps.Enqueue($"prepare in {destination.State}");
        return ValueTask.CompletedTask;
    }

    public RamBlockSpec? CreateBlock(StreamRamBlock block)
    {
        Steps.Enqueue($"block {block.Name}");
        return null;
    }

    public ValueTask LoadDevicesAsync(DevicePackage package, PostcopyDestination destination, CancellationToken cancellationToken)
    {
        Steps.Enqueue("devices");
        return ValueTask.CompletedTask;
    }

    public void Run(PostcopyDestination destination)
    {
        Steps.Enqueue("run");
        Running.SetResult();
    }

    public ValueTask CompletedAsync(CompletionReport report, CancellationToken cancellationToken)
    {
        Steps.Enqueue($"completed {report.TotalBytes}");
        return ValueTask.CompletedTask;
    }

    public void Failed(Exception why)
    {
        Failure = why;
        Steps.Enqueue("failed");
    }
}
