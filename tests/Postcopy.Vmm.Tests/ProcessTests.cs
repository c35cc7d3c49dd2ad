using System.Globalization;
using Postcopy.Vmm.Node;
using Postcopy.Vmm.Qemu;

namespace Postcopy.Vmm.Tests;

/// <summary>The commands, each machine in a process of its own.</summary>
public sealed class ProcessTests(ITestOutputHelper output)
{
    private const int Limit = 180_000;
    private const byte Ticks = 100;

    [Theory(Timeout = Limit)]
    [InlineData(1, 3)]
    [InlineData(2, 20)]
    [InlineData(4, 3)]
    public async Task AGuestGoesBackAndForthBetweenTwoProcesses(int vcpus, int hops)
    {
        Requires.Kvm().Dispose();
        Requires.Userfaultfd();
        string a = VmmProcess.FreeEndpoint();
        string b = VmmProcess.FreeEndpoint();
        NodeResult[] results = await RunBothAsync(vcpus, hops, bandwidth: 64, a, b, toA: a, toB: b);

        AssertNothingLost(results, hops);
    }

    /// <summary>Each way once in the middle of postcopy: the answers to pings are 40 bytes, what follows asks for pages.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task ANetworkThatFailsBetweenTwoProcessesLosesNothing(int vcpus)
    {
        const long someRequests = 80;
        Requires.Kvm().Dispose();
        Requires.Userfaultfd();
        string a = VmmProcess.FreeEndpoint();
        string b = VmmProcess.FreeEndpoint();
        await using CuttingProxy toA = new(a, someRequests, back: true);
        await using CuttingProxy toB = new(b, someRequests, back: true);
        NodeResult[] results = await RunBothAsync(vcpus, hops: 2, bandwidth: 4, a, b, toA.Address, toB.Address);

        Assert.True(toA.HasCut && toB.HasCut);
        AssertNothingLost(results, hops: 2);
        Assert.All(results.SelectMany(r => r.Arrivals), arrival => Assert.True(arrival.LostConnections >= 1));
        Assert.All(results.SelectMany(r => r.Departures), departure => Assert.True(departure.Reconnections >= 1));
    }

