using System.Diagnostics;
using Microsoft.Win32.SafeHandles;

namespace Postcopy.Uffd;

/// <content>Handlers: connected to one after the other, watched, replaced.</content>
public sealed partial class HandoffOwner
{
    private static readonly TimeSpan s_firstRetry = TimeSpan.FromMilliseconds(5);
    private static readonly TimeSpan s_longestRetry = TimeSpan.FromSeconds(1);

    /// <summary>
    /// Hands the memory to the handler that listens at a Unix socket. An earlier handler must have ended: two that read
    /// one descriptor each see half of the faults.
    /// </summary>
    /// <param name="path">The handler's socket.</param>
    /// <returns>The connection, watched by a thread of its own.</returns>
    /// <exception cref="HandoffException">
    /// Nobody listens there, or the handler refuses and says why, or does not answer. Nothing was lost: connect again.
    /// </exception>
    /// <exception cref="InvalidOperationException">The memory is not registered, or an earlier handler still serves.</exception>
    public HandlerConnection Connect(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        lock (_steps)
        {
            ObjectDisposedException.ThrowIf(_closed, this);
            if (_uffd is null)
            {
                throw new InvalidOperationException("The memory is not registered; call Register first.");
            }

            if (_connection is { Ended.IsCompleted: false })
            {
                throw new InvalidOperationException("An earlier handler still serves; dispose its connection first.");
            }

            _connection?.Dispose();
            DescriptorSocket socket = DescriptorSocket.Connect(path);
            try
            {
                ProcessHandle handler = Exchange(socket, path);
                _connection = new HandlerConnection(socket, handler, _state!, Blocks, _options.HandlerTimeout, _logger);
            }
            catch
            {
                socket.Dispose();
                throw;
            }

            Log.HandedOver(_logger, MissingBytes, Handlers, path);
            return _connection;
        }
    }

    /// <summary>
    /// Keeps the memory served until nothing is missing: connects, and when the handler dies, hangs or closes, asks for
    /// the next one.
    /// </summary>
    /// <param name="handler">
    /// Called before each connection: starts a handler if none runs, and answers with the path of its socket. It may
    /// answer before the handler listens; connecting is tried again with growing pauses of up to 1 s.
    /// </param>
    /// <param name="cancellationToken">Gives up; the handler that serves goes on.</param>
    /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
    public async Task KeepServedAsync(Func<CancellationToken, ValueTask<string>> handler, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(handler);
        TimeSpan pause = s_firstRetry;
        while (MissingBytes > 0)
        {
            string path = await handler(cancellationToken).ConfigureAwait(false);
            HandlerConnection connection;
            try
            {
                connection = Connect(path);
            }
            catch (HandoffException e)
            {
                // A handler that is just starting is nothing to write about.
                if (pause >= s_longestRetry)
                {
                    Log.NoHandler(_logger, e.Message);
                }

                pause = await PauseAsync(pause, cancellationToken).ConfigureAwait(false);
                continue;
            }

            long missing = MissingBytes;
            HandlerEnd end = await connection.Ended.WaitAsync(cancellationToken).ConfigureAwait(false);
            if (end == HandlerEnd.NothingMissing)
            {
                return;
            }

            // The next one may be at the same path: no descriptor of this one may stay.
            connection.Dispose();
            if (MissingBytes < missing)
            {
                pause = s_firstRetry;
                continue;
            }

            // It took the memory and did nothing: a wrong image, say. Its successors must not come and go without pause.
            pause = await PauseAsync(pause, cancellationToken).ConfigureAwait(false);
        }
    }

    private static async Task<TimeSpan> PauseAsync(TimeSpan pause, CancellationToken cancellationToken)
    {
        await Task.Delay(pause, cancellationToken).ConfigureAwait(false);
        return pause + pause > s_longestRetry ? s_longestRetry : pause + pause;
    }

    private ProcessHandle Exchange(DescriptorSocket socket, string path)
    {
        HandoffException? unsent = null;
        try
        {
            socket.Send(_message, _descriptors, _options.Patience);
        }
        catch (HandoffException e)
        {
            // A handler that refuses the peer itself answers without reading: its reason is worth more than ours.
            unsent = e;
        }

        try
        {
            return ReceiveAnswer(socket, path);
        }
        catch (HandoffException e) when (unsent is not null && !e.IsRefusal)
        {
            throw unsent;
        }
    }

    private ProcessHandle ReceiveAnswer(DescriptorSocket socket, string path)
    {
        long start = Stopwatch.GetTimestamp();
        byte[] bytes = new byte[HandoffAnswer.MaxBytes];
        List<SafeFileHandle> descriptors = [];
        try
        {
            int have = 0;
            for (int wanted = HandoffAnswer.HeaderBytes; have < wanted;)
            {
                TimeSpan left = _options.Patience - Stopwatch.GetElapsedTime(start);
                int n = socket.Receive(bytes.AsSpan(have, wanted - have), descriptors, left > TimeSpan.Zero ? left : TimeSpan.Zero);
                have += n;
                if (n == 0)
                {
                    throw new HandoffException($"The handler at {path} closed the connection without an answer: it has died, or speaks another protocol.");
                }

                if (have >= HandoffAnswer.HeaderBytes)
                {
                    wanted = HandoffAnswer.LengthOf(bytes);
                }
            }

            HandoffAnswer answer = HandoffAnswer.Decode(bytes.AsSpan(0, have));
            if (!answer.Accepted)
            {
                throw new HandoffException($"The handler at {path} refuses: {answer.Text}") { IsRefusal = true };
            }

            if (descriptors.Count != 1)
            {
                throw new HandoffException($"The handler at {path} sent {descriptors.Count} descriptors with its answer; it sends one, its pidfd.");
            }

            return ProcessHandle.FromReceived(descriptors[0]);
        }
        catch
        {
            descriptors.ForEach(d => d.Dispose());
            throw;
        }
    }
}
