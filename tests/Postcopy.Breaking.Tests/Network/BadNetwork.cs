using System.Net.Sockets;

namespace Postcopy.Breaking.Tests;

/// <summary>What a bad network has done so far, over all its connections.</summary>
internal sealed class Damage
{
    internal int Cuts;
    internal int Delays;
    internal int Duplicates;
    internal int Flips;
    internal int Losses;

    internal int Total => Cuts + Delays + Duplicates + Flips + Losses;

    public override string ToString() => $"{Cuts} cuts, {Delays} delays, {Duplicates} pieces twice, {Losses} pieces lost, {Flips} bytes damaged";
}

/// <summary>
/// A connection over a network that cuts, delays, repeats, loses and damages bytes, one harm in so many bytes. TCP would hide all
/// but the cut and the delay: here they reach the socket, as from a broken middle box.
/// </summary>
internal sealed class BadNetwork : IDisposable
{
    private const int LongestPiece = 64;

    private readonly Socket _source;
    private readonly Socket _destination;
    private readonly Thread[] _threads;
    private readonly Damage _damage;
    private readonly Func<bool> _mayHarm;

    /// <param name="source">The end towards the source.</param>
    /// <param name="destination">The end towards the destination.</param>
    /// <param name="seed">Decides everything.</param>
    /// <param name="bytesPerHarm">One harm in so many bytes of a direction, on average.</param>
    /// <param name="damage">Where it is counted.</param>
    /// <param name="mayHarm">False while the connection must stay whole.</param>
    internal BadNetwork(Socket source, Socket destination, int seed, int bytesPerHarm, Damage damage, Func<bool> mayHarm)
    {
        _source = source;
        _destination = destination;
        _damage = damage;
        _mayHarm = mayHarm;
        // Little goes back to the source; a harm in each tenth of it is as many.
        _threads = [Start(source, destination, new Random(seed), bytesPerHarm), Start(destination, source, new Random(~seed), bytesPerHarm / 10)];
    }

    public void Dispose()
    {
        Cut();
        Array.ForEach(_threads, t => t.Join());
    }

    private Thread Start(Socket from, Socket to, Random random, int bytesPerHarm)
    {
        Thread thread = new(() => Pump(from, to, random, bytesPerHarm)) { IsBackground = true, Name = "bad network" };
        thread.Start();
        return thread;
    }

    private void Pump(Socket from, Socket to, Random random, int bytesPerHarm)
    {
        byte[] buffer = new byte[16 << 10];
        long quiet = random.Next(2 * bytesPerHarm);
        try
        {
            while (true)
            {
                int got = from.Receive(buffer);
                if (got == 0)
                {
                    break;
                }

                int sent = 0;
                while (_mayHarm() && quiet < got - sent)
                {
                    Send(to, buffer.AsSpan(sent, (int)quiet));
                    sent += (int)quiet;
                    sent += Harm(to, buffer.AsSpan(sent, Math.Min(LongestPiece, got - sent)), random);
                    quiet = 1 + random.Next(2 * bytesPerHarm);
                }

                quiet = Math.Max(0, quiet - (got - sent));
                Send(to, buffer.AsSpan(sent, got - sent));
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // One end is gone, and the other is to know.
        }

        Cut();
    }

    /// <summary>Does one harm at the beginning of these bytes; how many of them are done with.</summary>
    private int Harm(Socket to, Span<byte> piece, Random random)
    {
        int length = 1 + random.Next(piece.Length);
        switch (random.Next(10))
        {
            case 0:
                _ = Interlocked.Increment(ref _damage.Cuts);
                Cut();
                break;
            case 1 or 2:
                _ = Interlocked.Increment(ref _damage.Delays);
                Thread.Sleep(random.Next(20) == 0 ? 300 : random.Next(10));
                return 0;
            case 3 or 4:
                _ = Interlocked.Increment(ref _damage.Duplicates);
                Send(to, piece[..length]);
                return 0;
            case 5:
                _ = Interlocked.Increment(ref _damage.Losses);
                break;
            default:
                _ = Interlocked.Increment(ref _damage.Flips);
                piece[0] ^= (byte)(1 << random.Next(8));
                Send(to, piece[..1]);
                return 1;
        }

        return length;
    }

    private void Cut()
    {
        foreach (Socket socket in (Socket[])[_source, _destination])
        {
            try
            {
                socket.LingerState = new LingerOption(true, 0);
                socket.Shutdown(SocketShutdown.Both);
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // It is closed already.
            }

            socket.Dispose();
        }
    }

    private static void Send(Socket to, ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            bytes = bytes[to.Send(bytes)..];
        }
    }
}
