using Postcopy.Vmm.Node;

namespace Postcopy.Vmm.Tests;

/// <summary>The commands, each machine in a process of its own.</summary>
public sealed class ProcessTests(ITestOutputHelper output)
{
    private const int Limit = 180_000;

    [Theory(Timeout = Limit)]
    [InlineData("1", 3)]
    [InlineData("2", 20)]
    public async Task AGuestGoesBackAndForthBetweenTwoProcesses(string vcpus, int hops)
    {
        Requires.Kvm().Dispose();
        Requires.Userfaultfd();
        string a = VmmProcess.FreeEndpoint();
        string b = VmmProcess.FreeEndpoint();
        string count = hops.ToString(System.Globalization.CultureInfo.InvariantCulture);
        await using VmmProcess second = new(true, "receive", "--listen", b, "--to", a, "--hops", count, "--beats", "1", "--bandwidth", "64");
        await using VmmProcess first = new(true, "run", "--listen", a, "--to", b, "--hops", count, "--beats", "1", "--vcpus", vcpus, "--memory", "8", "--bandwidth", "64");

        (int code, string said, string errors) = await first.EndAsync();
        Assert.True(code == 0, said + errors);
        (code, said, errors) = await second.EndAsync();
        Assert.True(code == 0, said + errors);

        NodeResult atA = first.Result;
        NodeResult atB = second.Result;
        Assert.Equal(hops, atA.Arrivals.Count + atB.Arrivals.Count);
        NodeGuest guest = (atA.Guest ?? atB.Guest)!;
        for (int i = 0; i < guest.Touched.Length; i++)
        {
            int[] all = [.. atA.Beats(i).Concat(atB.Beats(i)).Order()];
            Assert.Equal(Enumerable.Range(1, all.Length), all);
        }

        Assert.Equal(0, guest.WrongPages);
        Assert.Equal(0, guest.Errors.Sum());
        foreach (NodeArrival arrival in atA.Arrivals.Concat(atB.Arrivals))
        {
            output.WriteLine($"{arrival.FaultRequests} faults, all blocked {arrival.TotalBlockedMs:0.0} ms, vCPUs {string.Join(", ", arrival.VcpuBlockedMs.Select(m => $"{m:0.0}"))} ms, switch {arrival.DowntimeMs:0.0} ms, postcopy {arrival.DurationMs:0.0} ms");
        }
    }

    [Theory(Timeout = Limit)]
    [InlineData("demo")]
    [InlineData("demo", "--no-qemu", "--mode", "protected")]
    public async Task TheDemoMovesAGuestAndSaysSo(params string[] arguments)
    {
        Requires.Kvm().Dispose();
        Requires.Userfaultfd();
        await using VmmProcess demo = new(false, arguments);

        (int code, string said, string errors) = await demo.EndAsync();

        output.WriteLine(said);
        Assert.True(code == 0, said + errors);
        Assert.Contains("heartbeats vCPU 1:", said, StringComparison.Ordinal);
        Assert.DoesNotContain("NOT in order", said, StringComparison.Ordinal);
        Assert.True(said.Count(c => c == '\n') <= 50, "More than a screen.");
    }

    [Theory(Timeout = Limit)]
    [InlineData("--vcpus: '9' is not allowed; give a whole number from 1 to 4.", "run", "--vcpus", "9")]
    [InlineData("--to: 'nowhere' is not allowed", "run", "--to", "nowhere")]
    [InlineData("--listen is needed", "receive")]
    public async Task AWrongCommandLineIsSaidInOneLine(string expected, params string[] arguments)
    {
        await using VmmProcess process = new(false, arguments);

        (int code, _, string errors) = await process.EndAsync();

        Assert.Equal(CommandLine.UsageError, code);
        Assert.Contains(expected, errors, StringComparison.Ordinal);
    }

    [Fact(Timeout = Limit)]
    public async Task NobodyAtTheOtherEndIsAnErrorWithARemedy()
    {
        Requires.Kvm().Dispose();
        await using VmmProcess process = new(false, "run", "--to", VmmProcess.FreeEndpoint(), "--beats", "1", "--memory", "4");

        (int code, _, string errors) = await process.EndAsync();

        Assert.Equal(NodeMain.Failed, code);
        Assert.Contains("Is a VMM listening there (receive --listen)?", errors, StringComparison.Ordinal);
    }
}
