using System.Globalization;
using CsCheck;

namespace Postcopy.Uffd.Tests.Ram;

/// <summary>The bitmap against a plain array of bools, on the wire, and under contention.</summary>
public sealed class PageBitmapTests
{
    [Fact(Timeout = 60_000)]
    public async Task ARunOfClearBitsIsNeverEmptyHoweverOthersSetThem() => await Task.Run(() =>
    {
        // Two placers on the same pages: a run of none became a COPY of nothing, which the kernel refuses.
        const int bits = 1 << 15;
        for (int round = 0; round < 40; round++)
        {
            using PageBitmap bitmap = new(bits);
            Task other = Task.Factory.StartNew(() =>
            {
                for (int i = 0; i < bits; i++)
                {
                    _ = bitmap.TestAndSet(i);
                }
            }, TaskCreationOptions.LongRunning);
            for (long at = 0; at < bits && bitmap.TryFindNextClearRun(at, Math.Min(bits, at + 4), out long start, out long count);)
            {
                Assert.InRange(count, 1, 4);
                at = start;
                _ = bitmap.TestAndSet(start);
            }

            other.Wait();
        }
    });

    private static readonly Gen<int> s_length = Gen.OneOf(
        Gen.Int[1, 200], Gen.Int[0, 7].Select(i => ((int[])[1, 63, 64, 65, 127, 128, 129, 4096])[i]));

    [Fact]
    public void EveryOperationAgreesWithAnArrayOfBools()
    {
        Gen<(int Op, double A, double B)> step = Gen.Select(Gen.Int[0, 11], Gen.Double.Unit, Gen.Double.Unit);
        Gen.Select(s_length, step.Array[1, 40]).Sample((length, steps) =>
        {
            using PageBitmap bitmap = new(length);
            bool[] model = new bool[length];
            foreach ((int op, double a, double b) in steps)
            {
                int start = (int)(a * length);
                int count = (int)(b * (length - start + 1));
                Step(bitmap, model, op, Math.Min(start, length - 1), start, Math.Min(count, length - start));
            }

            Assert.Equal(model, Enumerable.Range(0, length).Select(i => bitmap.Test(i)));
        });
    }

    [Fact]
    public void IndexesOutsideThrow()
    {
        using PageBitmap bitmap = new(65);

        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Test(65));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Test(-1));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.TestAndSet(127));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.SetRange(60, 6));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.ClearRange(long.MaxValue, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.CountSet(0, long.MaxValue));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.AllSet(1, -1));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.TryFindNextClearRun(10, 9, out _, out _));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.TryFindNextSet(66, out _));
        Assert.False(bitmap.TryFindNextSet(65, out _));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.TryFindNextSet(10, 9, out _));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.TryFindNextSet(0, 66, out _));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PageBitmap(0));
    }

    [Theory]
    // qemu-wire.md 5.3: a block of 128 MiB is 4096 bytes, 1 to 64 pages are 8.
    [InlineData(128L << 20 >> 12, 1, 4096)]
    [InlineData(1, 1, 8)]
    [InlineData(64, 1, 8)]
    [InlineData(65, 1, 16)]
    [InlineData(1, 4, 8)]
    [InlineData(16, 4, 8)]
    [InlineData(17, 4, 16)]
    [InlineData(1, 512, 64)]
    [InlineData(64, 512, 4096)]
    [InlineData(1L << 32, 1, 1L << 29)]
    public void TheWireSizeIsThatOfQemu(long pages, int factor, long expected)
    {
        using PageBitmap bitmap = new(pages);

        Assert.Equal(expected, bitmap.WireSize(factor));
    }

    [Fact]
    public void TheWireFormIsLittleEndianWithZeroPadding()
    {
        using PageBitmap bitmap = new(70);
        foreach (int i in (int[])[0, 9, 63, 64, 69])
        {
            _ = bitmap.TestAndSet(i);
        }

        byte[] wire = new byte[bitmap.WireSize(1)];
        bitmap.Export(0, wire, 1);

        Assert.Equal([0x01, 0x02, 0, 0, 0, 0, 0, 0x80, 0x21, 0, 0, 0, 0, 0, 0, 0], wire);
    }

    [Fact]
    public void ABlockOfHugePagesIsSentInTargetPages()
    {
        using PageBitmap four = new(3);
        _ = four.TestAndSet(1);
        byte[] wire = new byte[four.WireSize(4)];
        four.Export(0, wire, 4);
        Assert.Equal([0xf0, 0, 0, 0, 0, 0, 0, 0], wire);

        using PageBitmap huge = new(2);
        _ = huge.TestAndSet(1);
        wire = new byte[huge.WireSize(512)];
        huge.Export(0, wire, 512);
        Assert.Equal([.. Enumerable.Repeat((byte)0, 64), .. Enumerable.Repeat((byte)0xff, 64)], wire);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    [InlineData(512)]
    public void ExportAndImportInPiecesGiveTheSameBitmap(int factor)
    {
        int granule = Math.Max(8, factor / 8);
        Gen.Select(s_length, Gen.Int[0, int.MaxValue], Gen.Int[1, 5]).Sample((length, seed, pieces) =>
        {
            Random random = new(seed);
            using PageBitmap from = new(length);
            using PageBitmap to = new(length);
            bool[] model = new bool[length];
            for (int i = 0; i < length; i++)
            {
                model[i] = random.Next(2) == 1;
                if (model[i])
                {
                    _ = from.TestAndSet(i);
                }
            }

            long size = from.WireSize(factor);
            long piece = (((size / pieces) + granule - 1) / granule * granule) is var p && p > 0 ? p : granule;
            for (long offset = 0; offset < size; offset += piece)
            {
                byte[] buffer = new byte[Math.Min(piece, size - offset)];
                from.Export(offset, buffer, factor);
                to.Import(offset, buffer, factor);
            }

            Assert.Equal(model, Enumerable.Range(0, length).Select(i => to.Test(i)));
        }, iter: 60);
    }

    [Fact]
    public void APageThatIsOnlyPartlyThereStaysMissing()
    {
        using PageBitmap bitmap = new(2);
        byte[] wire = [.. Enumerable.Repeat((byte)0xff, 128)];
        wire[70] = 0x7f;

        bitmap.Import(0, wire, 512);

        Assert.True(bitmap.Test(0));
        Assert.False(bitmap.Test(1));
    }

    [Fact]
    public void PaddingBitsThatAreSetAreIgnored()
    {
        using PageBitmap bitmap = new(3);

        bitmap.Import(0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 1);

        Assert.Equal(3, bitmap.CountSet());
    }

    [Fact]
    public void PartsThatAreNotWholePagesOrNotInsideAreRefused()
    {
        using PageBitmap bitmap = new(4);
        byte[] wire = new byte[64];

        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Export(4, wire, 512));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Export(200, wire, 512));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Export(-8, wire, 512));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Import(8, wire, 512));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Import(0, wire.AsSpan(0, 8), 512));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.WireSize(3));
    }

