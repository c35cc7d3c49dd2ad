using System.Diagnostics;

namespace Postcopy.Uffd.Qemu.Tests.Wire;

/// <summary>Small streams with bytes changed, dropped and doubled: always an end, always one of two exceptions, never much memory.</summary>
public sealed class MutationTests
{
    private const int Rounds = 5000;
    private static readonly TimeSpan s_timeLimit = TimeSpan.FromSeconds(20);

    [Fact]
    public void MutatedStreamsEndInOneOfTwoExceptions()
    {
        byte[] main = GoldenStreamTests.SmallMigration();
        byte[] urgent = new WireBytes().NamedPage("b", 0x1000, 7).NextZero(0).NamedPage("a", 0, 8).U64(WireBytes.Eos).ToArray();
        byte[] recovery = new WireBytes().Command(10, [1, (byte)'a']).Command(10, [1, (byte)'b']).Command(9)
            .Part().NamedPage("a", 0, 7).NamedZero("b", 0x1000).Finish().End().Finish().U8(0).ToArray();
        Random random = new(20261123);
        long started = Stopwatch.GetTimestamp();
        int malformed = 0;
        int lost = 0;
        int whole = 0;
        for (int round = 0; round < Rounds && Stopwatch.GetElapsedTime(started) < s_timeLimit; round++)
        {
            byte[] bytes = Mutate((round % 4) switch { 0 => urgent, 1 => recovery, _ => main }, random);
            MigrationStreamState state = round % 4 < 2 ? GoldenStreamTests.RunningState(("a", 0x2000, null), ("b", 0x2000, null)) : new();
            long before = GC.GetAllocatedBytesForCurrentThread();
            using QemuStreamReader reader = Streams.Reader(bytes, state);
            try
            {
                _ = reader.ReadAll();
                whole++;
            }
            catch (MigrationStreamException e)
            {
                Assert.InRange(e.StreamOffset, 0, bytes.Length);
                malformed++;
            }
            catch (MigrationConnectionException e)
            {
                Assert.Equal(bytes.Length, e.StreamOffset);
                lost++;
            }

            long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            Assert.True(allocated < 1 << 20, $"{allocated} bytes for a stream of {bytes.Length}");
        }

        TestContext.Current.TestOutputHelper?.WriteLine($"{malformed} malformed, {lost} cut, {whole} read whole");
        Assert.True(malformed > 100);
    }

    private static byte[] Mutate(byte[] original, Random random)
    {
        List<byte> bytes = [.. original];
        int changes = random.Next(1, 5);
        for (int i = 0; i < changes; i++)
        {
            // Mostly between the pages: their content cannot be wrong.
            int at = random.Next(bytes.Count);
            while (at < bytes.Count - 1 && at > 0 && bytes[at] == bytes[at - 1] && random.Next(50) != 0)
            {
                at++;
            }

            switch (random.Next(5))
            {
                case 0:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 1:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 2:
                    bytes.RemoveRange(at, Math.Min(random.Next(1, 20), bytes.Count - at));
                    break;
                case 3:
                    bytes.InsertRange(at, bytes.GetRange(at, Math.Min(random.Next(1, 40), bytes.Count - at)));
                    break;
                default:
                    bytes[at] = (byte)(random.Next(2) == 0 ? 0 : 0xff);
                    break;
            }

            if (bytes.Count == 0)
            {
                bytes.Add(0);
            }
        }

        return [.. bytes];
    }
}
