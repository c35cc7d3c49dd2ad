using System.Net;
using System.Net.Sockets;

namespace Postcopy.Uffd.Qemu.Tests;

/// <summary>Connections for tests, and readers over bytes that are there already.</summary>
internal static class Streams
{
    internal static readonly QemuStreamOptions Options = new() { SourceHostPageSize = 4096, ReceiveBufferSize = 256 * 1024 };

    internal static QemuStreamReader Reader(byte[] bytes, MigrationStreamState? state = null, StreamKind kind = StreamKind.Unknown, int chunk = int.MaxValue) =>
        new(MigrationChannel.FromStream(new ChunkedStream(bytes, chunk)), state ?? new MigrationStreamState(), Options, kind);

    /// <summary>Reads until the kind comes; everything before is passed over.</summary>
    internal static void ReadTo(this QemuStreamReader reader, StreamRecordKind kind)
    {
        for (int i = 0; i < 100_000; i++)
        {
            StreamRecordKind found = reader.ReadNext();
            if (found == kind)
            {
                return;
            }

            Assert.NotEqual(StreamRecordKind.EndOfStream, found);
        }
    }

    /// <summary>Reads to the end; the records in words.</summary>
    internal static List<string> ReadAll(this QemuStreamReader reader)
    {
        List<string> records = [];
        while (true)
        {
            StreamRecordKind kind = reader.ReadNext();
            records.Add(kind switch
            {
                StreamRecordKind.Ping => $"Ping {reader.PingValue}",
                StreamRecordKind.Page => $"Page {reader.Block!.Name} {reader.PageOffset:x} {Content(reader)[0]:x2}",
                StreamRecordKind.ZeroPage => $"ZeroPage {reader.Block!.Name} {reader.PageOffset:x}",
                StreamRecordKind.Discard => $"Discard {reader.Block!.Name} {string.Join(',', reader.Discards.ToArray().Select(d => $"{d.Start:x}+{d.Length:x}"))}",
                StreamRecordKind.ReceivedBitmapRequest => $"ReceivedBitmapRequest {reader.Block!.Name}",
                _ => $"{kind}",
            });
            if (kind == StreamRecordKind.EndOfStream)
            {
                return records;
            }
        }
    }

    internal static unsafe ReadOnlySpan<byte> Content(QemuStreamReader reader) => new((void*)reader.Data, reader.DataLength);

    internal static (Socket Near, Socket Far) SocketPair()
    {
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        Socket near = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        near.Connect(listener.LocalEndPoint!);
        Socket far = listener.Accept();
        far.NoDelay = true;
        return (near, far);
    }

    internal static (MigrationChannel Near, MigrationChannel Far) ChannelPair()
    {
        (Socket near, Socket far) = SocketPair();
        return (MigrationChannel.FromSocket(near), MigrationChannel.FromSocket(far));
    }
}
