using Postcopy.Uffd;
using Postcopy.Uffd.Qemu;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Breaking.Tests;

/// <summary>No descriptor is left (RLIMIT_NOFILE): at the start it is said, and in mid-migration it is waited out.</summary>
public sealed class DescriptorLimitTests(ITestOutputHelper output)
{
    private const int Limit = 300_000;

    // Descriptors that are open stay open; the next one would have a higher number.
    private const ulong None = 4;

    [Fact(Timeout = Limit)]
    public async Task ARecoveryThatCannotBeAcceptedForWantOfDescriptorsIsAcceptedLater() => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        DirectoryInfo folder = Directory.CreateTempSubdirectory("postcopy-fd-");
        try
        {
            string path = Path.Combine(folder.FullName, "s");
            using ChildProcess child = ChildProcess.Start(Receive, Receiver.Budget + Receiver.Budget, path);
            Assert.Equal("listening", child.ReadLine());
            await using QemuSource source = new(new TestPages(new SourceRamBlock("pc.ram", 8 << 20)), new QemuSourceOptions { BackgroundBandwidth = 1 << 20 });
            Task<QemuSourceState> sending = source.RunAsync(ReceivingChild.Connect(path));
            Assert.Equal("running, without descriptors", child.ReadLine());
            source.BreakConnection();
            Assert.Equal(QemuSourceState.PostcopyPaused, await sending.WaitAsync(Receiver.Budget));
            Assert.Equal("paused", child.ReadLine());
            source.BackgroundBandwidth = 0;
            sending = source.ResumeAsync(ReceivingChild.Connect(path));
            await Task.Delay(500);
            Assert.False(sending.IsCompleted, $"{source.State} {source.Error?.Message} {(child.HasExited ? child.Errors : string.Empty)}");
            child.WriteLine("have descriptors again");
            Assert.Equal("whole", child.ReadLine());
            Assert.Equal(QemuSourceState.Completed, await sending.WaitAsync(Receiver.Budget));
            child.WaitForSuccess();
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    });

    [Fact(Timeout = Limit)]
    public async Task WithoutADescriptorNothingBeginsAndTheReasonIsNamed() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        string said = ChildProcess.Run(Begin);
        output.WriteLine(said);
        Assert.Contains("EMFILE", said, StringComparison.Ordinal);
        Assert.Contains("RLIMIT_NOFILE", said, StringComparison.Ordinal);
    });

    private static void Receive(ChildScenario child)
    {
        using MigrationListener listener = MigrationListener.Bind(new System.Net.Sockets.UnixDomainSocketEndPoint(child.Arguments[0]));
        Receiver receiver = new(listener.AcceptAsync, new QemuIncomingOptions { RecoverTimeout = Receiver.Budget });
        child.Say("listening");
        OpenConsole();
        receiver.Running.Wait(Receiver.Budget);
        receiver.StartGuest(2);
        TestLibc.Limit(TestLibc.RLIMIT_NOFILE, None);
        child.Say("running, without descriptors");
        receiver.UntilAsync(() => receiver.Destination.State == PostcopyState.Paused, "the pause").GetAwaiter().GetResult();
        child.Say("paused");
        _ = child.Hear();
        TestLibc.Limit(TestLibc.RLIMIT_NOFILE, 1024);
        receiver.FinishAsync().GetAwaiter().GetResult();
        child.Say("whole");
    }

    /// <summary>The scenario talks over it, and the runtime opens it with the first word.</summary>
    private static void OpenConsole() => _ = (Console.In, Console.Out, Console.Error);

    private static void Begin(ChildScenario child)
    {
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 4096 });
        PostcopyDestination destination = new(new PostcopyOptions { Open = Requires.AnyKind });
        _ = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = memory });
        OpenConsole();
        TestLibc.Limit(TestLibc.RLIMIT_NOFILE, None);
        try
        {
            destination.Advise();
            child.Say("advised");
        }
        catch (UffdException e)
        {
            child.Say(e.Message);
        }
    }
}
