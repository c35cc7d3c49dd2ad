using System.Globalization;
using System.Reflection.Emit;
using Postcopy.Uffd;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Handler.Tests;

/// <summary>
/// Hazard H1 with a handler outside: the owner breaks the one rule, its collector stands still with the thread that waits,
/// and the page comes all the same. GcSafetyTests has the same touch with the fault thread inside: frozen for good.
/// </summary>
public sealed class FrozenOwnerTests
{
    private const int Limit = 120_000;
    private const int Pages = 16;
    private const int SIGSTOP = 19;
    private const int SIGCONT = 18;

    [Fact(Timeout = Limit)]
    public async Task AnOwnerWhoseCollectorStandsStillIsServed() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        using TestImage image = new(Pages);
        using HandlerProcess handler = HandlerProcess.Start("serve", "--socket", image.Socket, "--image", image.Image);
        handler.WaitFor("listening");
        using ChildProcess owner = ChildProcess.Start(TouchDangerously, TimeSpan.FromSeconds(40), image.Socket);
        Assert.Equal("collecting", owner.ReadLine());

        // The page stays away for half a second, in which the owner collects, and so freezes.
        Assert.Equal(0, TestLibc.kill(handler.Id, SIGSTOP));
        owner.WriteLine("touch");
        Assert.False(Deadline.Reached(() => handler.HasExited, TimeSpan.FromMilliseconds(500)));
        Assert.Equal(0, TestLibc.kill(handler.Id, SIGCONT));
        string[] told = owner.ReadLine().Split(' ');
        owner.WaitForSuccess();
        Assert.Equal("survived", told[0]);
        Assert.Equal("0", told[1]);
        Assert.True(double.Parse(told[2], CultureInfo.InvariantCulture) >= 100, $"The longest collection took {told[2]} ms only: it did not wait for the page.");
        Assert.Equal(0, handler.WaitForExit());
    });

    private static void TouchDangerously(ChildScenario child)
    {
        GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = Pages * TestImage.PageBytes });
        HandoffOwner owner = new(new HandoffOwnerOptions { Open = Requires.AnyKind });
        _ = owner.Add(new RamBlockSpec { Name = "ram", Memory = memory }, 0);
        owner.Register();
        _ = owner.Connect(child.Arguments[0]);
        DynamicMethod method = new("Dereference", typeof(byte), [typeof(nint)]);
        ILGenerator il = method.GetILGenerator();
        il.Emit(OpCodes.Ldarg_0);
        il.Emit(OpCodes.Ldind_U1);
        il.Emit(OpCodes.Ret);
        Func<nint, byte> dereference = method.CreateDelegate<Func<nint, byte>>();
        bool stop = false;
        double longest = 0;
        Thread collector = new(() =>
        {
            while (!Volatile.Read(ref stop))
            {
                long start = System.Diagnostics.Stopwatch.GetTimestamp();
                GC.Collect();
                longest = Math.Max(longest, System.Diagnostics.Stopwatch.GetElapsedTime(start).TotalMilliseconds);
            }
        }) { IsBackground = true };
        collector.Start();
        child.Say("collecting");
        _ = child.Hear();
        int wrong = 0;
        byte[] expected = new byte[TestImage.PageBytes];
        for (int page = 0; page < Pages; page++)
        {
            TestImage.Fill(page, expected);
            wrong += dereference((nint)memory.Address + (page * TestImage.PageBytes)) == expected[0] ? 0 : 1;
        }

        Volatile.Write(ref stop, true);
        collector.Join();
        child.Say(string.Create(CultureInfo.InvariantCulture, $"survived {wrong} {longest:0.0}"));
        TestLibc.exit_now(0);
    }
}
