using System.Globalization;
using System.Reflection;
using System.Reflection.Emit;
using Postcopy.Uffd.Tests.Infrastructure;

namespace Postcopy.Uffd.Tests.Destination;

/// <summary>
/// Hazard H1: faults while the rest of the process allocates, collects, compiles, logs and throws; and what happens when
/// the one rule is broken. In child processes, because a failure freezes its process.
/// </summary>
public sealed class GcSafetyTests(ITestOutputHelper output)
{
    private const int Limit = 180_000;

    /// <summary>Seconds of each variant; the full run of 60 s is POSTCOPY_GC_SECONDS=60.</summary>
    private static int Seconds =>
        int.TryParse(Environment.GetEnvironmentVariable("POSTCOPY_GC_SECONDS"), CultureInfo.InvariantCulture, out int n) ? n : 2;

    [Theory(Timeout = Limit)]
    [InlineData("workstation, concurrent", "0", "1")]
    [InlineData("workstation, blocking", "0", "0")]
    [InlineData("server, concurrent", "1", "1")]
    public async Task AProcessFullOfCollectionsHangsNobody(string collector, string server, string concurrent) => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        Dictionary<string, string> runtime = new() { ["DOTNET_gcServer"] = server, ["DOTNET_gcConcurrent"] = concurrent };
        using ChildProcess child = ChildProcess.StartWith(GcSafetyScenario.Run, TimeSpan.FromSeconds(Seconds + 40), runtime, Seconds.ToString(CultureInfo.InvariantCulture));
        GcSafetyFigures seen = GcSafetyFigures.Parse(child.ReadLine());
        child.WaitForSuccess();
        output.WriteLine($"{collector}, {Seconds} s: {seen}");
        Assert.Equal(server == "1", seen.IsServer);
        Assert.Equal(0, seen.Wrong);
        Assert.Equal(0, seen.StuckFaults);
        Assert.True(seen.Faults > 100, $"Only {seen.Faults} faults.");
        Assert.True(seen.Collections > 10, $"Only {seen.Collections} collections.");
        Assert.True(seen.Compiled > 10 && seen.Thrown > 100 && seen.Logged > 10, "The other threads did nothing.");

        // What is left of the longest stall when the pauses that fell into it are taken off: the fault itself and the wait
        // for a processor among a dozen busy threads, tens of milliseconds. The limit leaves room for a busy machine.
        Assert.True(seen.LongestBeyondPauses < 3_000, $"A vCPU stood still for {seen.LongestBeyondPauses:0.0} ms beyond the collector's pauses: {seen}");
    });

    [Fact(Timeout = Limit)]
    public async Task AManagedTouchOfAMissingPageFreezesTheProcess() => await Task.Run(() =>
    {
        Requires.Userfaultfd();
        using ChildProcess child = ChildProcess.Start(TouchDangerously, TimeSpan.FromSeconds(30));
        Assert.Equal("ticking", child.ReadLine());
        while (true)
        {
            Task<string> line = Task.Run(child.ReadLine);
            if (!line.Wait(TimeSpan.FromSeconds(4)))
            {
                // Not one tick of a thread that ticks every 50 ms: the process is frozen for good.
                child.Kill();
                return;
            }

            Assert.NotEqual("survived", line.Result);
        }
    });

    /// <summary>No view of guest memory but the lease, which makes sure of its pages; everything else is a number or a copy.</summary>
    [Fact]
    public void NothingPublicHandsOutAViewOfMissingPages()
    {
        List<string> views = [];
        foreach (Type type in typeof(UffdHandle).Assembly.GetExportedTypes())
        {
            foreach (MemberInfo member in type.GetMembers(BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly))
            {
                Type? result = member switch
                {
                    MethodInfo { IsSpecialName: false } method => method.ReturnType,
                    PropertyInfo property => property.PropertyType,
                    FieldInfo field => field.FieldType,
                    _ => null,
                };
                if (result is not null && IsView(result))
                {
                    views.Add($"{type.Name}.{member.Name}");
                }
            }
        }

        // A new one belongs here only when its name makes a reviewer stop and it makes sure that the pages are there.
        Assert.Equal(["PresentLease.Span", "RamBlock.NameUtf8"], views.Order(StringComparer.Ordinal));
    }

    private static bool IsView(Type type) =>
        type.IsPointer || type.IsByRef || typeof(Stream).IsAssignableFrom(type) || type.FullName is "System.Buffers.MemoryHandle" ||
        (type.IsGenericType && type.GetGenericTypeDefinition().FullName is "System.Span`1" or "System.ReadOnlySpan`1" or "System.Memory`1"
            or "System.ReadOnlyMemory`1" or "System.Buffers.IMemoryOwner`1");

    /// <summary>
    /// One dereference of missing pages in a small optimised method (a dynamic method is optimised also in a debug build)
    /// while another thread collects. The page comes after 100 ms, from a managed thread.
    /// </summary>
    private static void TouchDangerously(ChildScenario child)
    {
        const int pages = 100;
        GuestMemory memory = GuestMemory.Allocate(new GuestMemoryOptions { Length = pages * 4096 });
        PostcopyDestination destination = new(new PostcopyOptions { Open = Requires.AnyKind });
        _ = destination.Blocks.Add(new RamBlockSpec { Name = "ram", Memory = memory });
        PageRequestQueue requests = new();
        destination.Advise();
        destination.Listen(requests);
        destination.Run();

        DynamicMethod method = new("Dereference", typeof(byte), [typeof(nint)]);
        ILGenerator il = method.GetILGenerator();
        il.Emit(OpCodes.Ldarg_0);
        il.Emit(OpCodes.Ldind_U1);
        il.Emit(OpCodes.Ret);
        Func<nint, byte> dereference = method.CreateDelegate<Func<nint, byte>>();

        using ManualResetEventSlim ticking = new();
        Background(() =>
        {
            while (requests.TryTake(Timeout.InfiniteTimeSpan, out PageRequest request))
            {
                Thread.Sleep(100);
                _ = destination.Placer.PlaceZero(request.Block, request.Offset, request.Length);
            }
        });
        Background(() =>
        {
            while (true)
            {
                GC.Collect();
                Thread.Sleep(1);
            }
        });
        Background(() =>
        {
            child.Say("ticking");
            ticking.Set();
            while (true)
            {
                Thread.Sleep(50);
                child.Say("tick");
            }
        });
        ticking.Wait();
        for (int page = 0; page < pages; page++)
        {
            _ = dereference((nint)memory.Address + (page * 4096));
        }

        child.Say("survived");
        TestLibc.exit_now(0);

        static void Background(ThreadStart work) => new Thread(work) { IsBackground = true }.Start();
    }
}
