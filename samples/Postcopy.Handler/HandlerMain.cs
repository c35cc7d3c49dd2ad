using System.Globalization;
using System.Runtime.InteropServices;
using Postcopy.Uffd;

namespace Postcopy.Handler;

/// <summary>Listens, serves owners, and says what it did.</summary>
internal static class HandlerMain
{
    private const int Collected = 3;

    internal static int Run(HandlerOptions options)
    {
        using MemoryImage image = new(options.Image);
        using CancellationTokenSource interrupted = new();
        using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop);
        using PosixSignalRegistration terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop);
        using ErrorLog log = new();
        using HandoffListener listener = new(new HandoffListenerOptions
        {
            Path = options.Socket,
            AcceptPostcopy = !options.Firecracker,
            AcceptFirecracker = options.Firecracker,
            LoggerFactory = log,
        });
        Console.WriteLine($"listening at {options.Socket}");
        int worst = 0;
        do
        {
            using HandoffSession session = listener.Accept(interrupted.Token);
            worst = Math.Max(worst, Serve(session, image, options, interrupted.Token));
        }
        while (options.Keep && !interrupted.IsCancellationRequested);

        return worst;

        void Stop(PosixSignalContext context)
        {
            context.Cancel = true;
            interrupted.Cancel();
        }
    }

    private static int Serve(HandoffSession session, MemoryImage image, HandlerOptions options, CancellationToken interrupted)
    {
        using PageServer server = new(session, image, options.Workers, options.Fill);
        server.Start();
        session.Start(server.Requester);
        Console.WriteLine($"serving {session}");

        // From here to the end nothing should be collected: the rest of the program waits.
        long allocated = GC.GetTotalAllocatedBytes(precise: true);
        int collections = Collections();
        Task gone = Task.Delay(Timeout.InfiniteTimeSpan, interrupted);
        _ = Task.WaitAny([session.Ended, server.Failed, gone], CancellationToken.None);
        collections = Collections() - collections;
        allocated = GC.GetTotalAllocatedBytes(precise: true) - allocated;

        server.Dispose();
        FaultStatistics faults = session.Faults;
        PlacementStatistics placed = session.Placer.Statistics;
        string end = session.Ended.IsCompletedSuccessfully ? session.Ended.Result.ToString() : interrupted.IsCancellationRequested ? "Interrupted" : "Failed";
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"ended: {end}; {faults.Messages} messages, {faults.Requests} pages asked for, {placed.CopiedBytes} bytes copied, {placed.ZeroBytes} bytes zero, " +
            $"{faults.StuckFaults} stuck; collections while serving: {collections}, allocated: {allocated} bytes"));
        server.ThrowIfFailed();
        return end == nameof(HandoffSessionEnd.Failed) ? 1 : options.FailOnCollection && collections > 0 ? Collected : 0;
    }

    private static int Collections()
    {
        int all = 0;
        for (int generation = 0; generation <= GC.MaxGeneration; generation++)
        {
            all += GC.CollectionCount(generation);
        }

        return all;
    }
}
