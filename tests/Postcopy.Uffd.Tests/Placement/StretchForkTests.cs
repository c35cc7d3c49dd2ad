using System.Diagnostics;
using System.Runtime.InteropServices;
using Postcopy.Uffd.Interop;
using Postcopy.Uffd.Tests.Destination;
using Postcopy.Uffd.Tests.Infrastructure;
using Postcopy.Uffd.Tests.Interop;

namespace Postcopy.Uffd.Tests.Placement;

/// <summary>A page that a child has shared is busy for ever (hazard H43). Alone in the process: a fork shares everybody's pages.</summary>
[Collection(TimedTests.Name)]
public sealed class StretchForkTests
{
    private const int Limit = 60_000;
    private const int PerStretch = 512;

    [Fact(Timeout = Limit)]
    public async Task StagingIsNotInheritedByAFork() => await Task.Run(() =>
    {
        using StretchBench bench = new(2);
        using StagingWindow window = bench.Placer.CreateWindow();
        bench.Stream(window, 0, 100);

        Fork();

        bench.Stream(window, 100, PerStretch - 100);
        Assert.True(window.Flush().IsReceived);
        Assert.Equal(1, bench.Placer.Statistics.StretchesMoved);
        bench.AssertContent(0, PerStretch);
    });

    [Fact(Timeout = Limit)]
    public async Task StagingThatAForkHasSharedIsGoodAgainWhenItIsRenewed() => await Task.Run(() =>
    {
        using StretchBench bench = new(1);
        using HugeStaging staging = new();
        Assert.True(staging.TryBack());
        Assert.Equal(0, Libc.madvise(staging.Address, (nuint)StretchBench.Bytes, Libc.MADV_DOFORK));

        Fork();

        Assert.Equal(UffdOutcome.SourceBusy, bench.Arena.Uffd.Move(bench.Arena.Page(0), staging.Address, (nuint)StretchBench.Bytes).Outcome);
        staging.Renew();
        Assert.True(staging.TryBack());
        Assert.True(bench.Arena.Uffd.Move(bench.Arena.Page(0), staging.Address, (nuint)StretchBench.Bytes).IsDone);
        Assert.True(bench.IsHuge(0));
    });

    /// <summary>A child that shares our memory for a moment; a page that it has seen stays busy after its end.</summary>
    private static void Fork()
    {
        Assert.SkipUnless(File.Exists(CHeaders.Compiler), "gcc is needed for a fork without a runtime in the child: apt-get install gcc.");
        string folder = Directory.CreateTempSubdirectory("postcopy-fork-").FullName;
        try
        {
            string library = Path.Combine(folder, "fork.so");
            File.WriteAllText(Path.Combine(folder, "fork.c"), """
                #include <sys/wait.h>
                #include <unistd.h>
                int fork_once(void)
                {
                    pid_t child = fork();
                    if (child == 0)
                        _exit(0);
                    return child < 0 || waitpid(child, 0, 0) != child;
                }
                """);
            using Process compiler = Process.Start(CHeaders.Compiler, ["-shared", "-fPIC", "-o", library, Path.Combine(folder, "fork.c")]);
            compiler.WaitForExit();
            Assert.Equal(0, compiler.ExitCode);
            nint loaded = NativeLibrary.Load(library);
            unsafe
            {
                Assert.Equal(0, ((delegate* unmanaged<int>)NativeLibrary.GetExport(loaded, "fork_once"))());
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
