using System.Diagnostics;
using Postcopy.Uffd.Qemu.Tests.Incoming;

namespace Postcopy.Breaking.Tests;

/// <summary>
/// Every parser of what a peer sends, on mutations of kept seeds: each input is accepted or refused by the parser's own exception, and
/// costs little memory. The whole destination is fuzzed by HostileStreamTests.
/// </summary>
public sealed class ParserFuzzTests(ITestOutputHelper output)
{
    private const int Limit = 3_600_000;
    private const long MostBytes = 4 << 20;

    public static TheoryData<string> SeedFiles() => !Directory.Exists(Seeds.Folder) ? [] : [.. Directory.GetFiles(Seeds.Folder, "*.bin").Select(f => Path.GetFileNameWithoutExtension(f)).Order(StringComparer.Ordinal)];

    /// <summary>POSTCOPY_FUZZ=1000000 mutations of each seed for the full run.</summary>
    [Theory(Timeout = Limit)]
    [MemberData(nameof(SeedFiles))]
    public async Task EveryMutationIsAcceptedOrRefused(string seed) => await Task.Run(() =>
    {
        Func<byte[], bool> parser = Parsers.All[seed.Split('-')[0]];
        byte[] original = File.ReadAllBytes(Path.Combine(Seeds.Folder, $"{seed}.bin"));
        int count = Full.Count("POSTCOPY_FUZZ", 1500);
        Mutator mutator = new();
        int accepted = 0;
        int refused = 0;
        long most = 0;
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < count; i++)
        {
            mutator.Load(original);
            mutator.Mutate(new Random(i));
            byte[] input = mutator.Bytes.ToArray();
            long before = GC.GetAllocatedBytesForCurrentThread();
            try
            {
                accepted += parser(input) ? 1 : 0;
            }
            catch (Exception e) when (Parsers.IsRefusal(e))
            {
                refused++;
            }
            catch (Exception e)
            {
                Assert.Fail($"Mutation {i} of {seed} ended in {e.GetType().Name}. Mend the parser and keep the input: "
                    + $"echo {Convert.ToHexString(input)} | xxd -r -p > Fuzzing/Seeds/{seed}-{i}.bin\n{e}");
            }

            most = Math.Max(most, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        output.WriteLine($"{seed}: {count} mutations, {accepted} accepted, {refused} refused by exception; at most {most} bytes allocated; {Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} s");
        Assert.True(accepted < count, "Nothing was ever refused.");
        Assert.InRange(most, 0, MostBytes);
    });

    [Fact]
    public void TheSeedsAreWhatTheyShouldBeAndEveryParserHasOne()
    {
        bool update = Environment.GetEnvironmentVariable("POSTCOPY_UPDATE") == "1";
        foreach ((string name, byte[] bytes) in Seeds.Made())
        {
            if (update)
            {
                File.WriteAllBytes(Path.Combine(Seeds.SourceFolder, $"{name}.bin"), bytes);
                continue;
            }

            Assert.Equal(bytes, File.ReadAllBytes(Path.Combine(Seeds.Folder, $"{name}.bin")));
            bool whole;
            try
            {
                whole = Parsers.All[name.Split('-')[0]](bytes);
            }
            catch (Exception e) when (name is "stream-precopy" && Parsers.IsRefusal(e))
            {
                // It breaks off before its end: there is more to it than one phase.
                whole = true;
            }

            Assert.True(whole, $"{name} is not accepted.");
        }

        if (update)
        {
            return;
        }

        Assert.Equal(Parsers.All.Keys.Order(), SeedFiles().Select(d => d.Data.Split('-')[0]).Distinct().Order());
    }
}
