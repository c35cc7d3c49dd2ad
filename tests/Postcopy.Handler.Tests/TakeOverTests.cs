using System.Diagnostics;
using System.Globalization;
using Postcopy.Uffd;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Handler.Tests;

/// <summary>Handlers that are killed while a guest runs, and the next ones.</summary>
public sealed class TakeOverTests(ITestOutputHelper output)
{
    private const int Limit = 300_000;

    /// <summary>Kills of the run: POSTCOPY_HANDLER_KILLS=100 is the full one, on 512 MiB instead of 128.</summary>
    private static int Kills =>
        int.TryParse(Environment.GetEnvironmentVariable("POSTCOPY_HANDLER_KILLS"), CultureInfo.InvariantCulture, out int n) ? n : 10;

    [Fact(Timeout = Limit)]
    public async Task KillingTheHandlerAgainAndAgainLosesNothingAndHangsNobody() => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        int kills = Kills;
        int pages = (kills >= 100 ? 512 : 128) << 8;
        using TestImage image = new(pages);
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = (long)pages * TestImage.PageBytes });
        using HandoffOwner owner = new(new HandoffOwnerOptions { Open = Requires.AnyKind });
        _ = owner.Add(new RamBlockSpec { Name = "ram", Memory = memory }, 0);
        owner.Register();

        HandlerProcess? handler = null;
        int killed = 0;
        int started = 0;
        bool last = false;
        GuestVcpus guest = new(memory, 4) { Window = Math.Max(4, pages / (kills + 1)) };
        guest.Start();
        Task served = owner.KeepServedAsync(_ =>
        {
            if (Volatile.Read(ref handler) is not { HasExited: false })
            {
                // The last one places the rest; those before serve only what is touched.
                started++;
                string[] arguments = ["serve", "--socket", image.Socket, "--image", image.Image];
                Volatile.Write(ref handler, HandlerProcess.Start(Volatile.Read(ref last) ? [.. arguments, "--fill"] : arguments));
            }

            return new(image.Socket);
        }, TestContext.Current.CancellationToken);

        // Some die before they listen, some in the handshake, most while they serve.
        Random random = new(5);
        long start = Stopwatch.GetTimestamp();
        try
        {
            while (killed < kills)
            {
                long servedBefore = owner.Handlers;
                bool early = random.Next(5) == 0;
                _ = Deadline.Reached(() => early || owner.Handlers > servedBefore || served.IsCompleted, TimeSpan.FromSeconds(10));
                Assert.False(served.IsCompleted, $"Serving ended early: {served.Status} {served.Exception}");
                await Task.Delay(random.Next(120));
                HandlerProcess victim = Volatile.Read(ref handler)!;
                if (victim.HasExited)
                {
                    continue;
                }

                killed++;
                if (killed == kills)
                {
                    Volatile.Write(ref last, true);
                }

                victim.Kill();
                guest.Window = Math.Min(pages, (long)pages * (killed + 1) / (kills + 1));
            }

            await served.WaitAsync(TimeSpan.FromSeconds(60));
        }
        finally
        {
            guest.Stop($"{killed} kills, {owner.MissingBytes} bytes missing, the handler said: {handler?.Said}");
        }

        owner.Complete();
        Assert.Equal(0, handler!.WaitForExit());
        Assert.Contains("ended: Completed", handler.Said, StringComparison.Ordinal);
        guest.CheckEverything();
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{killed} kills in {Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} s, {started} handlers started, {owner.Handlers} took over, {pages >> 8} MiB, {guest.Touches} touches"));
        handler.Dispose();
    });

    [Fact(Timeout = Limit)]
    public async Task AHandlerThatHangsIsKilledAndReplaced() => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        using TestImage image = new(4096);
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 4096 * TestImage.PageBytes });
        using HandoffOwner owner = new(new HandoffOwnerOptions { Open = Requires.AnyKind, HandlerTimeout = TimeSpan.FromSeconds(1) });
        _ = owner.Add(new RamBlockSpec { Name = "ram", Memory = memory }, 0);
        owner.Register();
        using HandlerProcess first = HandlerProcess.Start("serve", "--socket", image.Socket, "--image", image.Image);
        first.WaitFor("listening");
        HandlerConnection connection = owner.Connect(image.Socket);
        first.WaitFor("serving");
        const int sigstop = 19;
        Assert.Equal(0, TestLibc.kill(first.Id, sigstop));
        GuestVcpus guest = new(memory, 2);
        guest.Start();
        Assert.Equal(HandlerEnd.Hung, await connection.Ended.WaitAsync(Deadline.Default));
        Assert.NotEqual(0, first.WaitForExit());
        connection.Dispose();

        using HandlerProcess second = HandlerProcess.Start("serve", "--socket", image.Socket, "--image", image.Image, "--fill");
        await owner.KeepServedAsync(_ => new(image.Socket), TestContext.Current.CancellationToken).WaitAsync(Deadline.Default);
        guest.Stop(second.Said);
        owner.Complete();
        Assert.Equal(0, second.WaitForExit());
        guest.CheckEverything();
    });

    [Fact(Timeout = Limit)]
    public async Task AWrongImageIsNamedAndTheRightOneServesWhoWaits() => await Task.Run(async () =>
    {
        Requires.Userfaultfd();
        using TestImage image = new(64);
        string cut = image.Temporary("cut");
        await File.WriteAllBytesAsync(cut, File.ReadAllBytes(image.Image)[..(63 * TestImage.PageBytes)]);
        using GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 64 * TestImage.PageBytes });
        using HandoffOwner owner = new(new HandoffOwnerOptions { Open = Requires.AnyKind });
        _ = owner.Add(new RamBlockSpec { Name = "ram", Memory = memory }, 0);
        owner.Register();
        GuestVcpus guest = new(memory, 2);
        guest.Start();
        using HandlerProcess wrong = HandlerProcess.Start("serve", "--socket", image.Socket, "--image", cut);
        wrong.WaitFor("listening");
        HandlerConnection connection = owner.Connect(image.Socket);
        Assert.Equal(1, wrong.WaitForExit());
        Assert.Contains("Block 'ram' of 262144 bytes begins at offset 0 of the image, which has 258048 bytes", wrong.Said, StringComparison.Ordinal);
        Assert.Contains(await connection.Ended.WaitAsync(Deadline.Default), new[] { HandlerEnd.Closed, HandlerEnd.Died });
        Assert.Equal(64 * TestImage.PageBytes, owner.MissingBytes);

        using HandlerProcess right = HandlerProcess.Start("serve", "--socket", image.Socket, "--image", image.Image, "--fill");
        await owner.KeepServedAsync(_ => new(image.Socket), TestContext.Current.CancellationToken).WaitAsync(Deadline.Default);
        guest.Stop(right.Said);
        owner.Complete();
        Assert.Equal(0, right.WaitForExit());
    });

    [Theory(Timeout = Limit)]
    [InlineData("--socket", "serve", "--image", "x")]
    [InlineData("--workers", "serve", "--socket", "s", "--image", "x", "--workers", "0")]
    public async Task AWrongOptionIsNamed(string expected, params string[] arguments) => await Task.Run(() =>
    {
        using HandlerProcess handler = HandlerProcess.Start(arguments);
        Assert.Equal(2, handler.WaitForExit());
        Assert.Contains(expected, handler.Said, StringComparison.Ordinal);
    });

    [Fact(Timeout = Limit)]
    public async Task TheHandlerEndsQuietlyWhenItsOwnerDies() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        using TestImage image = new(1024);
        using HandlerProcess handler = HandlerProcess.Start("serve", "--socket", image.Socket, "--image", image.Image);
        handler.WaitFor("listening");
        using ChildProcess owner = ChildProcess.Start(OwnAndWait, image.Socket);
        Assert.Equal("served", owner.ReadLine());
        owner.Kill();
        Assert.Equal(0, handler.WaitForExit());
        Assert.Contains("ended: OwnerGone", handler.Said, StringComparison.Ordinal);
    });

    /// <summary>A VMM that has one page served and then waits on another thread for pages for ever.</summary>
    private static void OwnAndWait(ChildScenario child)
    {
        GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = 1024 * TestImage.PageBytes });
        HandoffOwner owner = new(new HandoffOwnerOptions { Open = Requires.AnyKind });
        _ = owner.Add(new RamBlockSpec { Name = "ram", Memory = memory }, 0);
        owner.Register();
        _ = owner.Connect(child.Arguments[0]);
        byte[] page = new byte[TestImage.PageBytes];
        memory.Read(0, page);
        GuestVcpus guest = new(memory, 2) { Window = 512 };
        guest.Start();
        child.Say("served");
        _ = child.Hear();
    }
}
