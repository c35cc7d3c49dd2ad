using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;

namespace Postcopy.Breaking.Tests;

/// <summary>A source in this process that goes on over one connection after the other until the destination has everything.</summary>
internal static class SourceLoop
{
    /// <summary>Runs it; how often it had to go on.</summary>
    /// <param name="receiver">The other side.</param>
    /// <param name="memory">What is sent.</param>
    /// <param name="options">How.</param>
    /// <param name="connect">Makes a connection that the receiver accepts.</param>
    /// <param name="running">What to do once the guest runs, with the source.</param>
    internal static async Task<int> RunAsync(
        Receiver receiver, IMigrationSourceMemory memory, QemuSourceOptions options, Func<MigrationChannel> connect, Action<QemuSource> running)
    {
        Func<MigrationChannel>? urgent = options.Preempt == QemuPreemptMode.None ? null : connect;
        QemuSource source = new(memory, options);
        Task<QemuSourceState> sending = source.RunAsync(connect(), urgent);
        await await Task.WhenAny(receiver.Running, receiver.Receiving).WaitAsync(Receiver.Budget);
        running(source);
        int recoveries = 0;
        while (true)
        {
            QemuSourceState state = await sending.WaitAsync(Receiver.Budget);
            await receiver.UntilAsync(() => receiver.Receiving.IsCompleted || receiver.Destination.State == PostcopyState.Paused, $"a pause; source {state} {source.Error?.Message}");
            if (receiver.Receiving.IsCompleted)
            {
                await source.DisposeAsync();
                return recoveries;
            }

            if (state != QemuSourceState.PostcopyPaused)
            {
                // It believes that it is over: pages were lost behind its end. Only one that begins anew can bring them.
                source = QemuSource.ForRecovery(memory, options);
            }

            recoveries++;
            sending = source.ResumeAsync(connect(), urgent);
        }
    }
}
