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

    // The runtime itself wants descriptors now and then: for code that is compiled, and for assemblies, which a first run has loaded.
    private static readonly Dictionary<string, string> s_runtime = new() { ["DOTNET_EnableWriteXorExecute"] = "0", ["DOTNET_TieredCompilation"] = "0" };

    [Fact(Timeout = Limit)]
    public async Task ARecoveryThatCannotBeAcceptedForWantOfDescriptorsIsAcceptedLater() => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        DirectoryInfo folder = Directory.CreateTempSubdirectory("postcopy-fd-");
        try
        {
            string path = Path.Combine(folder.FullName, "s");
            using ChildProcess child = ChildProcess.StartWith(Receive, Receiver.Budget + Receiver.Budget, s_runtime, path);
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
        using ChildProcess child = ChildProcess.StartWith(Begin, Receiver.Budget, s_runtime);
        string said = child.ReadToEnd();
        child.WaitForSuccess();
        output.WriteLine(said);
        Assert.Contains("EMFILE", said, StringComparison.Ordinal);
        Assert.Contains("RLIMIT_NOFILE", said, StringComparison.Ordinal);
    });

    private static void Receive(ChildScenario child)
    {
        RehearseAsync().GetAwaiter().GetResult();
        OpenConsole();
        using MigrationListener listener = MigrationListener.Bind(new System.Net.Sockets.UnixDomainSocketEndPoint(child.Arguments[0]));
        Receiver receiver = new(listener.AcceptAsync, new QemuIncomingOptions { RecoverTimeout = Receiver.Budget }, vcpus: 2);
        child.Say("listening");
        receiver.Running.Wait(Receiver.Budget);
        TestLibc.Limit(TestLibc.RLIMIT_NOFILE, None);
        child.Say("running, without descriptors");
        receiver.UntilAsync(() => receiver.Destination.State == PostcopyState.Paused, "the pause").GetAwaiter().GetResult();
        child.Say("paused");
        _ = child.Hear();
        TestLibc.Limit(TestLibc.RLIMIT_NOFILE, 1024);
        receiver.FinishAsync().GetAwaiter().GetResult();
        child.Say("whole");
    }

    /// <summary>A migration with a recovery, so that all code is there.</summary>
    private static async Task RehearseAsync()
    {
        using Connections connections = new();
        await using Receiver receiver = new(connections.AcceptAsync, new QemuIncomingOptions { RecoverTimeout = Receiver.Budget }, vcpus: 1);
        _ = await SourceLoop.RunAsync(
            receiver, new TestPages(new SourceRamBlock("pc.ram", 1 << 20)), new QemuSourceOptions { BackgroundBandwidth = 4 << 20 }, connections.Connect, source => source.BreakConnection());
        await receiver.FinishAsync();
    }

    /// <summary>The scenario talks over it, and the runtime opens it with the first word.</summary>
    private static void OpenConsole() => _ = (Console.In, Console.Out, Console.Error);

    private static void Begin(ChildScenario child)
    {
        RehearseAsync().GetAwaiter().GetResult();
        OpenConsole();
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 4096 });
        PostcopyDestination destination = new(new PostcopyOptions { Open = Requires.AnyKind });
        _ = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = memory });
        TestLibc.Limit(TestLibc.RLIMIT_NOFILE, None);
        try
        {
            destination.Advise();
            child.Say("advised");
        }
        catch (UffdException e)
        {
            child.Say(e.Message.ReplaceLineEndings(" "));
        }
    }
}
