namespace Postcopy.Uffd.Qemu.Tests.Source;

/// <summary>A destination without userfaultfd: pages go into arrays, each is counted, anything may be asked for.</summary>
internal sealed class TestDestination
{
    private readonly object _lock = new();
    private byte[][] _memory = [];
    private int[][] _times = [];
    private bool[][] _received = [];

    internal MigrationStreamState State { get; } = new();

    internal List<string> Order { get; } = [];

    internal DevicePackage? Package { get; private set; }

    internal ReturnPathWriter? Writer { get; private set; }

    internal ManualResetEventSlim Running { get; } = new();

    /// <summary>Stops reading after so many postcopy pages; the connection breaks.</summary>
    internal int BreakAfter { get; set; } = int.MaxValue;

    internal bool AnswerPings { get; set; } = true;

    internal uint ShutStatus { get; set; }

    internal int PostcopyPages { get; private set; }

    internal int UrgentPages { get; private set; }

    internal int PrecopyPages { get; private set; }

    /// <summary>Reads the main channel to its end and sends SHUT when nothing is missing.</summary>
    internal void RunMain(MigrationChannel channel)
    {
        using QemuStreamReader reader = new(channel, State, Streams.Options);
        using ReturnPathWriter writer = new(channel);
        Writer = writer;
        try
        {
            while (true)
            {
                StreamRecordKind kind = reader.ReadNext();
                Note(kind, reader);
                if (kind == StreamRecordKind.EndOfStream)
                {
                    break;
                }

                if (PostcopyPages >= BreakAfter)
                {
                    BreakAfter = int.MaxValue;
                    channel.Dispose();
                    return;
                }
            }

            Assert.True(SpinWait.SpinUntil(() => Missing() == 0, TimeSpan.FromSeconds(10)), $"{Missing()} pages are missing");
            writer.Shut(ShutStatus);
            writer.Flush(TimeSpan.FromSeconds(10));
        }
        finally
        {
            Writer = null;
        }
    }

    /// <summary>Reads the urgent channel until its mark or its end.</summary>
    internal void RunUrgent(MigrationChannel channel)
    {
        using QemuStreamReader reader = new(channel, State, Streams.Options, StreamKind.Urgent);
        try
        {
            while (reader.ReadNext() != StreamRecordKind.EndOfStream)
            {
                lock (_lock)
                {
                    Store(reader, StreamRecordKind.Page);
                    UrgentPages++;
                }
            }
        }
        catch (MigrationConnectionException)
        {
        }
    }

    internal int Missing()
    {
        lock (_lock)
        {
            return _received.Sum(block => block.Count(r => !r));
        }
    }

    internal byte[] Content(StreamRamBlock block) => _memory[block.Index];

    /// <summary>Compares everything with the source; each page came exactly once after the switch, or not at all.</summary>
    internal void Verify(IMigrationSourceMemory source)
    {
        byte[] page = new byte[4096];
        for (int block = 0; block < source.Blocks.Count; block++)
        {
            SourceRamBlock b = source.Blocks[block];
            for (int i = 0; i < b.Length / 4096; i++)
            {
                source.ReadPages(b, i * 4096L, page);
                Assert.True(_memory[block].AsSpan(i * 4096, 4096).SequenceEqual(page), $"{b.Name} page {i} differs");
                Assert.True(_times[block][i] <= 1, $"{b.Name} page {i} came {_times[block][i]} times in postcopy");
            }
        }
    }

    private void Note(StreamRecordKind kind, QemuStreamReader reader)
    {
        switch (kind)
        {
            case StreamRecordKind.BlockList:
                _memory = [.. State.Blocks.Select(b => new byte[b.Length])];
                _times = [.. State.Blocks.Select(b => new int[b.Length / 4096])];
                _received = [.. State.Blocks.Select(b => new bool[b.Length / 4096])];
                Order.Add("BlockList");
                break;
            case StreamRecordKind.Page or StreamRecordKind.ZeroPage or StreamRecordKind.XbzrlePage:
                lock (_lock)
                {
                    PostcopyPages += State.Phase >= StreamPhase.Running ? 1 : 0;
                    PrecopyPages += State.Phase < StreamPhase.Running ? 1 : 0;
                    Store(reader, kind);
                }

                break;
            case StreamRecordKind.SectionEnd:
                break;
            case StreamRecordKind.Discard:
                foreach (DiscardRange range in reader.Discards)
                {
                    Array.Fill(_received[reader.Block!.Index], false, (int)(range.Start / 4096), (int)(range.Length / 4096));
                }

                break;
            case StreamRecordKind.Ping:
                Order.Add($"Ping {reader.PingValue}");
                Pong(reader.PingValue);
                break;
            case StreamRecordKind.Package:
                Order.Add("Package");
                Package = reader.Package;
                foreach (uint ping in Package!.Pings)
                {
                    Pong(ping);
                }

                Running.Set();
                break;
            case StreamRecordKind.ReceivedBitmapRequest:
                Writer!.SendReceivedBitmap(reader.Block!, Bitmap(reader.Block!));
                break;
            case StreamRecordKind.PostcopyResume:
                Writer!.ResumeAck();
                Order.Add("Resume");
                break;
            default:
                Order.Add($"{kind}");
                break;
        }
    }

    private void Pong(uint value)
    {
        if (AnswerPings)
        {
            Writer!.Pong(value);
        }
    }

    private byte[] Bitmap(StreamRamBlock block)
    {
        byte[] bitmap = new byte[ReturnPathReader.ReceivedBitmapLength(block.Length, 4096)];
        int perPage = (int)(block.PageSize / 4096);
        bool[] received = _received[block.Index];
        for (int page = 0; page < received.Length; page++)
        {
            // A huge page counts as a whole or not at all; what was there of it is forgotten.
            int first = page / perPage * perPage;
            if (received.AsSpan(first, perPage).IndexOf(false) < 0)
            {
                bitmap[page / 8] |= (byte)(1 << (page % 8));
            }
            else
            {
                _times[block.Index][page] = 0;
            }
        }

        return bitmap;
    }

    private void Store(QemuStreamReader reader, StreamRecordKind kind)
    {
        int block = reader.Block!.Index;
        Span<byte> page = _memory[block].AsSpan((int)reader.PageOffset, 4096);
        if (kind == StreamRecordKind.XbzrlePage)
        {
            Assert.True(XbzrleDelta.TryApply(Streams.Content(reader), page));
        }
        else if (reader.Data == 0)
        {
            page.Clear();
        }
        else
        {
            Streams.Content(reader).CopyTo(page);
        }

        int index = (int)(reader.PageOffset / 4096);
        _received[block][index] = true;
        _times[block][index] += State.Phase >= StreamPhase.Running ? 1 : 0;
    }
}