    /// <summary>In precopy: the source tells that it failed, and still has its guest, whole.</summary>
    [Theory(Timeout = Limit)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task ANetworkThatFailsInPrecopyLeavesTheGuestWhereItIs(int vcpus)
    {
        Requires.Kvm().Dispose();
        Requires.Userfaultfd();
        string b = VmmProcess.FreeEndpoint();
        await using CuttingProxy toB = new(b, cutAfter: 2 << 20);
        await using VmmProcess second = new(true, "receive", "--listen", b, "--beats", "1");
        await using VmmProcess first = new(true, "run", "--to", toB.Address, "--vcpus", Text(vcpus), "--memory", "8", "--beats", "1", "--bandwidth", "8");
        (int sent, string said, string errors) = await first.EndAsync();
        (int received, _, _) = await second.EndAsync();

        Assert.Equal((NodeMain.Failed, NodeMain.Failed), (sent, received));
        Assert.Contains("the guest goes on here", said, StringComparison.Ordinal);
        Assert.Contains("could not be sent", errors, StringComparison.Ordinal);
        Assert.Equal(0, first.Result.Guest?.WrongPages);
        Assert.Equal(vcpus, first.Result.Guest?.Touched.Length);
        Assert.Null(second.Result.Guest);
    }

    /// <summary>As in the README: a guest that QEMU runs, and that knows nothing of heartbeats.</summary>
    [Fact(Timeout = Limit)]
    public async Task AGuestOfSomebodyElseRunsHereUntilItHalts()
    {
        Requires.Kvm().Dispose();
        Requires.Userfaultfd();
        string? root = Requires.Qemu();
        await using VmmProcess receiver = new(true, "receive", "--listen", "127.0.0.1:0");
        int port = (await receiver.ListeningAsync()).Port;
        await using QemuProcess qemu = await QemuProcess.StartAsync(TickingGuest(), vcpus: 1, megabytes: 32, root);
        await qemu.Serial.NextAsync(l => l == "tick").WaitAsync(TestMachine.Limit);

        await qemu.MigrateAsync(port, bandwidth: QemuGuest.SlowPrecopy, postcopyBandwidth: 0);
        (int code, string said, string errors) = await receiver.EndAsync();

        Assert.True(code == 0, said + errors);
        Assert.Contains("guest: tick\n", said, StringComparison.Ordinal);
        Assert.EndsWith("the guest halted\n", said, StringComparison.Ordinal);
        Assert.Null(receiver.Result.Guest);
        string all = string.Concat(qemu.Serial.Lines.Select(l => l + "\n")) + qemu.Serial.Pending + string.Concat(receiver.Result.Lines.Select(l => l + "\n"));
        Assert.Equal(string.Concat(Enumerable.Repeat("tick\n", Ticks)), all);
    }

    /// <summary>With QEMU if there is one, and without: then it says what would add the first leg.</summary>
    [Theory(Timeout = Limit)]
    [InlineData("long", null, "QEMU -> VMM A -> VMM B")]
    [InlineData("protected", "/nowhere", "(qemu-system-x86_64 is not on PATH: apt-get install qemu-system-x86 adds the first leg.)")]
    public async Task TheDemoMovesAGuestAndSaysSo(string mode, string? path, string expected)
    {
        Requires.Kvm().Dispose();
        Requires.Userfaultfd();
        _ = path is null ? Requires.Qemu() : null;
        string page = Path.GetTempFileName();
        try
        {
            await using VmmProcess demo = new(false, path, ["demo", "--mode", mode, "--timeline", page]);

            (int code, string said, string errors) = await demo.EndAsync();

            output.WriteLine(said);
            Assert.True(code == 0, said + errors);
            Assert.Contains(expected, said, StringComparison.Ordinal);
            Assert.Contains("heartbeats vCPU 1:", said, StringComparison.Ordinal);
            Assert.DoesNotContain("NOT in order", said, StringComparison.Ordinal);
            Assert.Matches(@"vCPU 1  [#+.]{64}\n", said);
            Assert.True(said.Count(c => c == '\n') <= 50, "More than a screen.");
            Assert.Contains("<svg", await File.ReadAllTextAsync(page), StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(page);
        }
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

    private static async Task<NodeResult[]> RunBothAsync(int vcpus, int hops, int bandwidth, string a, string b, string toA, string toB)
    {
        string[] both = ["--hops", Text(hops), "--beats", "1", "--bandwidth", Text(bandwidth), "--timeout", "150"];
        await using VmmProcess second = new(true, ["receive", "--listen", b, "--to", toA, .. both]);
        await using VmmProcess first = new(true, ["run", "--listen", a, "--to", toB, "--vcpus", Text(vcpus), "--memory", "8", .. both]);
        foreach (VmmProcess process in (VmmProcess[])[first, second])
        {
            (int code, string said, string errors) = await process.EndAsync();
            Assert.True(code == 0, said + errors);
        }

        return [first.Result, second.Result];
    }

    private void AssertNothingLost(NodeResult[] results, int hops)
    {
        NodeArrival[] arrivals = [.. results.SelectMany(r => r.Arrivals)];
        Assert.Equal(hops, arrivals.Length);
        NodeGuest guest = results.Select(r => r.Guest).Single(g => g is not null)!;
        for (int i = 0; i < guest.Touched.Length; i++)
        {
            int[] all = [.. results.SelectMany(r => r.Beats(i)).Order()];
            Assert.Equal(Enumerable.Range(1, all.Length), all);
        }

        Assert.Equal(0, guest.WrongPages);
        Assert.Equal(0, guest.Errors.Sum());
        foreach (NodeArrival arrival in arrivals)
        {
            Assert.Equal(guest.Touched.Length, arrival.VcpuBlockedMs.Length);
            Assert.True(arrival.FaultRequests == 0 || arrival.Timeline.Length > guest.Touched.Length, "Stalls, and no picture of them.");
            output.WriteLine($"{arrival.FaultRequests} faults, all blocked {arrival.TotalBlockedMs:0.0} ms, vCPUs {string.Join(", ", arrival.VcpuBlockedMs.Select(m => $"{m:0.0}"))} ms, switch {arrival.DowntimeMs:0.0} ms, postcopy {arrival.DurationMs:0.0} ms");
        }
    }

    /// <summary>A boot sector that prints a word so many times, waits some 40 ms after each, and halts.</summary>
    private static byte[] TickingGuest()
    {
        byte[] sector = new byte[512];
        byte[] code =
        [
            0xfa, 0x31, 0xdb, // cli; bx = 0
            0xba, 0xf8, 0x03, 0xb0, (byte)'t', 0xee, 0xb0, (byte)'i', 0xee, 0xb0, (byte)'c', 0xee, 0xb0, (byte)'k', 0xee, 0xb0, (byte)'\n', 0xee,
            0x0f, 0x31, 0x66, 0x89, 0xc1, // ecx = time-stamp counter
            0x0f, 0x31, 0x66, 0x29, 0xc8, 0x66, 0x3d, 0x00, 0xe1, 0xf5, 0x05, 0x72, 0xf3, // until 100 million later
            0x43, 0x83, 0xfb, Ticks, 0x75, 0xd6, // the next of them
            0xf4,
        ];
        code.CopyTo(sector, 0);
        sector[510] = 0x55;
        sector[511] = 0xaa;
        return sector;
    }

    private static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);
}