#if DEBUG || INTERLEAVING
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ABitThatAnotherThreadSetsInTheSameWordMeanwhileIsNotLost(bool range)
    {
        using PageBitmap bitmap = new(64);
        InterleavingPoint.Install(place =>
        {
            if (place == "bitmap.set")
            {
                InterleavingPoint.Install(null);
                _ = bitmap.TestAndSet(1);
            }
        });

        bool before = range ? bitmap.SetRange(0, 1) == 0 : bitmap.TestAndSet(0);

        InterleavingPoint.Install(null);
        Assert.False(before);
        Assert.Equal(2, bitmap.CountSet());
    }

    [Fact]
    public void ABitThatIsSetWhileItsRangeIsForgottenIsForgottenInBothBitmaps()
    {
        // Received and requested, in the third word: both are set between the look and the clearing.
        using PageBitmap received = new(200);
        using PageBitmap requested = new(200);
        _ = requested.TestAndSet(130);
        _ = requested.TestAndSet(199);
        InterleavingPoint.Install(place =>
        {
            if (place == "bitmap.forget")
            {
                InterleavingPoint.Install(null);
                _ = received.TestAndSet(130);
                _ = received.TestAndSet(199);
            }
        });

        long forgotten = received.ClearRangeInto(128, 40, requested);

        InterleavingPoint.Install(null);
        Assert.Equal((1L, false, false), (forgotten, received.Test(130), requested.Test(130)));
        Assert.Equal((true, true), (received.Test(199), requested.Test(199)));
    }

    [Fact]
    public void ARunWhoseFirstBitIsSetMeanwhileIsNotEmpty()
    {
        using PageBitmap bitmap = new(100);
        _ = bitmap.SetRange(0, 10);
        InterleavingPoint.Install(place =>
        {
            if (place == "run.found")
            {
                InterleavingPoint.Install(null);
                _ = bitmap.TestAndSet(10);
            }
        });

        bool found = bitmap.TryFindNextClearRun(0, 100, out long start, out long count);

        InterleavingPoint.Install(null);
        Assert.Equal((true, 10L, 90L), (found, start, count));
    }
