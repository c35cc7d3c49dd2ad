using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>
/// A pool of huge pages that runs dry in mid-migration, under memory that a VMM mapped without reserving (the library's own reserves).
/// The kernel says "already present" then for a page that is not (hazard H7).
/// </summary>
[Collection(HugePagesCollection.Name)]
public sealed class HugePagePoolTests(ITestOutputHelper output)
{
    private const int Limit = 300_000;
    private const long Huge = 2 << 20;

    [Theory(Timeout = Limit)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task ADryPoolIsWaitedForAndThenNamed(bool comesBack) => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        HugePages.Require();
        using ChildProcess child = ChildProcess.Start(Run, 2 * Receiver.Budget, $"{comesBack}", $"{HugePages.Available}");
        string line = child.ReadLine();
        output.WriteLine(line);
        child.WaitForSuccess();
        if (comesBack)
        {
            Assert.StartsWith("whole", line, StringComparison.Ordinal);
        }
        else
        {
            Assert.Contains("OutOfHugePages", line, StringComparison.Ordinal);
            Assert.EndsWith("frozen and right", line, StringComparison.Ordinal);
        }
    });

    private static void Run(ChildScenario child) =>
        child.Say(RunAsync(bool.Parse(child.Arguments[0]), int.Parse(child.Arguments[1], System.Globalization.CultureInfo.InvariantCulture)).GetAwaiter().GetResult());

    private static async Task<string> RunAsync(bool comesBack, int available)
    {
        // All but two pages of the pool are left for a guest of one more.
        using RawMapping others = RawMapping.Hugetlb(2, shared: false).Fill(1);
        using RawMapping guest = RawMapping.Hugetlb(available - 1, shared: false, reserve: false);
        using Connections connections = new();
        PostcopyDestination? destination = null;
        Receiver receiver = new(connections.AcceptAsync, new QemuIncomingOptions
        {
            CreateBlock = block => new RamBlockSpec { Name = block.Name, HostAddress = guest.Address, UsedLength = block.Length, PageSize = PageSize.TwoMiB },
        }, new PostcopyOptions { Placer = new PlacerOptions { Deadline = comesBack ? Receiver.Budget : TimeSpan.FromSeconds(1) } });
        destination = receiver.Destination;
        SourceRamBlock ram = new("pc.ram", (available - 1) * Huge, Huge);
        await using QemuSource source = new(new TestPages(ram), new QemuSourceOptions { DetectZeroPages = false });
        Task<QemuSourceState> sending = source.RunAsync(connections.Connect());
        await receiver.Running.WaitAsync(Receiver.Budget);
        receiver.StartGuest(2);
        if (comesBack)
        {
            await receiver.UntilAsync(() => destination.Blocks.MissingBytes == Huge, "all but one page");
            await Task.Delay(300);
            others.Dispose();
            await receiver.FinishAsync();
            return $"whole, {await sending.WaitAsync(Receiver.Budget)}";
        }

        try
        {
            _ = await receiver.Receiving.WaitAsync(Receiver.Budget);
            throw new InvalidDataException("It completed without a pool.");
        }
        catch (QemuIncomingException e)
        {
            await destination.CloseAsync(MissingPagePolicy.KeepWaiting);
            try
            {
                receiver.Guest!.Join(TimeSpan.FromSeconds(1), receiver.ToString);
            }
            catch (TimeoutException)
            {
                Console.WriteLine($"{e.Message} SourceMayResume {e.SourceMayResume}, source {source.State}: frozen and right");
                TestLibc.exit_now(0);
            }

            throw new InvalidDataException("A vCPU got past the missing page.");
        }
    }
}
