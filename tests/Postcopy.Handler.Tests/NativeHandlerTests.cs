using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Postcopy.Uffd;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Handler.Tests;

/// <summary>The sample compiled ahead of time: no runtime to start, no compiler, and no collection while it serves.</summary>
public sealed partial class NativeHandlerTests(ITestOutputHelper output)
{
    private const int Limit = 420_000;
    private const int Blocks = 4;
    private const int PagesOfABlock = 26_000;

    [Fact(Timeout = Limit)]
    public async Task AHundredThousandFaultsAreServedWithoutACollection() => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        Requires.Tool("/usr/bin/gcc", "gcc libc6-dev zlib1g-dev");
        using TestImage image = new(PagesOfABlock);
        string program = Publish(image.Temporary("published"));

        // Every block has the same content: the image is read four times.
        GuestMemory[] memory = [.. Enumerable.Range(0, Blocks).Select(_ => GuestMemory.Allocate(new GuestMemoryOptions { Length = (long)PagesOfABlock * TestImage.PageBytes }))];
        using HandoffOwner owner = new(new HandoffOwnerOptions { Open = Requires.AnyKind });
        for (int i = 0; i < Blocks; i++)
        {
            _ = owner.Add(new RamBlockSpec { Name = $"ram{i}", Memory = memory[i] }, 0);
        }

        owner.Register();
        using HandlerProcess handler = HandlerProcess.StartProgram(program, "serve", "--socket", image.Socket, "--image", image.Image, "--fail-on-gc");
        handler.WaitFor("listening");
        HandlerConnection connection = owner.Connect(image.Socket);
        long start = Stopwatch.GetTimestamp();
        int wrong = 0;
        Thread[] vcpus = [.. Enumerable.Range(0, 2).Select(t => new Thread(() =>
        {
            byte[] page = new byte[TestImage.PageBytes];
            byte[] expected = new byte[TestImage.PageBytes];
            for (int i = t; i < Blocks * PagesOfABlock; i += 2)
            {
                memory[i / PagesOfABlock].Read(i % PagesOfABlock * (long)TestImage.PageBytes, page);
                TestImage.Fill(i % PagesOfABlock, expected);
                wrong += expected.AsSpan().SequenceEqual(page) ? 0 : 1;
            }
        }) { IsBackground = true })];
        Array.ForEach(vcpus, t => t.Start());
        foreach (Thread vcpu in vcpus)
        {
            Assert.True(vcpu.Join(TimeSpan.FromSeconds(120)), $"A vCPU thread hangs; {owner.MissingBytes} bytes are missing, the handler said: {handler.Said}");
        }

        TimeSpan took = Stopwatch.GetElapsedTime(start);
        Assert.Equal(HandlerEnd.NothingMissing, await connection.Ended.WaitAsync(Deadline.Default));
        owner.Complete();
        int code = handler.WaitForExit();
        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{took.TotalSeconds:0.0} s; {handler.Said}"));
        Assert.True(code == 0, handler.Said);
        Assert.Equal(0, wrong);
        Assert.Contains("collections while serving: 0,", handler.Said, StringComparison.Ordinal);
        Assert.True(long.Parse(Asked().Match(handler.Said).Groups[1].Value, CultureInfo.InvariantCulture) >= 100_000, handler.Said);
        Array.ForEach(memory, m => m.Dispose());
    });

    [GeneratedRegex(@"(\d+) pages asked for")]
    private static partial Regex Asked();

    private static string Publish(string directory)
    {
        string root = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(root, "Postcopy.Uffd.sln")))
        {
            root = Path.GetDirectoryName(root) ?? throw new InvalidOperationException("The repository's root was not found above the tests.");
        }

        // No server process may stay behind: it would hold our pipes open.
        ProcessStartInfo start = new("dotnet",
        [
            "publish", Path.Combine(root, "samples/Postcopy.Handler"), "-c", "Release", "-r", $"linux-{RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant()}", "-o", directory,
            "--artifacts-path", directory + "-artifacts", "-nodeReuse:false", "-p:UseSharedCompilation=false", "-warnaserror",
        ]) { RedirectStandardOutput = true, RedirectStandardError = true };
        using Process publish = Process.Start(start)!;
        Task<string> said = publish.StandardOutput.ReadToEndAsync();
        Task<string> errors = publish.StandardError.ReadToEndAsync();
        if (!publish.WaitForExit(TimeSpan.FromMinutes(5)))
        {
            publish.Kill(entireProcessTree: true);
        }

        Assert.True(publish.ExitCode == 0, $"Publishing failed: {said.Result}{errors.Result}");
        return Path.Combine(directory, "postcopy-handler");
    }
}