#endif

    [Fact]
    public void CountsAreExactUnderContention()
    {
        const int bits = 1000;
        const int threads = 4;
        using PageBitmap bitmap = new(bits);
        long set = 0;
        long cleared = 0;

        // Threads of their own that begin together: a pool may give all of it to one.
        using Barrier start = new(threads);
        Thread[] all = [.. Enumerable.Range(0, threads).Select(t => new Thread(() => Change(t)))];
        Array.ForEach(all, thread => thread.Start());
        Array.ForEach(all, thread => thread.Join());

        Assert.Equal(set - cleared, bitmap.CountSet());
        Assert.True(set > threads * 1000);

        void Change(int t)
        {
            Random random = new(t);
            start.SignalAndWait();
            for (int i = 0; i < 200_000; i++)
            {
                int first = random.Next(bits);
                int count = random.Next(Math.Min(100, bits - first) + 1);
                switch (random.Next(4))
                {
                    case 0:
                        _ = Interlocked.Add(ref set, bitmap.SetRange(first, count));
                        break;
                    case 1:
                        _ = Interlocked.Add(ref cleared, bitmap.ClearRange(first, count));
                        break;
                    case 2 when !bitmap.TestAndSet(first):
                        _ = Interlocked.Increment(ref set);
                        break;
                    case 3 when bitmap.TestAndClear(first):
                        _ = Interlocked.Increment(ref cleared);
                        break;
                    default:
                        break;
                }
            }
        }
    }

    [Fact]
    public void ABlockOf16TiBHasABitmapThatCostsWhatIsUsed()
    {
        const long pages = (16L << 40) >> 12;
        using PageBitmap bitmap = new(pages);

        Assert.Equal(1L << 32, bitmap.Length);
        Assert.False(bitmap.TestAndSet(pages - 1));
        Assert.Equal(70, bitmap.SetRange((1L << 31) - 3, 70));
        Assert.True(bitmap.Test(pages - 1));
        Assert.Equal(70, bitmap.CountSet((1L << 31) - 100, 500));

        // Before the scans below, which read half of the 512 MiB: not every kernel maps the zero page for a read (seen on 2026-11-29).
        long resident = AnonymousBytes(bitmap.Words, (ulong)PageBitmap.BytesFor(pages));
        Assert.InRange(resident, 1, 64 << 20);
        Assert.True(bitmap.TryFindNextSet((1L << 31) + 1000, out long last) is var found && found);
        Assert.Equal(pages - 1, last);
        Assert.True(bitmap.TryFindNextClearRun((1L << 31) - 3, pages, out long start, out long count));
        Assert.Equal(((1L << 31) + 67, pages - 1 - ((1L << 31) + 67)), (start, count));
        byte[] tail = new byte[8];
        bitmap.Export(bitmap.WireSize(1) - 8, tail, 1);
        Assert.Equal([0, 0, 0, 0, 0, 0, 0, 0x80], tail);
    }

    /// <summary>What the mappings over these bytes have of memory of their own; other tests run in the same process.</summary>
    private static long AnonymousBytes(nuint address, ulong length)
    {
        long sum = 0;
        bool within = false;
        foreach (string line in File.ReadLines("/proc/self/smaps"))
        {
            string first = line[..line.IndexOf(' ', StringComparison.Ordinal)];
            if (!first.EndsWith(':'))
            {
                string[] ends = first.Split('-');
                within = ulong.Parse(ends[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture) < address + length
                    && ulong.Parse(ends[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture) > address;
            }
            else if (within && first == "Anonymous:")
            {
                sum += long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[^2], CultureInfo.InvariantCulture) * 1024;
            }
        }

        return sum;
    }

    private static void Step(PageBitmap bitmap, bool[] model, int op, int index, int start, int count)
    {
        Span<bool> range = model.AsSpan(start, count);
        switch (op)
        {
            case 0:
                Assert.Equal(model[index], bitmap.TestAndSet(index));
                model[index] = true;
                break;
            case 1:
                Assert.Equal(model[index], bitmap.TestAndClear(index));
                model[index] = false;
                break;
            case 2:
                Assert.Equal(range.Count(false), bitmap.SetRange(start, count));
                range.Fill(true);
                break;
            case 3:
                Assert.Equal(range.Count(true), bitmap.ClearRange(start, count));
                range.Clear();
                break;
            case 4:
                Assert.Equal(range.Count(true), bitmap.CountSet(start, count));
                break;
            case 5:
                Assert.Equal(model.Count(b => b), bitmap.CountSet());
                break;
            case 6:
                Assert.Equal(!range.Contains(false), bitmap.AllSet(start, count));
                break;
            case 7:
                Assert.Equal(range.Contains(true), bitmap.AnySet(start, count));
                break;
            case 8:
                int set = model.AsSpan(start).IndexOf(true);
                Assert.Equal(set >= 0, bitmap.TryFindNextSet(start, out long s));
                Assert.Equal(set >= 0 ? start + set : -1, s);
                break;
            case 9:
                int clear = model.AsSpan(start).IndexOf(false);
                Assert.Equal(clear >= 0, bitmap.TryFindNextClear(start, out long c));
                Assert.Equal(clear >= 0 ? start + clear : -1, c);
                break;
            case 10:
                int first = range.IndexOf(false);
                bool found = bitmap.TryFindNextClearRun(start, start + count, out long runStart, out long run);
                Assert.Equal(first >= 0, found);
                if (found)
                {
                    int length = range[first..].IndexOf(true);
                    Assert.Equal((start + first, length < 0 ? count - first : length), (runStart, run));
                }

                break;
            default:
                Assert.Equal(model[index], bitmap.Test(index));
                break;
        }
    }
}
